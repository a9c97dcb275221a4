# Every target sets itself up in a virtual environment of its own (VENV), from the versions pinned in constraints.txt;
# nothing but Python 3.11 or newer and make has to be there. Running it again installs nothing again.
#
#   make demo                               make test ARGS="-m 'not slow' tests/noise"
#   make test PYTHON=/path/to/python3.12    make test VENV=.venv-3.12

VENV ?= .venv
ARGS ?=
# Python for the environment: the first of the usual names that is new enough, unless PYTHON names one.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done)

RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR: # an environment whose making failed half-way
.PHONY: help demo claims align duel soak test coverage lint format types docs clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

demo: $(VENV)/installed-demo ## train a small model on an embedded text and let it write, about five minutes
	@echo "About five minutes on two free cores."
	$(RUN) examples/demo.py $(ARGS)

# Modules of examples/claims, and then other examples, with a --quick form that fails if a claim's direction doesn't hold.
CLAIMS ?= reversal in_context instructions scaling levers few_data

claims: $(VENV)/installed-demo ## reproduce the claims in short form; fails if one doesn't hold beyond its interval
	@run() { echo "== $$*"; OMP_NUM_THREADS=1 $(RUN) "$$@" --quick $(ARGS) || failed="$$failed $$*"; }; \
	  for claim in $(CLAIMS); do run -m examples.claims.$$claim; done; \
	  for claim in planning why_backpropagation; do run examples/$$claim.py; done; \
	  $(RUN) -m examples.claims.long_forms; \
	  [ -z "$$failed" ] || { echo "not reproduced:$$failed" >&2; exit 1; }

# Examples with a --quick form that fails if alignment or distillation doesn't go where it should.
ALIGN ?= preferences few_steps rewards

align: $(VENV)/installed-demo demo/model.ckpt ## learning from preferences and rewards, and few steps, in short form; fails as claims does
	@run() { echo "== $$*"; OMP_NUM_THREADS=1 $(RUN) "$$@" --quick $(ARGS) || failed="$$failed $$*"; }; \
	  for example in $(ALIGN); do run examples/$$example.py; done; \
	  [ -z "$$failed" ] || { echo "doesn't hold:$$failed" >&2; exit 1; }

demo/model.ckpt: | $(VENV)/installed-demo
	$(RUN) examples/demo.py

duel: $(VENV)/installed-demo ## what each decoding order costs in likelihood, on the model of make demo
	OMP_NUM_THREADS=1 $(RUN) examples/duel.py $(ARGS)

soak: $(VENV)/installed-dev ## try for long: killed runs, damaged inputs, chat templates, compositions, real cases
	OMP_NUM_THREADS=1 $(RUN) -m benchmarks.soak_all $(ARGS)

test: $(VENV)/installed-dev ## run the tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=auto --dist=loadfile $(ARGS)

coverage: $(VENV)/installed-dev ## run the tests, and say which lines they don't reach
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=auto --dist=loadfile --cov --cov-report=term $(ARGS)

lint: $(VENV)/installed-dev ## check style
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: $(VENV)/installed-dev ## mend style
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

types: $(VENV)/installed-dev ## check types
	$(RUN) -m mypy

docs: $(VENV)/installed-docs ## build the documentation into site/
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean: ## remove what builds and tools leave; keeps the environment and what training wrote
	rm -rf build dist site htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## as clean, and the environment too
	[ ! -f "$(VENV)/pyvenv.cfg" ] || rm -rf "$(VENV)"

# A stamp per extra: newer than the pins it was installed from, or it is installed again.
$(VENV)/installed-demo: $(PINS) | $(RUN)
	$(INSTALL) ".[demo]"
	@touch $@

$(VENV)/installed-dev: $(PINS) | $(RUN)
	$(INSTALL) ".[dev]"
	@touch $@

$(VENV)/installed-docs: $(PINS) | $(RUN)
	$(INSTALL) ".[docs]"
	@touch $@

$(RUN):
	@"$(PYTHON)" $(NEW_ENOUGH) 2>/dev/null || { \
	  echo "llada needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is $$("$(or $(PYTHON),python3)" --version 2>&1 || true)." >&2; \
	  echo "Install one, or say where it is: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version): about 1.5 GB with a CPU build of PyTorch, a minute or two."
	"$(PYTHON)" -m venv "$(VENV)"

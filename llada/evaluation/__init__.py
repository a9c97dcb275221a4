"""Evaluation like everybody's: the Language Model Evaluation Harness's tasks, and LLaDA's published protocols.

The names are loaded when they are first used, so that the protocols can be looked at without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_EXPORTS` loads, spelt out for editors and type checkers
    from llada.evaluation.evaluation_model import EvaluationModel, Pair, Question
    from llada.evaluation.harness import harness_model, register, run_tasks
    from llada.evaluation.protocols import PROTOCOLS, EndRule, Protocol

__all__ = [
    "PROTOCOLS",
    "EndRule",
    "EvaluationModel",
    "Pair",
    "Protocol",
    "Question",
    "harness_model",
    "register",
    "run_tasks",
]

_MODULES = {
    "evaluation_model": ("EvaluationModel", "Pair", "Question"),
    "harness": ("harness_model", "register", "run_tasks"),
    "protocols": ("PROTOCOLS", "EndRule", "Protocol"),
}
_EXPORTS = {name: f"llada.evaluation.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The loaded names and those still to be loaded."""
    return sorted({*globals(), *__all__})

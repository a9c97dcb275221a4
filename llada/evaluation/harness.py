"""A model for the Language Model Evaluation Harness (extra ``eval``), so that its tasks run on diffusion models.

    from llada.evaluation import EvaluationModel, run_tasks
    from llada.text import load

    results = run_tasks(EvaluationModel(load("model.ckpt")), ["arc_easy"], num_fewshot=0)

or, by the harness's own name, after `register`: ``lm_eval.simple_evaluate("llada", "checkpoint=model.ckpt", ...)``.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from llada.evaluation.adapter import Adapter
from llada.evaluation.evaluation_model import EvaluationModel
from llada.text import load

NAME = "llada"
"""Under which the harness knows the model after `register`."""


def _harness() -> Any:
    """The harness itself.

    Raises:
        ImportError: if it isn't installed.
    """
    try:
        import lm_eval
        import lm_eval.api.model
        import lm_eval.api.registry
        import lm_eval.tasks
        import lm_eval.utils
    except ImportError as error:
        raise ImportError("evaluation tasks need the package lm-eval: pip install 'llada[eval]'") from error
    return lm_eval


class _Created(Adapter):
    """An adapter that the harness can make by itself; `model_class` adds the harness's own base class."""

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
        """Load a checkpoint.

        Args:
            arg_dict: ``checkpoint``, further arguments of `llada.text.load`, ``bos`` of `llada.text.TextModel`, and
                arguments of `EvaluationModel`.
            additional_config: what the harness adds: ``batch_size`` and ``device``.

        Raises:
            ValueError: if there is no ``checkpoint``.
        """
        added = {name: value for name, value in (additional_config or {}).items() if value is not None}
        arguments: dict[str, Any] = added | arg_dict
        arguments.pop("max_batch_size", None)
        if "batch_size" in arguments:
            rows = arguments.pop("batch_size")
            # Nothing is measured for "auto" or "auto:4": the number of rows changes speed and memory alone.
            if not str(rows).startswith("auto"):
                arguments["rows_per_call"] = int(rows)
        loading = {name: arguments.pop(name, None) for name in ("checkpoint", "tokenizer", "device", "dtype")}
        if loading["checkpoint"] is None:
            raise ValueError("the model needs a checkpoint: model_args='checkpoint=FILE_OR_FOLDER'")
        text = load(loading["checkpoint"], loading["tokenizer"], loading["device"] or "auto", loading["dtype"])
        text = replace(text, bos=arguments.pop("bos", text.bos))
        return cls(EvaluationModel(text, **arguments))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """As `create_from_arg_obj`, from ``name=value,name=value``."""
        return cls.create_from_arg_obj(_harness().utils.simple_parse_args_string(arg_string), additional_config)


@cache
def model_class() -> Any:
    """The subclass of ``lm_eval.api.model.LM``.

    Raises:
        ImportError: if lm-eval isn't installed.
    """
    return type("LLaDAHarnessModel", (_Created, _harness().api.model.LM), {"__doc__": Adapter.__doc__})


def harness_model(model: EvaluationModel) -> Any:
    """The model that the harness's functions take.

    Args:
        model: does the work.
    """
    return model_class()(model)


def register() -> None:
    """Make the model known to the harness by `NAME`, with ``checkpoint=...`` among its arguments; as often as liked."""
    if NAME not in _harness().api.registry.model_registry:
        _harness().api.registry.register_model(NAME)(model_class())


def run_tasks(
    model: EvaluationModel,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run tasks of the harness.

    Args:
        model: does the work.
        tasks: names of tasks, groups or tags.
        include_path: folder with further tasks as YAML files.
        options: for ``lm_eval.simple_evaluate``, such as ``num_fewshot``, ``limit`` and ``apply_chat_template``.

    Returns:
        What the harness returns: ``["results"][task]`` has the scores, in the first process of a machine. And
        ``["notes"]``: what had to be cut, changed or left out, kind -> ``{"count": n, "examples": [names of rows]}``.
    """
    harness = _harness()
    run: Callable[..., dict[str, Any] | None] = harness.simple_evaluate
    if options.get("confirm_run_unsafe_code"):
        os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")  # the metric's own question, which has been answered
    manager, adapter = _tasks(include_path, tasks), harness_model(model)
    found = run(adapter, tasks=list(tasks), task_manager=manager, **options)
    return (found or {"results": {}}) | {"notes": adapter.notes.report()}


def _tasks(include_path: str | None, wanted: Sequence[str]) -> Any:
    """The harness's index of tasks; it reads some ten thousand files, which is left out where nothing asks for them."""
    manager = _harness().tasks.TaskManager
    if include_path is not None:
        own = manager(include_path=include_path, include_defaults=False)
        if set(wanted) <= {*own.all_tasks}:
            return own
    return manager(include_path=include_path)

"""A model for the Language Model Evaluation Harness (extra ``eval``), so that its tasks run on diffusion models.

    from llada.evaluation import EvaluationModel, run_tasks
    from llada.text import load

    results = run_tasks(EvaluationModel(load("model.ckpt")), ["arc_easy"], num_fewshot=0)

or, by the harness's own name, after `register`: ``lm_eval.simple_evaluate("llada", "checkpoint=model.ckpt", ...)``.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import track

from llada.data import Message
from llada.evaluation.evaluation_model import EvaluationModel, Question
from llada.text import load

NAME = "llada"
"""Under which the harness knows the model after `register`."""
REQUESTS = 256
"""Requests that are scored at once: enough to sort by length, few enough to see progress."""
DEFAULT_LENGTH = 256
"""New tokens where neither the model nor the task says how many; the harness's own number."""


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


class _Requests:
    """Answers the questions that the harness asks of a model, by means of an `EvaluationModel`.

    `model_class` makes a subclass of this and of the harness's own base class.

    Args:
        model: does the work.
    """

    def __init__(self, model: EvaluationModel) -> None:
        super().__init__()
        self.model = model
        self._conversations: dict[str, list[int]] = {}

    cache_hook: Any

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
            arguments["rows_per_call"] = int(arguments.pop("batch_size"))
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

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations; those of one context share their masks."""
        model, seeds = self.model, dict[str, int]()
        pairs, seed = [], []
        for request in requests:
            context, continuation = request.args
            pairs.append(model.encode_pair(context, continuation, self._conversations.get(context)))
            seed.append(seeds.setdefault(context, len(seeds)))
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for start in _progress(range(0, len(order), REQUESTS), "likelihoods", disable_tqdm):
            chunk = order[start : start + REQUESTS]
            values = model.log_likelihoods([pairs[i] for i in chunk], [seed[i] for i in chunk])
            for index, value in zip(chunk, values, strict=True):
                found[index] = value
                self.cache_hook.add_partial("loglikelihood", requests[index].args, value)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts."""
        found = []
        for number, request in enumerate(_progress(requests, "texts", disable_tqdm)):
            windows = self.model.windows(request.args[0])
            values = self.model.log_likelihoods(windows, [number] * len(windows)) if windows else []
            found.append(sum(value for value, _ in values))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, up to the first of the texts that end them."""
        questions = [self._question(number, *request.args) for number, request in enumerate(requests)]
        answers = [""] * len(questions)
        for index, text in _progress(self.model.generate(questions), "answers", disable_tqdm, len(questions)):
            answers[index] = text
            self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return answers

    def _question(self, number: int, context: str, options: dict[str, Any]) -> Question:
        text = self.model.text
        if options.get("do_sample") and options.get("temperature", 1.0) and text.sampler is None:
            raise ValueError(
                "the task asks for random draws (do_sample) and the model decodes as it was saved to; say how to draw "
                "with a sampler, such as low_confidence(temperature=1.0)"
            )
        until = options.get("until") or []
        wanted = options.get("max_gen_toks", options.get("max_new_tokens", DEFAULT_LENGTH))
        ids = self._conversations.get(context)
        return Question(
            text.encode(context) if ids is None else ids,
            (until,) if isinstance(until, str) else tuple(until),
            self.model.num_new_tokens or int(wanted),
            number,
        )

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness's caches which tokens its requests were made for."""
        return self.model.text.tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, for the record."""
        text = self.model.text
        return str(text.template or getattr(text.tokenizer, "chat_template", None) or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the harness keeps it: readable, and known again when it comes back as a context.

        Its tokens are made from the messages, not from that text, which could forge special tokens.

        Raises:
            ValueError: if an answer has been begun, or there is no template.
        """
        if not add_generation_prompt:
            raise ValueError("an answer that the task has begun (gen_prefix) can't be continued under a chat template")
        tokenizer = self.model.text.tokenizer
        ids = self.model.text.encode_messages([Message(entry["role"], entry["content"]) for entry in chat_history])
        names = {token: name for name, token in tokenizer.special_tokens.items()}
        text = "".join(names.get(token) or tokenizer.decode([token]) for token in ids)
        self._conversations[text] = ids
        return text


def _progress(items: Iterable[Any], title: str, hidden: bool, total: int | None = None) -> Iterator[Any]:
    yield from track(items, title, total, console=Console(stderr=True), disable=hidden, transient=True)


@cache
def model_class() -> Any:
    """The subclass of ``lm_eval.api.model.LM``.

    Raises:
        ImportError: if lm-eval isn't installed.
    """
    return type("LLaDAHarnessModel", (_Requests, _harness().api.model.LM), {"__doc__": _Requests.__doc__})


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
        What the harness returns: ``["results"][task]`` has the scores.
    """
    harness = _harness()
    run: Callable[..., dict[str, Any]] = harness.simple_evaluate
    if options.get("confirm_run_unsafe_code"):
        os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")  # the metric's own question, which has been answered
    manager = _tasks(include_path, tasks)
    return run(harness_model(model), tasks=list(tasks), task_manager=manager, **options)


def _tasks(include_path: str | None, wanted: Sequence[str]) -> Any:
    """The harness's index of tasks; it reads some ten thousand files, which is left out where nothing asks for them."""
    manager = _harness().tasks.TaskManager
    if include_path is not None:
        own = manager(include_path=include_path, include_defaults=False)
        if set(wanted) <= {*own.all_tasks}:
            return own
    return manager(include_path=include_path)

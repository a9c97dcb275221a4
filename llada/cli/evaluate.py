"""``llada evaluate``: tasks of the Language Model Evaluation Harness (extra ``eval``).

    llada evaluate --preset llada-8b-base/gsm8k --dtype bfloat16
    llada evaluate model.ckpt --tasks arc_easy --tasks hellaswag --num_fewshot 0 --limit 100

A preset is one of LLaDA's published measurements, with its checkpoint, and prints the published score beside the
measured one; ``--preset list`` shows them all. What is given besides replaces the preset's own.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llada.cli.options import run
from llada.cli.released import name_positional
from llada.cli.text import expand_sampler, load
from llada.data import ChatTemplate
from llada.evaluation import PRESETS, Protocol, TextModel, harness
from llada.evaluation.scoring import Scoring
from llada.samplers import Sampler


def evaluate(
    checkpoint: str | None = None,
    tasks: list[str] | None = None,
    preset: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    num_new_tokens: int | None = None,
    sampler: Sampler | None = None,
    scoring: Scoring | None = None,
    rows_per_call: int = 8,
    check_greedy: bool = False,
    bos: bool | None = None,
    chat: bool = False,
    template: ChatTemplate | None = None,
    allow_code: bool = False,
    include_path: str | None = None,
    output: str | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Run tasks of the Language Model Evaluation Harness, or repeat a published measurement.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name; default: the preset's.
        tasks: task, group or tag of the harness.
        preset: a published measurement, such as llada-8b-base/gsm8k; list shows them.
        num_fewshot: examples in each prompt; default: the preset's, or the task's own.
        limit: of the questions per task, for a quick look.
        num_new_tokens: of an answer; default: the preset's, or as many as the task asks for.
        sampler: of answers: a preset such as low_confidence, or a class path; default: the preset's or the model's own.
        scoring: of given answers, as a class path; default: the preset's, or what fits the model.
        rows_per_call: rows per model call; changes speed and memory only.
        check_greedy: find out whether greedy decoding would give the answer, for tasks with such a metric.
        bos: whether contexts begin with BOS; default: yes, if the tokenizer has one, but not for presets.
        chat: put prompts through the chat template; presets know.
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        allow_code: let the harness run programs that the model wrote; on this machine, without a sandbox.
        include_path: folder with further tasks as YAML files.
        output: JSON file for the scores.
        seed: of masks and draws.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: of the weights, such as bfloat16; default: as they are stored.
    """
    if preset == "list":
        print(listing())
        return
    protocol = _protocol(preset)
    names = tasks or ([protocol.task] if protocol else [])
    path = checkpoint or (protocol.checkpoint if protocol else None)
    if not names or path is None:
        raise ValueError("give a checkpoint and --tasks, or a --preset (--preset list shows them)")
    if protocol and protocol.runs_code and not allow_code:
        raise ValueError(f"the task {protocol.task} runs programs that the model writes; allow that with --allow_code")
    if protocol:
        scoring = scoring or protocol.scoring(rows_per_call)
        sampler = sampler or protocol.sampler()
        num_new_tokens = num_new_tokens or protocol.num_new_tokens
        num_fewshot = protocol.num_fewshot if num_fewshot is None else num_fewshot
    begin = protocol is None if bos is None else bos
    loaded = load(path, tokenizer, device, dtype)
    found = harness.evaluate(
        TextModel(*loaded, scoring, sampler, num_new_tokens, rows_per_call, check_greedy, begin, seed),
        names,
        template=template,
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=chat or (protocol is not None and protocol.chat),
        confirm_run_unsafe_code=allow_code,
        log_samples=False,
    )["results"]
    print(shown(found, protocol))
    if output is not None:
        Path(output).write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")


def _protocol(preset: str | None) -> Protocol | None:
    if preset is None:
        return None
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[preset]


def listing() -> str:
    """The presets, one per line."""
    width = max(map(len, PRESETS))
    return "\n".join(
        f"{name:<{width}}  {entry.score:5.1f} %  {entry.task}" + ("" if entry.same_harness else " (by another toolkit)")
        for name, entry in PRESETS.items()
    )


def shown(found: dict[str, dict[str, Any]], protocol: Protocol | None) -> str:
    """The scores as text, and the published one.

    Args:
        found: what the harness measured, by task.
        protocol: of a preset.
    """
    lines = []
    for task, scores in found.items():
        for name, value in scores.items():
            metric, _, choice = name.partition(",")
            if not isinstance(value, float) or metric.endswith("_stderr"):
                continue
            error = scores.get(f"{metric}_stderr,{choice}")
            spread = f" +- {error:.4f}" if isinstance(error, float) else ""
            lines.append(f"{task}  {metric} ({choice})  {value:.4f}{spread}")
    if protocol is not None:
        where = "this harness" if protocol.same_harness else "another toolkit with other prompts"
        lines.append(f"published  {protocol.score / 100:.4f}, by {where}")
    return "\n".join(lines)


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    named = expand_sampler(name_positional(arguments, "checkpoint"))
    run(evaluate, command, named, repeatable=("tasks",), flags=("check_greedy", "chat", "allow_code"))

"""``llada evaluate``: tasks of the Language Model Evaluation Harness (extra ``eval``).

    llada evaluate --protocol llada-8b-base/gsm8k --dtype bfloat16
    llada evaluate model.ckpt --tasks arc_easy --tasks hellaswag --num_fewshot 0 --limit 100

A protocol is one of LLaDA's published measurements, with its checkpoint; the published score is printed beside the
measured one. ``--protocol list`` shows them all. What is given besides replaces the protocol's own settings.
Under torchrun the processes share the rows: ``torchrun --nproc-per-node 8 -m llada evaluate ...``.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges, changed
from llada.cli.devices import usable
from llada.cli.kinds import Checkpoint, InputFolder, OutputFile
from llada.cli.limits import MAX_TOKENS, check_total
from llada.cli.options import run
from llada.cli.protocols import LIST, check, listing
from llada.cli.protocols import protocol as protocol_of
from llada.data import ChatTemplate
from llada.evaluation import EvaluationModel, Protocol, harness
from llada.evaluation.record import record
from llada.files.atomic import write_bytes
from llada.metrics import ConditionalLikelihood, UnderSampler
from llada.samplers import Sampler
from llada.text import launched, load


def evaluate(
    checkpoint: Checkpoint | None = None,
    tasks: list[str] | None = None,
    protocol: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    num_new_tokens: int | None = None,
    sampler: Sampler | None = None,
    estimator: ConditionalLikelihood | None = None,
    likelihood: Literal["bound", "sampler"] = "bound",
    rows_per_call: int = 8,
    check_greedy: bool = False,
    score_end: bool = False,
    bos: bool | None = None,
    chat: bool = False,
    template: ChatTemplate | None = None,
    variables: dict[str, Any] | None = None,
    allow_code: bool = False,
    include_path: InputFolder | None = None,
    output: OutputFile | None = None,
    seed: int = 0,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
    max_tokens: int = MAX_TOKENS,
    gen_kwargs: str | None = None,
    strict: bool = False,
) -> None:
    """Run tasks of the Language Model Evaluation Harness, or repeat a published measurement.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name; default: the protocol's.
        tasks: task, group or tag of the harness.
        protocol: a published measurement, such as llada-8b-base/gsm8k; list shows them.
        num_fewshot: examples in each prompt; default: the protocol's, or the task's own.
        limit: largest number of questions per task, for a quick look; default: all.
        num_new_tokens: tokens to write per answer; default: the protocol's, or as many as the task asks for.
        sampler: how answers are written: a preset such as low_confidence, or a class path; default: the protocol's
            or the model's.
        estimator: how the likelihood of given answers is estimated, see `llada.metrics.ConditionalLikelihood`; default:
            the protocol's, or that class with its defaults. Autoregressive models are exact: only rows_per_call counts.
        likelihood: how given answers are scored: bound, by the estimator; sampler, by their probability under the
            sampler, which is exact where it has one (llada samplers says so).
        rows_per_call: rows per model call; changes speed and memory only.
        check_greedy: find out whether greedy decoding would give the answer, for tasks with such a metric.
        score_end: score the end of a given answer with it, for models that were fine-tuned on answers with an end.
        bos: whether contexts begin with BOS; default: the tokenizer's own rule, but never for protocols.
        chat: put prompts through the chat template; protocols know.
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        variables: what a template in Jinja sees besides, such as '{"enable_thinking": false}'.
        allow_code: let the harness run programs that the model wrote; on this machine, without a sandbox.
        include_path: folder with further tasks as YAML files.
        output: JSON file for the scores, and under "how" for all that says how they were measured.
        seed: random seed of the masks and of the drawn tokens.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
        max_tokens: tokens that one answer may be asked for, against a slip of the keyboard.
        gen_kwargs: what takes the place of the tasks' generation_kwargs, such as temperature=0.6,top_p=0.95.
        strict: let a row that doesn't fit, or can't be answered, end the evaluation; default: count and name them.
    """
    if protocol == LIST:
        print(listing())
        return
    if likelihood == "sampler" and estimator is not None:
        raise ValueError("--likelihood sampler scores under the sampler, an --estimator the bound; give one of them")
    chosen = protocol_of(protocol)
    check(chosen, bool(tasks), checkpoint is not None, allow_code)
    path = checkpoint or (chosen.checkpoint if chosen else "")  # one of them is there
    if chosen:
        estimator = estimator or chosen.estimator(rows_per_call)
        sampler = sampler or chosen.sampler()
        num_new_tokens = num_new_tokens or chosen.num_new_tokens
        num_fewshot = chosen.num_fewshot if num_fewshot is None else num_fewshot
    begin = False if bos is None and chosen is not None else bos
    check_total("the new tokens of an answer", num_new_tokens or 0, "max_tokens", max_tokens)
    _check_place(output)
    ranks = launched()
    text = load(path, tokenizer, usable(device), dtype, loading)
    text = changed(replace(text, template=template, sampler=sampler, bos=begin, variables=variables or {}), changes)
    estimator = UnderSampler(sampler=text.decoding) if likelihood == "sampler" else estimator
    model = EvaluationModel(
        text, estimator, num_new_tokens, rows_per_call, check_greedy, seed, strict, ranks, score_end
    )
    as_chat = chat or (chosen is not None and chosen.chat)
    found = harness.run_tasks(
        model,
        tasks or ([chosen.task] if chosen else []),
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=as_chat,
        confirm_run_unsafe_code=allow_code,
        log_samples=False,
        **({} if gen_kwargs is None else {"gen_kwargs": gen_kwargs}),
    )
    if ranks.first:
        _tell(found["results"], found["notes"], chosen)
        if output is not None:
            said = {"checkpoint": path, "protocol": protocol, "revision": loading.revision, "chat": as_chat}
            _keep(output, found, record(model, found, command=shlex.join(["llada", *sys.argv[1:]]), **said))


def _keep(output: str, found: dict[str, Any], how: dict[str, Any]) -> None:
    """Write the scores, what was noted of rows, and how all of it was measured."""
    content = found["results"] | ({"notes": found["notes"]} if found["notes"] else {}) | {"how": how}
    write_bytes(Path(output), (json.dumps(content, indent=2, default=str) + "\n").encode())


def _check_place(output: str | None) -> None:
    """Make the folder of the scores, before hours are spent on them."""
    if output is not None:
        if Path(output).is_dir():
            raise ValueError(f"{output} is a folder; --output is a file for the scores")
        Path(output).parent.mkdir(parents=True, exist_ok=True)


def _tell(scores: dict[str, Any], notes: dict[str, Any], chosen: Protocol | None) -> None:
    """Print the scores and what was noted of rows."""
    print(report(scores, chosen))
    print(*(f"{kind}: {entry['count']} row(s)" for kind, entry in notes.items()), sep="\n", end="\n" if notes else "")


def report(found: dict[str, dict[str, Any]], protocol: Protocol | None) -> str:
    """The scores as text, and the published one.

    Args:
        found: scores that the harness measured, by the name of the task.
        protocol: the published measurement that was repeated; None if there is none.
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
    run(evaluate, command, arguments)

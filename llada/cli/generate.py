"""``llada generate``: answer a file of prompts.

    llada generate LLaDA-8B-Instruct questions.jsonl answers.jsonl --batch_size 16 --num_new_tokens 256

Both are JSON Lines. A line of the input is ``{"prompt": "..."}``, which is continued as it stands, or ``{"messages":
[{"role": "user", "content": "..."}, ...]}``, which goes through the chat template, with ``"tools"`` if there are any;
an ``"id"`` may name it, or else its number from 0 does. A line of the output is ``{"id", "text", "num_tokens", "calls",
"seed"}``, with the question if ``--with_prompts`` is given.

Rows are computed in the order of their lengths, and an interrupted run goes on where it stopped. When all are there,
the file is put into the order of the questions. Row i has the seed
``seed + i``, so neither batches nor interruptions change what is written, up to the rounding of the model. Under
torchrun the processes share the rows, and the first one writes: ``torchrun --nproc-per-node 8 -m llada generate ...``.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges, changed
from llada.cli.devices import usable
from llada.cli.dialogue import answer_sampler, context_length, with_bos
from llada.cli.expression import MAX_STATES, matching
from llada.cli.kinds import Checkpoint, InputFile, InputFolder, OutputFile
from llada.cli.length import growing, most_tokens
from llada.cli.limits import MAX_TOKENS, check_length, check_total
from llada.cli.options import run
from llada.data import ChatTemplate, JsonLines
from llada.data.chat.conversations import read_messages, read_tools
from llada.files.atomic import write_bytes
from llada.files.json_object import parse_object
from llada.samplers import LengthPolicy, Sampler
from llada.text import TextModel, launched, load
from llada.training.callbacks.progress_lines import clock


class Row(NamedTuple):
    """A prompt to be answered, with the seed that belongs to its place in the file, and what was asked."""

    name: int | str
    seed: int
    ids: list[int]
    asked: dict[str, Any]


def generate(
    checkpoint: Checkpoint,
    input: InputFile,
    output: OutputFile,
    num_new_tokens: int = 128,
    batch_size: int = 8,
    sampler: Sampler | None = None,
    regex: str | None = None,
    template: ChatTemplate | None = None,
    variables: dict[str, Any] | None = None,
    ignore_fields: list[str] | None = None,
    bos: bool | None = None,
    seed: int = 0,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
    with_prompts: bool = False,
    regex_max_states: int = MAX_STATES,
    max_tokens: int = MAX_TOKENS,
    max_new_tokens: int | None = None,
    length: LengthPolicy | None = None,
) -> None:
    """Answer a file of prompts; run it again to go on after an interruption.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        input: JSON Lines file of objects with "prompt" or "messages", and an "id" if they have names.
        output: JSON Lines file that answers are added to, in the order of the questions when all are there; rows whose
            ids are in it are left out.
        num_new_tokens: tokens of an answer.
        batch_size: rows per model call; changes speed and memory only.
        sampler: how to decode: a preset such as low_confidence, or a class path; default: the model's own, or for a
            released checkpoint one token per call in blocks of 32 up to EOS.
        regex: regular expression that every answer matches as a whole; needs the extra llada[regex].
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        variables: what a template in Jinja sees besides, such as '{"enable_thinking": false}'.
        ignore_fields: entry of messages, or "tools", that is left out because the template doesn't write it.
        bos: whether rows begin with BOS; default: as the tokenizer, or for messages the template, has it.
        seed: random seed of the first row of the input; the next row gets the next number.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
        with_prompts: write the "prompt" or "messages" of each question into the line of its answer.
        regex_max_states: states that the automaton of the expression may have; bounds its time and memory.
        max_tokens: tokens that one answer may be asked for, against a slip of the keyboard.
        max_new_tokens: longest answer: masks are appended block by block until it ends; default: num_new_tokens,
            all of them there from the start.
        length: when masks come and go, as a class such as Daedal; default: blocks are appended until the text ends.
    """
    for name, value in (("num_new_tokens", num_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}")
    ranks = launched()
    text = load(checkpoint, tokenizer, usable(device), dtype, loading)
    text = with_bos(replace(text, template=template, variables=variables or {}), bos)
    most = most_tokens(num_new_tokens, max_new_tokens)
    check_length(text, "num_new_tokens" if max_new_tokens is None else "max_new_tokens", most)
    check_total("the new tokens of an answer", most, "max_tokens", max_tokens)
    rows = list(_rows(input, text, seed, ignore_fields or []))
    _check(rows, input, context_length(text, None), most)
    done = ranks.once(lambda: repair(Path(output)))
    _check_done(done, rows, output)
    left = sorted((row for row in rows if row.name not in done), key=lambda row: (len(row.ids), row.seed))
    text = replace(text, sampler=answer_sampler(sampler, checkpoint, text, most))
    text = matching(changed(text, changes), regex, text.stop_token_ids, regex_max_states)
    text = growing(text, max_new_tokens, length)
    batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    answers = ranks.share(batches, lambda batch: list(_answers(text, batch, num_new_tokens, with_prompts)))
    if not ranks.first:
        deque(answers, maxlen=0)  # computes its share; the first one writes
        return
    _write(Path(output), answers, len(rows), len(done))
    _sort(Path(output), rows)
    print(f"{len(left)} answers written to {output}" + (f", {len(done)} were there" if done else ""))


def _write(output: Path, answers: Iterable[list[dict[str, Any]]], total: int, there: int) -> None:
    """Add answers to the file as they come, and show how far it is."""
    shown = _with_bar if sys.stderr.isatty() else _with_lines
    with output.open("ab", buffering=0) as file:
        for entry in shown(chain.from_iterable(answers), total, there):
            append(file.fileno(), entry)


def _with_bar(entries: Iterable[dict[str, Any]], total: int, there: int) -> Iterator[dict[str, Any]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("answers", total=total, completed=there)
        for entry in entries:
            yield entry
            progress.advance(task)


def _with_lines(
    entries: Iterable[dict[str, Any]], total: int, there: int, seconds: float = 8.0
) -> Iterator[dict[str, Any]]:
    """A line every few seconds, where a bar can't be drawn."""
    begun = said = time.monotonic()
    for done, entry in enumerate(entries, start=1):
        yield entry
        now = time.monotonic()
        if now - said >= seconds:
            said, left = now, total - there - done
            rest = f", about {clock((now - begun) / done * left)} to go" if left else ""
            print(f"{there + done:,} of {total:,} answers{rest}", file=sys.stderr, flush=True)


def _sort(path: Path, rows: list[Row]) -> None:
    """Put the lines of a finished file into the order of the questions, as a whole or not at all."""
    there = repair(path)
    names = [row.name for row in rows]
    if list(there) != names:
        lost = sum(name not in there for name in names)
        if lost:
            raise ValueError(f"{path} lacks {lost} answers: another program changed it; run the command again for them")
        lines = [json.dumps(there[name], ensure_ascii=False) + "\n" for name in names]
        write_bytes(path, "".join(lines).encode())


def _rows(path: str, text: TextModel, seed: int, ignore_fields: list[str]) -> Iterator[Row]:
    for index, (where, record) in enumerate(JsonLines(path).records()):
        name = record.get("id", index)
        if isinstance(name, bool) or not isinstance(name, int | str):
            raise ValueError(f"{where}: an id must be a number or text; got {name!r}")
        if ("prompt" in record) == ("messages" in record):
            raise ValueError(f"{where}: there must be either a 'prompt' or 'messages'")
        try:
            asked: dict[str, Any] = {field: record[field] for field in ("prompt", "messages") if field in record}
            yield Row(name, seed + index, _encode(record, where, text, ignore_fields), asked)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(where) else f"{where}: {message}") from error


def _encode(record: dict[str, Any], where: str, text: TextModel, ignore_fields: list[str]) -> list[int]:
    if "prompt" in record:
        if not isinstance(record["prompt"], str):
            raise ValueError(f"{where}: field 'prompt' must be text; got {type(record['prompt']).__name__}")
        return text.encode(record["prompt"])
    tools = None if "tools" in ignore_fields else read_tools(record, "tools", where)
    return text.encode_messages(read_messages(record, "messages", where, ignore_fields), tools)


def _check(rows: list[Row], path: str, context: int | None, num_new_tokens: int) -> None:
    seen: set[int | str] = set()
    for row in rows:
        if row.name in seen:
            raise ValueError(f"{path}: the id {row.name!r} occurs twice; rows are told apart by it")
        seen.add(row.name)
        if context is not None and len(row.ids) + num_new_tokens > context:
            raise ValueError(
                f"{path}: row {row.name!r} has {len(row.ids)} tokens, which with {num_new_tokens} new ones is more "
                f"than the model's {context}; shorten it, or ask for fewer with --num_new_tokens"
            )


def _check_done(done: dict[int | str, dict[str, Any]], rows: list[Row], output: str) -> None:
    """Refuse to mix two runs in a file."""
    seeds = {row.name: row.seed for row in rows}
    for name, entry in done.items():
        if name not in seeds:
            raise ValueError(f"{output} has a row {name!r} that the input hasn't; it belongs to another input")
        if entry.get("seed") != seeds[name]:
            raise ValueError(
                f"{output} has row {name!r} with seed {entry.get('seed')}, but here it gets {seeds[name]}; give the "
                "seed and the input with which it was begun, or another output"
            )


def repair(path: Path) -> dict[int | str, dict[str, Any]]:
    """Read the rows of an output file by id, and cut off a last line that was not finished.

    Args:
        path: may be missing.

    Raises:
        ValueError: if another line is malformed.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = parse_object(line, f"{path}, line {number}")
            rows[entry["id"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: no answer with an 'id'; is it an output of this command?"
            ) from error
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return rows


def append(descriptor: int, entry: dict[str, Any]) -> None:
    """Add a line to a file in one piece, and wait until it is on the disk."""
    line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)


def _answers(text: TextModel, rows: list[Row], num_new_tokens: int, with_prompts: bool) -> Iterator[dict[str, Any]]:
    """Answer one batch."""
    made = text.canvas([row.ids for row in rows], num_new_tokens)
    filled = text.generate(made, text.seeds([row.seed for row in rows]))
    begin = made.tokens.shape[1] - num_new_tokens  # lengths may change behind it
    for index, (row, calls) in enumerate(zip(rows, filled.calls.tolist(), strict=True)):
        real = filled.attention_mask[index, begin:]
        ids = text.answer(filled.tokens[index, begin:][real].tolist())
        answer = text.tokenizer.decode(ids)
        asked = row.asked if with_prompts else {}
        yield {"id": row.name, **asked, "text": answer, "num_tokens": len(ids), "calls": calls, "seed": row.seed}


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(generate, command, arguments)

"""``llada sample``: write text, continue prompts, fill gaps."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path

from rich.console import Console

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges, changed
from llada.cli.devices import usable
from llada.cli.draft import drafting, with_draft
from llada.cli.expression import MAX_STATES, matching
from llada.cli.files import read_lines
from llada.cli.kinds import Checkpoint, InputFile, InputFolder, OutputFile
from llada.cli.length import growing, most_tokens
from llada.cli.limits import MAX_TOKENS, check_length, check_total, gap_tokens
from llada.cli.options import run
from llada.files.atomic import write_bytes
from llada.files.visible import visible
from llada.rows import count_before
from llada.samplers import Canvas, LengthPolicy, Sample, Sampler, Step, finish
from llada.text import TextModel, load
from llada.viewers import denoising_page, denoising_picture, watch


def sample(
    checkpoint: Checkpoint,
    prompt: list[str] | None = None,
    prompts_file: InputFile | None = None,
    infill: list[str] | None = None,
    num_samples: int = 1,
    num_new_tokens: int = 64,
    sampler: Sampler | None = None,
    regex: str | None = None,
    bos: bool | None = None,
    seed: int = 0,
    batch_size: int = 16,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    page: OutputFile | None = None,
    picture: OutputFile | None = None,
    show: bool = False,
    jsonl: bool = False,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
    overwrite: bool = False,
    regex_max_states: int = MAX_STATES,
    max_tokens: int = MAX_TOKENS,
    max_new_tokens: int | None = None,
    length: LengthPolicy | None = None,
    draft: str | None = None,
) -> None:
    """Write text with a trained model.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name.
        prompt: text to go on from; without any prompt, infill or file: one empty prompt.
        prompts_file: a text file with one prompt per line.
        infill: text with gaps, such as "the [MASK:4] of the sea", where [MASK:4] is four tokens to fill in.
        num_samples: samples per prompt.
        num_new_tokens: tokens to write behind each prompt.
        sampler: how to decode: a preset such as low_confidence, or a class path; default: the model's own.
        regex: regular expression that the text behind each prompt matches as a whole, or what fills the gaps of each
            template, from the first to the last; needs the extra llada[regex].
        bos: whether texts begin with BOS; default: as the tokenizer has it.
        seed: random seed of the first sample; the next sample gets the next number.
        batch_size: samples that are made at once; changes memory and speed only.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        page: HTML file to be written, which plays the first sample coming out of the masks.
        picture: SVG file to be written, an animation of the first sample coming out of the masks.
        show: draw each sample in place while it comes out of the masks, one at a time.
        jsonl: print one JSON object per sample instead of text.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
        overwrite: replace the files of page and picture if they are there.
        regex_max_states: states that the automaton of the expression may have; bounds its time and memory.
        max_tokens: tokens that may be asked for in all, against a slip of the keyboard.
        max_new_tokens: longest text behind a prompt: masks are appended block by block until it
            ends; default: num_new_tokens, all of them there from the start.
        length: when masks come and go, as a class such as Daedal; default: blocks are appended until the text ends.
        draft: text to be edited behind each prompt, by a sampler that can, such as LevenshteinSampler; masks follow it
            up to num_new_tokens.
    """
    for name, value in (("num_samples", num_samples), ("num_new_tokens", num_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}")
    for path in (page, picture):
        _check_place(path, overwrite)
    text = replace(load(checkpoint, tokenizer, usable(device), dtype, loading), sampler=sampler, bos=bos)
    text = drafting(changed(text, changes), draft, infill)
    pictures = {path: draw for path, draw in ((page, denoising_page), (picture, denoising_picture)) if path is not None}
    prompts = [*(prompt or []), *(read_lines(prompts_file) if prompts_file else [])] or [""] * (not infill)
    most = most_tokens(num_new_tokens, max_new_tokens)
    _check_sizes(text, len(prompts), infill or [], num_samples, most, max_tokens)
    kinds = (
        # An expression may be followed by the end of the text, but not in a gap.
        (
            growing(
                matching(text, regex if prompts else None, text.stop_token_ids, regex_max_states),
                max_new_tokens if prompts else None,
                length if prompts else None,
            ),
            [*map(text.encode, prompts)],
            num_new_tokens,
        ),
        (
            growing(
                matching(text, regex if infill else None, (), regex_max_states),
                max_new_tokens if infill and length is not None else None,  # nothing is appended behind a gap
                length if infill else None,
            ),
            [*map(text.encode_gaps, infill or [])],
            0,
        ),
    )
    for model, made in _canvases(kinds, num_samples, 1 if show else batch_size):
        made = with_draft(text, made, draft, num_new_tokens)
        steps: Iterable[Step] = model.steps(made, seed)
        if pictures:
            steps = _write_pictures(model, made, steps, pictures)
            pictures = {}
        _print(model, _follow(model, made, steps, show), seed, jsonl)
        seed += len(made.tokens)


def _canvases(
    kinds: Iterable[tuple[TextModel, list[list[int]], int]], num_samples: int, rows_at_once: int
) -> Iterator[tuple[TextModel, Canvas]]:
    """The batches of each kind: (model, prompts, new tokens) -> (model, canvas)."""
    for model, prompts, num_new_tokens in kinds:
        for rows in _batched(chain.from_iterable(repeat(prompts, num_samples)), rows_at_once):
            yield model, model.canvas(rows, num_new_tokens)


def _batched(rows: Iterable[list[int]], rows_at_once: int) -> Iterator[list[list[int]]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, rows_at_once)):
        yield batch


def _check_place(path: str | None, overwrite: bool) -> None:
    """Refuse a file that is there, since nobody asked for it to go, and a folder that isn't, before any work."""
    if path is None:
        return
    if not Path(path).name:
        raise ValueError(f"{path!r} is no name of a file; leave the option out, or name one")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path} is there already; name a file that isn't, or say --overwrite")
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} for {Path(path).name}")


def _check_sizes(
    text: TextModel, num_prompts: int, infill: Sequence[str], num_samples: int, num_new_tokens: int, max_tokens: int
) -> None:
    """Refuse what the model can't take, and what nobody means, before memory is taken for it."""
    gaps = gap_tokens(infill)
    for option, count in (("num_new_tokens", num_new_tokens * bool(num_prompts)), ("infill", gaps)):
        check_length(text, option, count)
    total = num_samples * (num_prompts * num_new_tokens + len(infill) * max(1, gaps))
    what = f"the new tokens of {num_samples} samples for each of {num_prompts + len(infill)} prompts"
    check_total(what, total, "max_tokens", max_tokens)


def _write_pictures(
    text: TextModel, made: Canvas, steps: Iterable[Step], pictures: Mapping[str, Callable[..., str]]
) -> list[Step]:
    """Write the pages and pictures of the first row, and give back the steps."""
    kept = list(steps)
    for path, draw in pictures.items():
        drawn = draw(kept, made.tokens, made.given, lambda token: text.tokenizer.decode([token]))
        write_bytes(Path(path), drawn.encode("utf-8"))
    return kept


def _follow(text: TextModel, made: Canvas, steps: Iterable[Step], show: bool) -> Sample:
    """Take the steps to their end, on the screen if wanted."""
    if show:
        kept: list[Step] = []
        watch(_noting(steps, kept), made.given, lambda token: text.tokenizer.decode([token]))
        steps = kept
    return finish(steps, made.tokens, made.given, made.attention_mask)


def _noting(steps: Iterable[Step], kept: list[Step]) -> Iterator[Step]:
    """The steps as they come, which are also put into a list."""
    for step in steps:
        kept.append(step)
        yield step


def _print(text: TextModel, filled: Sample, seed: int, jsonl: bool) -> None:
    """Show the samples, what was given in plain and what was written in colour, cut where the text ends."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for row in range(len(filled.tokens)):
        kept = filled.attention_mask[row]
        ids, old = filled.tokens[row][kept].tolist(), filled.given[row][kept].tolist()
        # A stop token in the prompt ends nothing.
        end = count_before(
            [-1 if before else token for token, before in zip(ids, old, strict=True)], text.stop_token_ids
        )
        calls, written = int(filled.calls[row]), int(filled.generated[row])
        if jsonl:
            entry = {
                "text": text.tokenizer.decode(ids[:end]),
                "generated": written,
                "calls": calls,
                "seed": seed + row,
            }
            print(json.dumps(entry, ensure_ascii=sys.stdout.isatty()))
            continue
        for piece, before in _runs(text, list(zip(ids, old, strict=True))[:end]):
            console.print(
                visible(piece) if console.is_terminal else piece,
                end="",
                markup=False,
                style=None if before else "green",
            )
        console.print(f"\n[dim]-- {calls} model calls for {written} tokens[/dim]")


def _runs(text: TextModel, pieces: list[tuple[int, bool]]) -> list[tuple[str, bool]]:
    """Neighbouring tokens of one origin, decoded together so that no character is torn."""
    runs: list[tuple[list[int], bool]] = []
    for token, old in pieces:
        if not runs or runs[-1][1] != old:
            runs.append(([], old))
        runs[-1][0].append(token)
    return [(text.tokenizer.decode(ids), old) for ids, old in runs]


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(sample, command, arguments)

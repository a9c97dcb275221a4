"""``llada sample``: write text, continue prompts, fill gaps."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from llada.cli.dialogue import stop_tokens
from llada.cli.expression import matching
from llada.cli.options import run
from llada.cli.released import name_positional
from llada.cli.text import Loaded, begin, expand_sampler, fill_template, load, read_lines
from llada.samplers import Canvas, Sample, Sampler, Step, canvas
from llada.viewers import denoising_page, denoising_picture, watch


def sample(
    checkpoint: str,
    prompt: list[str] | None = None,
    prompts_file: str | None = None,
    infill: list[str] | None = None,
    num_samples: int = 1,
    num_new_tokens: int = 64,
    sampler: Sampler | None = None,
    regex: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    tokenizer: str | None = None,
    device: str = "auto",
    page: str | None = None,
    picture: str | None = None,
    show: bool = False,
    jsonl: bool = False,
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
        seed: of the first sample; the next one has the next seed.
        batch_size: samples that are made at once; changes memory and speed only.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        page: HTML file to be written, which plays the first sample coming out of the masks.
        picture: SVG file to be written, an animation of the first sample coming out of the masks.
        show: draw each sample in place while it comes out of the masks, one at a time.
        jsonl: print one JSON object per sample instead of text.
    """
    for name, value in (("num_samples", num_samples), ("num_new_tokens", num_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}")
    loaded = load(checkpoint, tokenizer, device)
    pictures = {path: draw for path, draw in ((page, denoising_page), (picture, denoising_picture)) if path is not None}
    prompts = [*(prompt or []), *(read_lines(prompts_file) if prompts_file else [])]
    if not prompts and not infill:
        prompts = [""]
    templates, rows_at_once = (infill or []) * num_samples, 1 if show else batch_size
    for made, decoding in _jobs(loaded, prompts * num_samples, templates, num_new_tokens, rows_at_once, sampler, regex):
        steps: Iterable[Step] = loaded.model.iterate(*made, sampler=decoding, seed=seed)
        if pictures:
            steps = _write_pictures(loaded, made, steps, pictures)
            pictures = {}
        _print(loaded, made, _follow(loaded, made, steps, show), seed, jsonl)
        seed += len(made.tokens)


def _write_pictures(
    loaded: Loaded, made: Canvas, steps: Iterable[Step], pictures: Mapping[str, Callable[..., str]]
) -> list[Step]:
    """Write the pages and pictures of the first row, and give back the steps."""
    kept = list(steps)
    for path, draw in pictures.items():
        drawn = draw(kept, made.tokens, loaded.model.process, lambda token: loaded.tokenizer.decode([token]))
        Path(path).write_text(drawn, encoding="utf-8")
    return kept


def _follow(loaded: Loaded, made: Canvas, steps: Iterable[Step], show: bool) -> Sample:
    """Take the steps to their end, on the screen if wanted."""
    process, last = loaded.model.process, None
    if show:
        last = watch(steps, made.tokens, process, lambda token: loaded.tokenizer.decode([token]))
    else:
        for last in steps:  # noqa: B007 - the last one is wanted
            pass
    written = process.is_masked(made.tokens).sum(1)
    return Sample(made.tokens, written * 0, written) if last is None else Sample(last.tokens, last.calls, written)


def _jobs(
    loaded: Loaded,
    prompts: list[str],
    templates: list[str],
    num_new_tokens: int,
    batch_size: int,
    sampler: Sampler | None,
    regex: str | None,
) -> Iterator[tuple[Canvas, Sampler | None]]:
    """Canvases and how to decode them: an expression may be followed by the end of the text, but not in a gap."""
    kinds = (
        (
            [begin(loaded, loaded.tokenizer.encode(text)) for text in prompts],
            num_new_tokens,
            stop_tokens(loaded.tokenizer, None),
        ),
        ([begin(loaded, fill_template(text, loaded.tokenizer)) for text in templates], 0, ()),
    )
    for rows, length, end in kinds:
        decoding = matching(sampler, regex, loaded, end) if rows else None
        for start in range(0, len(rows), batch_size):
            yield _canvas(loaded, rows[start : start + batch_size], length), decoding


def _canvas(loaded: Loaded, rows: list[list[int]], num_new_tokens: int) -> Canvas:
    return canvas(
        rows,
        num_new_tokens,
        mask_token_id=loaded.model.process.mask_token_id,
        pad_token_id=loaded.tokenizer.special_id("pad"),
        device=loaded.model.device,
    )


def _print(loaded: Loaded, made: Canvas, filled: Sample, seed: int, jsonl: bool) -> None:
    """Show the samples, what was given in plain and what was written in colour, cut at the end of the document."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    eos = loaded.tokenizer.eos_token_id
    for row in range(len(filled.tokens)):
        given = ~loaded.model.process.is_masked(made.tokens[row])
        ids, kept = filled.tokens[row].tolist(), made.attention_mask[row].tolist()
        pieces = [(token, bool(old)) for token, old, real in zip(ids, given, kept, strict=True) if real]
        end = next((i for i, (token, old) in enumerate(pieces) if token == eos and not old), len(pieces))
        calls, written = int(filled.calls[row]), int(filled.generated[row])
        if jsonl:
            text = loaded.tokenizer.decode([token for token, _ in pieces[:end]])
            entry = {"text": text, "generated": written, "calls": calls, "seed": seed + row}
            print(json.dumps(entry, ensure_ascii=False))
            continue
        for text, old in _runs(loaded, pieces[:end]):
            console.print(text, end="", markup=False, style=None if old else "green")
        console.print(f"\n[dim]-- {calls} model calls for {written} tokens[/dim]")


def _runs(loaded: Loaded, pieces: list[tuple[int, bool]]) -> list[tuple[str, bool]]:
    """Neighbouring tokens of one origin, decoded together so that no character is torn."""
    runs: list[tuple[list[int], bool]] = []
    for token, old in pieces:
        if not runs or runs[-1][1] != old:
            runs.append(([], old))
        runs[-1][0].append(token)
    return [(loaded.tokenizer.decode(ids), old) for ids, old in runs]


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    named = expand_sampler(name_positional(arguments, "checkpoint"))
    run(sample, command, named, repeatable=("prompt", "infill"), flags=("show", "jsonl"))

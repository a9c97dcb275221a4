"""``llada sample``: write text, continue prompts, fill gaps."""

import json
from collections.abc import Sequence

from jsonargparse import auto_cli
from rich.console import Console

from llada.cli.text import Loaded, expand_sampler, fill_template, load, read_lines
from llada.samplers import Canvas, Sample, Sampler, canvas


def sample(
    checkpoint: str,
    prompt: list[str] | None = None,
    prompts_file: str | None = None,
    infill: list[str] | None = None,
    num_samples: int = 1,
    num_new_tokens: int = 64,
    sampler: Sampler | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
    device: str = "auto",
    jsonl: bool = False,
) -> None:
    """Write text with a trained model.

    Args:
        checkpoint: checkpoint file of the model.
        prompt: texts to go on from; without any prompt, infill or file: one empty prompt.
        prompts_file: a text file with one prompt per line.
        infill: texts with gaps, such as "the [MASK:4] of the sea": [MASK:4] is four tokens to fill in.
        num_samples: samples per prompt.
        num_new_tokens: tokens to write behind each prompt.
        sampler: how to decode: a preset such as low_confidence, or a class path; default: the model's own.
        seed: of the first sample; the next one has the next seed.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        jsonl: print one JSON object per sample instead of text.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be 1 or more; got {num_samples}")
    loaded = load(checkpoint, tokenizer, device)
    prompts = [*(prompt or []), *(read_lines(prompts_file) if prompts_file else [])]
    if not prompts and not infill:
        prompts = [""]
    if prompts:
        made = _continuations(loaded, prompts * num_samples, num_new_tokens)
        _print(loaded, made, loaded.model.generate(*made, sampler=sampler, seed=seed), jsonl)
    for text in (infill or []) * num_samples:
        ids = fill_template(text, loaded.tokenizer)
        made = _canvas(loaded, [_begin(loaded, ids)], 0)
        _print(loaded, made, loaded.model.generate(*made, sampler=sampler, seed=seed), jsonl)
        seed += 1


def _begin(loaded: Loaded, ids: list[int]) -> list[int]:
    """Documents begin with BOS, if the tokenizer has one."""
    return ids if loaded.tokenizer.bos_token_id is None else [loaded.tokenizer.bos_token_id, *ids]


def _continuations(loaded: Loaded, prompts: list[str], num_new_tokens: int) -> Canvas:
    if num_new_tokens < 1:
        raise ValueError(f"num_new_tokens must be 1 or more; got {num_new_tokens}")
    return _canvas(loaded, [_begin(loaded, loaded.tokenizer.encode(text)) for text in prompts], num_new_tokens)


def _canvas(loaded: Loaded, rows: list[list[int]], num_new_tokens: int) -> Canvas:
    return canvas(
        rows,
        num_new_tokens,
        mask_token_id=loaded.model.process.mask_token_id,
        pad_token_id=loaded.tokenizer.special_id("pad"),
        device=loaded.model.device,
    )


def _print(loaded: Loaded, made: Canvas, filled: Sample, jsonl: bool) -> None:
    """Show the samples, what was given in plain and what was written in colour, cut at the end of the document."""
    console = Console(highlight=False, soft_wrap=True)
    eos = loaded.tokenizer.eos_token_id
    for row in range(len(filled.tokens)):
        given = ~loaded.model.process.is_masked(made.tokens[row])
        ids, kept = filled.tokens[row].tolist(), made.attention_mask[row].tolist()
        pieces = [(token, bool(old)) for token, old, real in zip(ids, given, kept, strict=True) if real]
        end = next((i for i, (token, old) in enumerate(pieces) if token == eos and not old), len(pieces))
        calls = int(filled.calls[row])
        if jsonl:
            text = loaded.tokenizer.decode([token for token, _ in pieces[:end]])
            print(json.dumps({"text": text, "calls": calls, "tokens": int(filled.generated[row])}, ensure_ascii=False))
            continue
        for text, old in _runs(loaded, pieces[:end]):
            console.print(text, end="", markup=False, style=None if old else "green")
        console.print(f"\n[dim]-- {calls} model calls for {int(filled.generated[row])} tokens[/dim]")


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
    auto_cli(sample, args=expand_sampler(list(arguments)), prog=f"llada {command}")

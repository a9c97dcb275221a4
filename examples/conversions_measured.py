"""What examples/conversions.py measures of a model, and the tables that it writes.

The first token of a row is given; the numbers are of all others, in bits per byte.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llada.data import TextDataModule
from llada.module import DiffusionLM
from llada.objectives import NELBO, Blockwise, ExactCounts, NextTokens
from llada.random import RowRandom
from llada.samplers import DraftAndVerify, LeftToRight, PerStep, Proposal, UnmaskingSampler

DRAWS, PROMPT, GUESSES = 8, 16, 4
T_QUANTILE = {1: math.inf, 2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Of Student's t at 97.5%, for so many seeds."""


@torch.no_grad()
def measure(model: DiffusionLM, data: TextDataModule, number: int) -> dict[str, float]:
    """Bits per byte of held-out rows, and tokens per call where the model can verify its guesses.

    Args:
        model: trained.
        data: with its held-out part.
        number: of rows.
    """
    file = data.rows("val").file
    tokens = torch.as_tensor(file.tokens[:].astype("int64"))
    rows = tokens[: len(tokens) // data.max_length * data.max_length].view(-1, data.max_length)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:number]]
    to_bits = 1.0 / (math.log(2.0) * float(file.bytes_per_token) * (rows.shape[1] - 1) * len(rows))
    backbone: Any = model.backbone
    found = {"bound": to_bits * float(_bound(model, rows).sum()), "exact": to_bits * float(_exact(model, rows).sum())}
    if backbone.causal or backbone.shift:
        found["causal"] = to_bits * float(_causal(model, rows).sum())
    if backbone.shift and (backbone.causal or backbone.block_length):
        found |= speculation(model, rows)
    return found


def _bound(model: DiffusionLM, rows: Tensor) -> Tensor:
    """The mean of several draws of the bound that belongs to the model, nats of each row."""
    backbone: Any = model.backbone
    if backbone.causal and backbone.block_length is None:
        return _causal(model, rows)
    objective = NELBO(ExactCounts() if backbone.block_length is None else Blockwise())
    maskable = torch.ones_like(rows, dtype=torch.bool)
    maskable[:, 0] = False
    batch = {"tokens": rows, "maskable": maskable}
    draws = [
        objective(backbone, model.process, batch, random=RowRandom.from_seed(1000 * draw, len(rows))).nelbo
        for draw in range(DRAWS)
    ]
    return torch.stack(draws).mean(0)


def _exact(model: DiffusionLM, rows: Tensor) -> Tensor:
    """-log p of each row, in nats, written from left to right with one token per call."""
    if getattr(model.backbone, "causal", False):
        return _causal(model, rows)
    sampler = UnmaskingSampler(PerStep(1), LeftToRight(), proposal=Proposal(temperature=1.0))
    given = torch.zeros_like(rows, dtype=torch.bool)
    given[:, 0] = True
    return -sampler.likelihood(model.backbone, rows, model.process, given=given).log_likelihood


def _causal(model: DiffusionLM, rows: Tensor) -> Tensor:
    """-log p of each row under the causal pass of the weights, in nats."""
    backbone: Any = model.backbone
    was = backbone.causal
    backbone.causal = True
    try:
        return NELBO(NextTokens())(backbone, model.process, rows, random=RowRandom.from_seed(0, len(rows))).nelbo
    finally:
        backbone.causal = was


def speculation(model: DiffusionLM, rows: Tensor) -> dict[str, float]:
    """Tokens per call of self-speculation behind held-out prompts, and whether it writes the autoregressive text."""
    tokens = rows.clone()
    tokens[:, PROMPT:] = model.process.mask_token_id
    found: dict[str, float] = {}
    for temperature in (0.0, 1.0):
        sampler = DraftAndVerify(GUESSES, temperature)
        sample = model.generate(tokens, sampler=sampler, seed=1)
        found[f"tokens per call, {temperature:g}"] = float(sample.generated.sum() / sample.calls.sum())
        if temperature == 0.0:
            plain = model.generate(tokens, sampler=DraftAndVerify(0))
            found["rows with the autoregressive text"] = float((sample.tokens == plain.tokens).all(1).double().mean())
    return found


def report(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Both tables, in Markdown.

    Args:
        results: of every model, those of all seeds.
    """
    columns = ("bound", "exact", "causal")
    compared = ("bound", "exact")
    head = [*columns, *(f"{column}, less that from scratch" for column in compared)]
    lines = [f"| model | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for name, runs in results.items():
        cells = [interval([run[column] for run in runs]) if column in runs[0] else "" for column in columns]
        cells += [_difference(name, results, column) for column in compared]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| model | tokens per call, greedy | at temperature 1 | rows with the autoregressive text |"]
    lines.append("|---" * 4 + "|")
    names = ("tokens per call, 0", "tokens per call, 1", "rows with the autoregressive text")
    for name, runs in results.items():
        if names[0] in runs[0]:
            lines.append(f"| {name} | " + " | ".join(interval([run[key] for run in runs]) for key in names) + " |")
    return "\n".join(lines) + "\n"


def _difference(name: str, results: Mapping[str, Sequence[Mapping[str, float]]], column: str) -> str:
    """To the model from scratch of the same kind, seed by seed."""
    whole = name.partition(",")[0] in ("diffullama", "a2d")
    base = results.get("scratch, whole rows" if whole else "scratch, blocks")
    if base is None or name.startswith(("scratch", "next")):
        return ""
    return interval([run[column] - other[column] for run, other in zip(results[name], base, strict=True)], sign=True)


def interval(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean and 95% interval over seeds."""
    mean = sum(values) / len(values)
    shown = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    if len(values) < 2:
        return shown
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{shown} ± {T_QUANTILE[len(values)] * deviation / math.sqrt(len(values)):.3f}"

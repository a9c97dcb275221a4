"""Training of a 1B LLaDA at length 4096 in bfloat16: rows of one length, and mixed lengths, packed and padded.

Rates count real tokens. Operations are counted as usual for such comparisons: three times those of a forward pass with
the head at every token, though only masked tokens go through it here; attention is counted within documents.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu_card import Machine, Rates
from benchmarks.models import build_on
from benchmarks.results import Row
from llada.backbones import BidirectionalTransformer
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.training.flops import forward_flops


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        tokens: (B, L) int64.
        arguments: keywords of the objective, beside the noise.
        lengths: of the documents, real tokens only.
    """

    tokens: Tensor
    arguments: dict[str, Tensor]
    lengths: list[int]


def document_lengths(total: int, longest: int) -> list[int]:
    """Lengths that add up to a total: uniform from an eighth of the longest to the longest, the last one cut."""
    random = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < total:
        length = int(torch.randint(max(1, longest // 8), longest + 1, (), generator=random))
        lengths.append(min(length, total - sum(lengths)))
    return lengths


def full(rows: int, length: int, vocab_size: int, device: str) -> Batch:
    """Rows of one length."""
    return Batch(torch.randint(vocab_size - 1, (rows, length), device=device), {}, [length] * rows)


def packed(rows: int, length: int, vocab_size: int, device: str) -> Batch:
    """Documents of mixed lengths in full rows; one that crosses the end of a row is two, as in a token file."""
    segments, lengths = [], []
    for index, count in enumerate(document_lengths(rows * length, length)):
        segments += [index] * count
    ids = torch.tensor(segments, device=device).view(rows, length)
    for row in ids:
        lengths += torch.unique_consecutive(row, return_counts=True)[1].tolist()
    tokens = torch.randint(vocab_size - 1, (rows, length), device=device)
    return Batch(tokens, {"segment_ids": ids - ids[:, :1]}, lengths)


def padded(rows: int, length: int, vocab_size: int, device: str) -> Batch:
    """As many documents as there are rows, each padded to the length of a row."""
    lengths = document_lengths(2 * rows * length, length)[:rows]
    real = torch.arange(length, device=device) < torch.tensor(lengths, device=device)[:, None]
    tokens = torch.randint(vocab_size - 1, (rows, length), device=device)
    return Batch(tokens, {"attention_mask": real, "maskable": real}, lengths)


LAYOUTS: dict[str, Callable[[int, int, int, str], Batch]] = {
    "rows of one length": full,
    "mixed lengths, packed": packed,
    "mixed lengths, padded": padded,
}


def stepper(model: BidirectionalTransformer, batch: Batch, device: str) -> Callable[[], None]:
    """A training step in mixed bfloat16 with fused AdamW."""
    process, objective = MaskingProcess(model.vocab_size - 1), NELBO()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    rows = torch.arange(len(batch.tokens), device=device)
    random = RowRandom.for_step(0, 0, rows, len(rows))

    def step() -> None:
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            loss = objective(model, process, {"tokens": batch.tokens, **batch.arguments}, random=random).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def counted_flops(model: BidirectionalTransformer, lengths: list[int]) -> float:
    """Operations of a step by the usual count."""
    tokens = sum(lengths)
    return forward_flops(model).training(tokens, pairs=sum(length**2 for length in lengths), scored=tokens)


def compile_blocks(model: BidirectionalTransformer, machine: Machine) -> None:
    """Compile the layers, all with the same code, for any number of tokens."""
    model.compile(backend="inductor" if machine.is_cuda else "eager", dynamic=True)


def measure(machine: Machine, found: Rates, tiny: bool, attention: str | None, repeats: int) -> Iterator[Row]:
    """Lines of the table: every layout as it is, then those without padding compiled."""
    shape, length, sizes = ("tiny", 64, [2]) if tiny else ("LLaDA 1B", 4096, [8, 4, 2, 1])
    options: dict[str, Any] = {"num_layers": 1} if tiny else {}
    if attention is not None:
        options["attention"] = attention
    names = list(LAYOUTS)
    plan = [(name, False, shape) for name in names] + [(name, True, shape) for name in names[:2]]
    if not tiny:
        plan.append((names[0], True, "LLaDA 1B as published"))
    for name, compiled, shape in plan:
        layout = LAYOUTS[name]
        what = f"{name}{', compiled' if compiled else ''}{', width 5634' if 'published' in shape else ''}"
        if not machine.may(f"training, {what}", 1.5 if compiled else 0.7, 40):
            continue
        build = partial(_build, machine, compiled, shape, options)
        run = partial(_largest, machine, found, build, layout, length, sizes, repeats)
        line = machine.attempt(f"training, {what}", run)
        if line is not None:
            yield {"tiny training" if tiny else "1B training": what, **line}


def _build(machine: Machine, compiled: bool, shape: str, options: dict[str, Any]) -> BidirectionalTransformer:
    model = build_on(machine.device, torch.float32, shape, **options)
    if compiled:
        compile_blocks(model, machine)
    return model


def _largest(
    machine: Machine,
    found: Rates,
    build: Callable[[], Any],
    layout: Callable[..., Batch],
    length: int,
    sizes: list[int],
    repeats: int,
) -> Row | None:
    """A line for the largest batch that fits, with a model of its own that is gone before the next is made."""
    model = build()
    for rows in sizes:
        machine.forget_peak()
        try:
            batch = layout(rows, length, model.vocab_size, machine.device)
            seconds = machine.seconds(stepper(model, batch, machine.device), repeats, warm_up=2)
        except torch.OutOfMemoryError:
            model.zero_grad()
            continue
        rate, memory = counted_flops(model, batch.lengths) / seconds, machine.peak_gigabytes()
        return {
            "rows": rows,
            "ms per step": 1e3 * seconds,
            "tokens/s": sum(batch.lengths) / seconds,
            "MFU %": "" if found.peak is None else 100 * rate / found.peak,
            "% of own matmul": 100 * rate / found.matmul,
            "peak GB": "" if memory is None else memory,
        }
    machine.note(f"training with {layout.__name__} rows: not even one fits")
    return None

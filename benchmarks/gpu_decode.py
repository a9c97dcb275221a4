"""Decoding with an 8B-shaped model with random weights: a call by cache, and tokens per second, against the floor.

The floor of a call is the larger of its bytes at the card's copy rate and its operations at the card's matmul rate.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_card import Machine, Rates
from benchmarks.models import body_flops, build_on, head_flops, step_bytes
from benchmarks.results import Row
from llada.backbones import BidirectionalTransformer
from llada.backbones.graphs import CudaRecorder, EagerRecorder, GraphedBackbone
from llada.process import MaskingProcess
from llada.samplers import Blocks, DualCache, Quota, UnmaskingSampler

BATCHES, PER_STEP = (1, 5), (1, 2, 4, 8)


class Decoder:
    """A model, a canvas, and its calls.

    Args:
        machine: where.
        found: the card's rates.
        tiny: a small model instead.
    """

    def __init__(self, machine: Machine, found: Rates, tiny: bool) -> None:
        self.machine, self.rates = machine, found
        self.model = build_on(machine.device, torch.bfloat16, "tiny" if tiny else "LLaDA 8B").eval()
        self.graphed = GraphedBackbone(self.model, CudaRecorder() if machine.is_cuda else EagerRecorder())
        self.length, self.new, self.block = (64, 16, 8) if tiny else (1024, 256, 32)
        self.mask = self.model.vocab_size - 1

    def canvas(self, rows: int) -> Tensor:
        """Random prompts with masks behind them."""
        tokens = torch.randint(self.mask, (rows, self.length), device=self.machine.device)
        tokens[:, -self.new :] = self.mask
        return tokens

    def floor(self, rows: int, queries: int) -> float:
        """Seconds of a call over some columns that asks for a block's logits."""
        model, wanted = self.model, rows * min(queries, self.block)
        flops = body_flops(model, rows, queries, wanted, keys=self.length) + head_flops(model, wanted)
        return max(flops / self.rates.matmul, step_bytes(model, rows, self.length) / self.rates.copy)

    def calls(self, rows: int) -> dict[str, tuple[Callable[[], Tensor], int]]:
        """A call by cache, and how many columns it computes; all ask for the same block's logits."""
        tokens = self.canvas(rows)
        start = self.length // 2
        regions = {
            "prefix cache": slice(start, self.length),
            "dual cache": slice(start, start + self.block),
        }
        found = {"no cache": (self._call(self.model, tokens, None, start), self.length)}
        for name, region in regions.items():
            found[name] = self._call(self.model, tokens, region, start), region.stop - region.start
        found["dual cache, graph"] = self._call(self.graphed, tokens, regions["dual cache"], start), self.block
        return found

    def _call(
        self, model: BidirectionalTransformer | GraphedBackbone, tokens: Tensor, region: slice | None, start: int
    ) -> Callable[[], Tensor]:
        """Logits of the block that begins at ``start``."""
        rows, first = tokens.shape[0], 0 if region is None else region.start
        columns = self.length if region is None else region.stop - region.start
        block = torch.arange(start - first, start - first + self.block, device=tokens.device)
        select = (torch.arange(rows, device=tokens.device)[:, None] * columns + block).flatten()
        if region is None:
            return lambda: model.head(model.hidden(tokens, select=select))
        cache = model.new_cache(rows, self.length)
        model.hidden(tokens, cache=cache, region=slice(0, self.length))
        part = tokens[:, region]
        return lambda: model.head(model.hidden(part, select=select, cache=cache, region=region))

    def write(self, rows: int, per_step: int) -> Callable[[], Tensor]:
        """Fill a canvas with a fixed number of tokens per step."""
        sampler = UnmaskingSampler(Quota(self.new // per_step), window=Blocks(self.block), cache=DualCache())
        tokens = self.canvas(rows)
        return lambda: sampler(self.graphed, tokens, MaskingProcess(self.mask)).tokens

    def write_floor(self, rows: int, per_step: int) -> float:
        """Seconds for a canvas: each block begins with a pass over everything."""
        blocks, steps = self.new // self.block, self.block // per_step
        return blocks * (self.floor(rows, self.length) + (steps - 1) * self.floor(rows, self.block))


def check(decoder: Decoder) -> None:
    """All caches hold the same canvas, so all calls must give the same logits, up to the rounding of bfloat16.

    Rounding alone gave 2.2 % at 32 layers of width 512; what differs by 5 % is told, and measured all the same.
    """
    results = {name: call().float() for name, (call, _) in decoder.calls(1).items()}
    exact = results["no cache"]
    for name, logits in results.items():
        difference = float((logits - exact).norm() / exact.norm())
        if not difference < 0.05:
            decoder.machine.note(f"DOUBTFUL: {name} differs from no cache by {difference:.2g} of its logits")


@torch.no_grad()
def measure_calls(decoder: Decoder, repeats: int) -> Iterator[Row]:
    """Lines of the table of calls."""
    machine = decoder.machine
    machine.attempt("comparing the caches", lambda: check(decoder))
    for rows in BATCHES:
        for name, (call, queries) in (machine.attempt("calls", partial(decoder.calls, rows)) or {}).items():
            what = f"a call, {name}, batch {rows}"
            if not machine.may(what, 0.1, 2):
                continue
            seconds = machine.attempt(what, partial(machine.seconds, call, repeats, warm_up=3))
            if seconds is None:
                continue
            floor = decoder.floor(rows, queries)
            yield {
                "a call": name,
                "batch": rows,
                "ms": 1e3 * seconds,
                "floor ms": 1e3 * floor,
                "of floor": seconds / floor,
            }


@torch.no_grad()
def measure_writing(decoder: Decoder, repeats: int) -> Iterator[Row]:
    """Lines of the table of whole canvases."""
    for rows in BATCHES:
        for per_step in PER_STEP:
            machine, what = decoder.machine, f"writing, {per_step} per step, batch {rows}"
            if not machine.may(what, 0.5, 2):
                continue
            seconds = machine.attempt(what, partial(_seconds, decoder, rows, per_step, repeats))
            if seconds is None:
                continue
            tokens = rows * decoder.new
            yield {
                "tokens per step": per_step,
                "batch": rows,
                "tokens/s": tokens / seconds,
                "floor tokens/s": tokens / decoder.write_floor(rows, per_step),
                "of floor": seconds / decoder.write_floor(rows, per_step),
            }


def _seconds(decoder: Decoder, rows: int, per_step: int, repeats: int) -> float:
    return decoder.machine.seconds(decoder.write(rows, per_step), repeats)

"""What each cache saves and costs, on a chain whose pairs of neighbours have known probabilities.

    python examples/choosing_a_cache.py

Part of choosing_a_sampler.py, and runs alone in about two minutes on one core. The language is a Markov chain over rows
of 32 tokens from an alphabet of eight, which a small Transformer without convolution learns from samples. Then it
writes rows in random order at temperature 1, which samples from the model, once with every cache: in blocks of eight,
or on the whole canvas with the caches that choose tokens rather than columns. Measured are

- how far the frequencies of neighbouring pairs are from the chain's (total variation), where the model is the same in
  all lines, so that what is more than without a cache is the cache's error;
- bits per token of the rows under the chain itself, and their time;
- how many positions the layers computed for a row: what a cache is there to save.
"""

import math
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.cli.quiet import quiet
from llada.objectives import masked_mean
from llada.samplers import (
    Blocks,
    CachePolicy,
    DelayedCache,
    DualCache,
    IntervalCache,
    NoCache,
    PrefixCache,
    Proposal,
    Quota,
    RandomOrder,
    UnmaskingSampler,
    VicinityCache,
    WholeCanvas,
    Window,
)
from llada.training.lr_schedulers import WarmupCosine

ALPHABET, LENGTH, BLOCK, BATCH = 8, 32, 8, 64
WINDOWS: dict[str, Window] = {"blocks": Blocks(BLOCK), "whole": WholeCanvas()}
CACHES: list[tuple[str, str, CachePolicy]] = [
    ("blocks", "NoCache()", NoCache()),
    ("blocks", "PrefixCache()", PrefixCache()),
    ("blocks", "DualCache()", DualCache()),
    ("blocks", "VicinityCache(warm_up=1, radius=4)", VicinityCache(warm_up=1, radius=4)),
    ("whole", "NoCache()", NoCache()),
    ("whole", "DelayedCache()", DelayedCache()),
    ("whole", "DelayedCache(refresh=None)", DelayedCache(refresh=None)),
    ("whole", "IntervalCache(interval=4)", IntervalCache(interval=4)),
    ("whole", "IntervalCache()", IntervalCache()),
]


class Chain:
    """A stationary Markov chain."""

    def __init__(self, seed: int = 0) -> None:
        draws = np.random.default_rng(seed).dirichlet(np.full(ALPHABET, 0.4), size=ALPHABET)
        self.transition = torch.from_numpy(0.95 * draws + 0.05 / ALPHABET)
        self.start = torch.linalg.matrix_power(self.transition, 1000)[0]  # no longer depends on where it began
        self.pairs = self.start[:, None] * self.transition

    def sample(self, num_rows: int) -> Tensor:
        """(B, L) int64."""
        columns = [torch.multinomial(self.start.expand(num_rows, -1), 1)]
        for _ in range(LENGTH - 1):
            columns.append(torch.multinomial(self.transition[columns[-1][:, 0]], 1))
        return torch.cat(columns, 1)

    def distance(self, rows: Tensor) -> float:
        """Total variation between the frequencies of neighbouring pairs and their probabilities."""
        counts = (rows[:, :-1] * ALPHABET + rows[:, 1:]).flatten().bincount(minlength=ALPHABET**2).double()
        return float((counts / counts.sum() - self.pairs.flatten()).abs().sum() / 2)

    def bits(self, rows: Tensor) -> float:
        """Bits per token of the rows."""
        steps = self.transition[rows[:, :-1], rows[:, 1:]].log().sum(1)
        return float(-(self.start[rows[:, 0]].log() + steps).mean() / (math.log(2.0) * LENGTH))


class Line(NamedTuple):
    """A line of the table."""

    window: str
    cache: str
    distance: float
    bits: float
    calls: float
    positions: float
    seconds: float


class Counter:
    """Counts the positions per row that go through a model's attention, as a mean over its layers."""

    def __init__(self, model: BidirectionalTransformer) -> None:
        self.total = 0.0
        for block in model.blocks:
            query: nn.Module = block.attention.q_proj
            query.register_forward_hook(partial(self._count, 1.0 / len(model.blocks)))

    def _count(self, share: float, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.total += share * output.shape[1]


@quiet()
def train(chain: Chain, steps: int) -> DiffusionLM:
    """Fit a small Transformer to fresh samples."""
    model = DiffusionLM(
        BidirectionalTransformer(ALPHABET + 1, width=64, num_layers=3, num_heads=4),
        MaskingProcess(ALPHABET),
        objective=masked_mean(),
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        lr_scheduler=partial(WarmupCosine, warmup_steps=steps // 10, total_steps=steps, final_factor=0.0),
    )
    loader = DataLoader([{"tokens": row} for row in chain.sample(steps * BATCH)], batch_size=BATCH)
    silent: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, **silent).fit(model, loader)
    return model.eval()


def measure(steps: int, num_rows: int) -> tuple[list[Line], tuple[float, float]]:
    """A line for every cache and each of two budgets; distance and bits of as many rows of the chain itself."""
    torch.manual_seed(0)
    chain = Chain()
    model = train(chain, steps)
    counter, tokens, lines = Counter(model.backbone), torch.full((num_rows, LENGTH), ALPHABET), []
    for budget in (LENGTH, LENGTH // 2):
        for window, name, cache in CACHES:
            sampler = UnmaskingSampler(
                Quota(budget), RandomOrder(), proposal=Proposal(1.0), window=WINDOWS[window], cache=cache
            )
            counter.total, begin = 0.0, time.process_time()
            made = model.generate(tokens, sampler=sampler, seed=1)
            seconds, calls = time.process_time() - begin, float(made.calls.float().mean())
            quality = chain.distance(made.tokens), chain.bits(made.tokens)
            lines.append(Line(window, name, *quality, calls, counter.total, seconds))
            print(
                f"{window} {name:40} {quality[0]:.3f} {quality[1]:.3f} {counter.total:6.0f} {seconds:5.1f} s",
                flush=True,
            )
    truth = chain.sample(num_rows)
    return lines, (chain.distance(truth), chain.bits(truth))


def markdown(lines: list[Line], truth: tuple[float, float]) -> str:
    """The table."""
    rows = ["| window | cache | distance | bits per token | calls | positions computed | cpu s |"]
    rows += ["|---|---|---:|---:|---:|---:|---:|"]
    rows += [f"| | *as many rows of the chain itself* | {truth[0]:.3f} | {truth[1]:.3f} | | | |"]
    for x in lines:
        numbers = f"{x.distance:.3f} | {x.bits:.3f} | {x.calls:.0f} | {x.positions:.0f} | {x.seconds:.1f}"
        rows.append(f"| {x.window} | `{x.cache}` | {numbers} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print("\n" + markdown(*measure(steps=1000, num_rows=1000)))

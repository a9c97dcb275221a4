"""What a nat costs on text: runs of either model at a given compute, measured once and kept.

    runs = Runs(Text(folder), folder)
    point = runs.point(TWIN, Size(64, 2), 1e11, seed=0)     # trains, or reads what was measured before
    point.nats                                              # nats per token of the same held-out rows for every run

A run's learning rate falls to 0 at its end, so a compute is a run of its own and not a place on a longer one's way.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from examples.claims.flops import muon_flops, row_flops
from examples.claims.kept import Kept
from examples.claims.text import LENGTH, Text, without_bos
from examples.claims.text_models import DECODED_ROWS, ORDERS, decoded, nats_per_token, text_backbone
from examples.claims.twins import QUIET
from examples.demo_callbacks import WideningNoise
from llada import AutoregressiveLM, DiffusionLM, MaskingProcess
from llada.cli.quiet import quiet
from llada.denoiser import as_denoiser
from llada.objectives import NELBO, Blockwise, ComplementaryPairs, ExactCounts, masked_mean
from llada.random import RowRandom
from llada.training.lr_schedulers import WarmupCosine
from llada.training.muon import MuonAdamW


@dataclass(frozen=True)
class Size:
    """Width and number of layers; heads are 16 wide."""

    width: int
    num_layers: int


@dataclass(frozen=True)
class Arm:
    """A way to train: everything but size, compute and seed.

    Args:
        name: in tables, and in the file of what was measured.
        objective: what is minimised; None for the next-token twin.
        convolution: window of the short convolution; 0 for none.
        block_length: of the backbone; None for rows as a whole.
        muon: whether matrices are trained by Muon.
        rate: peak of the learning rate at width 64; others get it times sqrt(64 / width).
        rows: per step, before any are doubled.
        widening: interval of noise levels at first; it is (0, 1] from half of the steps on. None: fixed.
    """

    name: str
    objective: NELBO | None = field(default_factory=lambda: masked_mean(0.05, 0.8))
    convolution: int = 5
    block_length: int | None = None
    muon: bool = False
    rate: float = 1e-2
    rows: int = 4
    widening: tuple[float, float] | None = None

    def model(self, text: Text, size: Size, seed: int) -> DiffusionLM:
        """A fresh model."""
        backbone = text_backbone(
            text,
            size.width,
            size.num_layers,
            seed,
            twin=self.objective is None,
            convolution=self.convolution,
            block_length=self.block_length,
        )
        process = MaskingProcess(text.mask_token_id, predicts_mask=False)
        if self.objective is None:
            return AutoregressiveLM(backbone, process, seed=seed)
        bound = NELBO(ExactCounts() if self.block_length is None else Blockwise())
        return DiffusionLM(backbone, process, objective=self.objective, bound=bound, seed=seed)

    def step_flops(self, model: DiffusionLM) -> float:
        """Operations of a training step."""
        backbone: Any = model.backbone
        copies = 2 if self._in_pairs else 1
        step = copies * self.rows * row_flops(backbone, LENGTH, (LENGTH - 1) * self._scored_share(model))
        return step + (muon_flops(backbone) if self.muon else 0.0)

    @property
    def _in_pairs(self) -> bool:
        return self.objective is not None and isinstance(self.objective.design, ComplementaryPairs)

    def _scored_share(self, model: DiffusionLM) -> float:
        """Of the tokens of a row, on average over the run; measured by masking, without a model's answers."""
        if self.objective is None:
            return 1.0
        if self._in_pairs:
            return 0.5 + 0.5 / (LENGTH - 1)
        rows, random = torch.zeros(512, LENGTH - 1, dtype=torch.long), RowRandom.from_seed(0, 512)
        draw = self.objective.design(as_denoiser(model.backbone), model.process, {"tokens": rows}, random=random)
        share = float(draw.scored.sum()) / rows.numel()
        # Over the first half of a widening run the mean level lies midway between the first and the last interval's.
        return share if self.widening is None else 0.25 * sum(self.widening) / 2 + 0.75 * 0.5


@dataclass(frozen=True)
class Point:
    """What a run cost and gave.

    Args:
        flops: of the training.
        steps: of the optimiser.
        parameters: of the model.
        seconds: of the processor.
        stopping: nats per token of other held-out rows, by which settings may be chosen.
        nats: (rows,) per token of the held-out rows: exact for the twin, the bound's estimate for diffusion.
        decoded: order -> (rows,) exact nats per token of the first of them, where that was asked for.
    """

    flops: float
    steps: int
    parameters: int
    seconds: float
    stopping: float
    nats: list[float]
    decoded: dict[str, list[float]]


COST = ["runs", "operations", "processor seconds"]


class Runs:
    """Trains what hasn't been measured yet, and keeps what was in a file, so that a stopped run goes on.

    Args:
        text: what is read.
        folder: of the file ``text_runs.jsonl``.
        draws: of the noise per held-out row.
        jobs: runs at a time.
    """

    def __init__(self, text: Text, folder: Path, draws: int = 4, jobs: int = 1) -> None:
        self.text, self.draws, self.jobs = text, draws, jobs
        self.kept = Kept(folder / "text_runs.jsonl", Point)

    def fill(self, wanted: Iterable[tuple[Arm, Size, float, int]], decode: bool = False) -> None:
        """Measure what isn't known, several at a time; arguments as of `point`."""
        runs = {self._key(*each, decode): partial(self._measure, *each, decode) for each in wanted}
        self.kept.fill(runs, self.jobs)

    def point(self, arm: Arm, size: Size, flops: float, seed: int, decode: bool = False) -> Point:
        """Measure a run.

        Args:
            arm: the recipe.
            size: of the model.
            flops: about so many operations, of whole steps.
            seed: of weights, order of the rows and noise.
            decode: whether a diffusion model's exact likelihoods of decoding are measured, too.
        """
        measure = partial(self._measure, arm, size, flops, seed, decode)
        return self.kept.get(self._key(arm, size, flops, seed, decode), measure)

    def _key(self, arm: Arm, size: Size, flops: float, seed: int, decode: bool) -> str:
        return f"{replace(arm, name='')!r} {size!r} {flops:.4g} {seed} {self.draws} {decode}"

    def cost(self) -> list[object]:
        """Number of runs that were asked for, their operations, and the seconds they took when they were measured."""
        points = self.kept.used.values()
        return [len(points), f"{sum(p.flops for p in points):.2g}", round(sum(p.seconds for p in points))]

    def nats(self, arm: Arm, size: Size, flops: float, seeds: list[int]) -> np.ndarray:
        """(seeds, rows)."""
        self.fill((arm, size, flops, seed) for seed in seeds)
        return np.array([self.point(arm, size, flops, seed).nats for seed in seeds])

    def _measure(self, arm: Arm, size: Size, flops: float, seed: int, decode: bool) -> Point:
        started = time.process_time()
        model = arm.model(self.text, size, seed)
        cost = arm.step_flops(model)
        steps = max(2, round(flops / cost))
        self._fit(model, arm, arm.rate * (64.0 / size.width) ** 0.5, steps, seed)
        nats = nats_per_token(model.eval(), self.text.held_out, self.draws)
        stopping = float(nats_per_token(model, self.text.stopping, draws=1).mean())
        orders = ORDERS if decode and arm.objective is not None else {}
        if arm.block_length is not None:  # it has never been asked for another order
            orders = {name: order for name, order in orders.items() if name == "left to right"}
        some = self.text.held_out[:DECODED_ROWS]
        exact = {name: decoded(model, some, order) for name, order in orders.items()}
        point = Point(
            flops=steps * cost,
            steps=steps,
            parameters=sum(p.numel() for p in model.parameters()),
            seconds=round(time.process_time() - started, 2),
            stopping=round(stopping, 5),
            nats=[round(n, 5) for n in nats.tolist()],
            decoded=exact,
        )
        settings = f"{size.width} x {size.num_layers}, rate {arm.rate:g}, {arm.rows} rows, {flops:.3g} operations"
        found = f"{steps} steps, {float(nats.mean()):.3f} nats, {point.seconds:.0f} s"
        print(f"  {arm.name}, {settings}, seed {seed}: {found}", flush=True)
        return point

    @quiet()
    def _fit(self, model: DiffusionLM, arm: Arm, rate: float, steps: int, seed: int) -> None:
        optimizer: Any = MuonAdamW if arm.muon else torch.optim.AdamW
        model.optimizer = partial(optimizer, lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        model.lr_scheduler = partial(WarmupCosine, warmup_steps=steps // 20, total_steps=steps, final_factor=0.0)
        callbacks: list[Callback] = []
        if arm.widening is not None:
            callbacks.append(WideningNoise(*arm.widening, steps=max(1, steps // 2)))
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=1,
            gradient_clip_val=1.0,
            enable_checkpointing=False,
            callbacks=callbacks,
            **QUIET,
        )
        trainer.fit(model, DataLoader(list(self._batches(arm.rows, steps, seed)), batch_size=None))  # type: ignore[arg-type]

    def _batches(self, rows: int, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.text.train), generator=torch.Generator().manual_seed(seed))
        places = torch.arange(steps * rows) % len(order)
        for chosen in order[places].view(steps, rows):
            yield {"tokens": self.text.train[chosen], "maskable": without_bos(self.text.train[chosen])}

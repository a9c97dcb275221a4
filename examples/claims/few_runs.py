"""Runs of either model over the same few rows, again and again until it stops improving; measured once and kept.

    runs = FewRuns(Text(folder), folder)
    run = runs.run(Setting(twin=True, tokens=10_000, dropout=0.3), seed=0)
    run.best, run.stopping, run.looks, run.nats

A run ends, and its best weights and settings are chosen, by held-out rows that no result is told of (`Text.stopping`).
What it reached is measured on `Text.held_out`: exactly for the twin, and for diffusion as the bound's estimate and as
the exact likelihood of decoding one token per call.
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.claims.flops import row_flops
from examples.claims.kept import Kept
from examples.claims.regularised import Regulariser, regularise
from examples.claims.text import LENGTH, Text, without_bos
from examples.claims.text_models import DECODED_ROWS, ORDERS, decoded, nats_per_token, text_backbone
from examples.claims.until import CAPPED, Batches, Looks, Patience, train
from llada import AutoregressiveLM, DiffusionLM, MaskingProcess
from llada.objectives import NELBO, ExactCounts, masked_mean
from llada.training.lr_schedulers import WarmupStableDecay

BATCH, WARMUP = 16, 30
T_MIN, T_MAX = 0.05, 0.8
STOPPING_ROWS, DRAWS = 96, 4


@dataclass(frozen=True)
class Setting:
    """Everything but the seed.

    Args:
        twin: whether it is the next-token model.
        tokens: unique ones that are trained on.
        width: D; heads are 16 wide.
        num_layers: blocks.
        rate: of learning, constant after a warm-up.
        weight_decay: of AdamW, on matrices.
        dropout: see `Regulariser`.
        hidden: see `Regulariser`.
    """

    twin: bool
    tokens: int
    width: int = 32
    num_layers: int = 1
    rate: float = 6e-3
    weight_decay: float = 0.01
    dropout: float = 0.0
    hidden: float = 0.0

    def model(self, text: Text, seed: int) -> DiffusionLM:
        """A fresh model."""
        backbone = text_backbone(text, self.width, self.num_layers, seed, twin=self.twin)
        regularise(backbone, Regulariser(self.dropout, self.hidden, text.mask_token_id))
        process = MaskingProcess(text.mask_token_id, predicts_mask=False)
        options: dict[str, Any] = {
            "optimizer": partial(
                torch.optim.AdamW, lr=self.rate, betas=(0.9, 0.95), weight_decay=self.weight_decay, fused=True
            ),
            "lr_scheduler": partial(WarmupStableDecay, warmup_steps=WARMUP, stable_steps=10**9, decay_steps=0),
            "seed": seed,
        }
        if self.twin:
            return AutoregressiveLM(backbone, process, **options)
        return DiffusionLM(
            backbone, process, objective=masked_mean(T_MIN, T_MAX), bound=NELBO(ExactCounts()), **options
        )

    def rows(self, text: Text, seed: int) -> Tensor:
        """The unique rows, another draw for every seed and the same for both models, (N, L)."""
        order = torch.randperm(len(text.train), generator=torch.Generator().manual_seed(seed))
        return text.train[order[: round(self.tokens / (LENGTH - 1))]]

    def epoch_flops(self, model: DiffusionLM, rows: int) -> float:
        """Training operations of a pass."""
        scored = (LENGTH - 1) * (1.0 if self.twin else (T_MIN + T_MAX) / 2)
        backbone: Any = model.backbone
        return rows * row_flops(backbone, LENGTH, scored)


@dataclass(frozen=True)
class Run:
    """What a run gave.

    Attributes:
        epochs: at the best look.
        flops: of training up to the best look.
        all_flops: up to the end.
        ended: why it ended.
        stopping: nats per token at the best look, on the rows for stopping.
        parameters: of the model.
        seconds: of the processor, looks included.
        looks: (epochs, operations, nats per token on the rows for stopping) of each.
        nats: (rows,) per token of the held-out rows; empty for runs of a search.
        decoded: order -> (rows,) exact nats per token of the first of them; empty likewise, and for the twin.
    """

    epochs: int
    flops: float
    all_flops: float
    ended: str
    stopping: float
    parameters: int
    seconds: float
    looks: list[tuple[int, float, float]]
    nats: list[float]
    decoded: dict[str, list[float]]


class FewRuns:
    """Trains what hasn't been measured yet, and keeps what was in a file, so that a stopped experiment goes on.

    Args:
        text: what is read.
        folder: of ``few_runs.jsonl``, and of the run that is under way.
        patience: of a search.
        longer: of the runs that are told; None: the same.
        jobs: runs at a time.
    """

    def __init__(
        self, text: Text, folder: Path, patience: Patience, longer: Patience | None = None, jobs: int = 1
    ) -> None:
        self.text, self.folder, self.patience, self.jobs = text, folder, patience, jobs
        self.longer = longer or patience
        self.kept = Kept(folder / "few_runs.jsonl", Run)

    def fill(self, wanted: Iterable[tuple[Setting, int]], final: bool) -> None:
        """Measure what isn't known, several at a time; arguments as of `run`."""
        runs = {self._key(*each, final): partial(self._measure, *each, final) for each in wanted}
        self.kept.fill(runs, self.jobs)

    def run(self, setting: Setting, seed: int, final: bool = False) -> Run:
        """A run, from the file if it is there.

        Args:
            setting: of model and training.
            seed: of weights, rows, their order and noise.
            final: measure it on the held-out rows, too, and by decoding.
        """
        return self.kept.get(self._key(setting, seed, final), partial(self._measure, setting, seed, final))

    def _key(self, setting: Setting, seed: int, final: bool) -> str:
        short, long = (f"{setting!r} {patience!r} {seed} {final}" for patience in (self.patience, self.longer))
        known = self.kept.known.get(short)
        by_itself = known is not None and known.ended != CAPPED  # then a later cap changes nothing
        return short if by_itself or not final else long

    def _measure(self, setting: Setting, seed: int, final: bool) -> Run:
        started = time.process_time()
        model, rows = setting.model(self.text, seed), setting.rows(self.text, seed)
        cost = setting.epoch_flops(model, len(rows))
        unfinished = self.folder / f"unfinished-{_name(setting)}-{seed}"
        patience = self.longer if final else self.patience
        curve = train(model, epochs(rows, seed), Looks(self._stopping, patience, unfinished, seed))
        model.eval()
        nats = nats_per_token(model, self.text.held_out, DRAWS).tolist() if final else []
        orders = ORDERS if final and not setting.twin else {}
        some = self.text.held_out[:DECODED_ROWS]
        run = Run(
            epochs=curve.best.epoch,
            flops=cost * curve.best.epoch,
            all_flops=cost * curve.looks[-1].epoch,
            ended=curve.ended,
            stopping=round(curve.best.value, 5),
            parameters=sum(p.numel() for p in model.parameters()),
            seconds=round(curve.looks[-1].seconds, 2),
            looks=[(look.epoch, cost * look.epoch, round(look.value, 4)) for look in curve.looks],
            nats=[round(n, 5) for n in nats],
            decoded={name: decoded(model, some, order) for name, order in orders.items()},
        )
        shutil.rmtree(unfinished)
        print(
            f"  {_name(setting)} seed {seed}: best after {run.epochs} epochs, {run.stopping:.3f} nats, {run.ended}; "
            f"{time.process_time() - started:.0f} s",
            flush=True,
        )
        return run

    def _stopping(self, model: DiffusionLM) -> float:
        return float(nats_per_token(model, self.text.stopping[:STOPPING_ROWS], draws=1).mean())


def epochs(rows: Tensor, seed: int) -> Batches:
    """Passes over the rows, each in an order of its own."""

    def batches(epoch: int) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        groups = torch.randperm(len(rows), generator=generator).split(BATCH)
        return [{"tokens": rows[group], "maskable": without_bos(rows[group])} for group in groups]

    return batches


def _name(setting: Setting) -> str:
    """Short, for a line and a folder."""
    values = [f"{value:g}" for value in list(asdict(setting).values())[1:]]
    return "-".join(["twin" if setting.twin else "diffusion", *values])

"""Few steps: what distillation makes of the demo's model, from 64 calls to 8 (docs/training.md, "Fewer steps").

    python examples/few_steps.py --checkpoint demo/model.ckpt            # all students; not timed as a whole yet
    python examples/few_steps.py --checkpoint demo/model.ckpt --quick    # about 75 s of processor time: one student

Three students begin with the demo's weights and learn for as many steps on the same rows:
- along the trajectory: `TrajectoryDistillation` for the spread order, eight tokens per call;
- more training: the demo's own loss, so that what is gained by training alone is known;
- through time: `SelfDistillation` (SDTT), four of the teacher's steps in one of the student's eight.

Of each stand the exact nats per token of held-out text under samplers of 8 calls, and the entropy of the tokens of its
own texts. Tokens that are written together are drawn independently, so no training brings a sampler below its floor,
the mean of what such tokens would have told about each other; what is asked is how near 8 calls come to 64. Exit status
1: the trajectory's student in 8 calls isn't, beyond a 95 % interval, within 0.02 bits per byte of its teacher in 64, or
the entropy of its texts differs by more than 2 %.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from demo import build_data
from lightning.pytorch import Trainer
from torch import Tensor

from llada.cli.quiet import quiet
from llada.data import TextDataModule
from llada.module import DiffusionLM
from llada.objectives import Objective, SelfDistillation, TrajectoryDistillation, masked_mean
from llada.samplers import (
    Comb,
    LeftToRight,
    Margin,
    PerStep,
    Proposal,
    RandomOrder,
    Spread,
    Tied,
    UnmaskingSampler,
)
from llada.text import load
from llada.training.callbacks import FrozenReference
from llada.training.lr_schedulers import WarmupCosine

DRAWN = Proposal(temperature=1.0)
ONE_BY_ONE = "spread, 64 calls"
IN_64 = {
    ONE_BY_ONE: UnmaskingSampler(PerStep(1), Spread(), proposal=DRAWN),
    "left to right, 64 calls": UnmaskingSampler(PerStep(1), LeftToRight(), proposal=DRAWN),
}
SPREAD = "spread, 8 calls"
IN_EIGHT = {
    SPREAD: UnmaskingSampler(PerStep(8), Spread(), proposal=DRAWN),
    "comb, 8 calls": UnmaskingSampler(Tied(), Comb(Margin(), 8), proposal=DRAWN),
    "random order, 8 calls (bound)": UnmaskingSampler(PerStep(8), RandomOrder(), proposal=DRAWN),
}
TEACHER, TRAJECTORY = "teacher", "along the trajectory"
STUDENTS: dict[str, Callable[[], Objective]] = {
    TRAJECTORY: lambda: TrajectoryDistillation(tokens_per_step=8, teacher_tokens=4, label_share=0.5),
    "more training": lambda: masked_mean(t_min=0.05, t_max=0.8),
    "through time": lambda: SelfDistillation(num_steps=8, teacher_steps=4),
}


class Plan(NamedTuple):
    """How much of everything."""

    steps: int
    rows: int
    texts: int
    rate: float = 3e-4


FULL, QUICK = Plan(160, 64, 64), Plan(60, 24, 32)


class Line(NamedTuple):
    """A model under a sampler: nats per token of each row, (R,), and the entropy of each of its texts, (T,) in bits."""

    model: str
    sampler: str
    nats: Tensor
    entropy: Tensor | None = None


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def interval(values: Tensor) -> Interval:
    """Of independent values, (N,)."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


@quiet()
def learn(teacher: DiffusionLM, objective: Objective, data: TextDataModule, plan: Plan) -> DiffusionLM:
    """A student, which begins as its teacher."""
    torch.manual_seed(0)
    student = DiffusionLM(
        deepcopy(teacher.backbone),
        teacher.process,
        objective=objective,
        optimizer=partial(torch.optim.AdamW, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.01),
        lr_scheduler=partial(WarmupCosine, warmup_steps=plan.steps // 10, total_steps=plan.steps, final_factor=0.0),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=plan.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[FrozenReference()] if hasattr(objective, "reference") else [],
    )
    trainer.fit(student, data)
    return student.eval()


@torch.no_grad()
def nats_per_token(model: DiffusionLM, rows: Tensor, sampler: UnmaskingSampler) -> Tensor:
    """Of every row, (R,) float64."""
    found = [sampler.likelihood(model.backbone, part, model.process, seed=i) for i, part in enumerate(rows.split(32))]
    return -torch.cat([one.log_likelihood for one in found]) / rows.shape[1]


@torch.no_grad()
def entropies(model: DiffusionLM, sampler: UnmaskingSampler, count: int, length: int) -> Tensor:
    """Entropy of the tokens of each of its texts, in bits, (T,) float64."""
    canvas = torch.full((count, length), model.process.mask_token_id)
    texts = torch.cat(
        [sampler(model.backbone, part, model.process, seed=100 + i).tokens for i, part in enumerate(canvas.split(32))]
    )
    shares = [row.unique(return_counts=True)[1].double() / length for row in texts]
    return torch.stack([-(share * share.log2()).sum() for share in shares])


def held_out(data: TextDataModule, count: int) -> Tensor:
    """Rows of the held-out chapters, by chance, (R, 64)."""
    tokens = torch.as_tensor(data.rows("val").file.tokens[:].astype("int64"))
    rows = tokens[: len(tokens) // data.max_length * data.max_length].view(-1, data.max_length)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]


def measure(teacher: DiffusionLM, data: TextDataModule, plan: Plan, quick: bool) -> list[Line]:
    """The teacher in 8 calls and in 64, and the students in 8."""
    rows = held_out(data, plan.rows)
    length, lines = rows.shape[1], list[Line]()

    def add(name: str, model: DiffusionLM, samplers: dict[str, UnmaskingSampler]) -> None:
        for label, sampler in samplers.items():
            looked_at = sampler.order == Spread()
            texts = entropies(model, sampler, plan.texts, length) if looked_at else None
            lines.append(Line(name, label, nats_per_token(model, rows, sampler), texts))
            print(row_of(lines[-1], lines), flush=True)

    in_eight = {SPREAD: IN_EIGHT[SPREAD]} if quick else IN_EIGHT
    add(TEACHER, teacher, in_eight)
    for name, objective in STUDENTS.items():
        if not quick or name == TRAJECTORY:
            begin = time.process_time()
            student = learn(teacher, objective(), data, plan)
            print(f"{name}: {plan.steps} steps in {time.process_time() - begin:.0f} s of processor time", flush=True)
            add(name, student, in_eight)
    add(TEACHER, teacher, {ONE_BY_ONE: IN_64[ONE_BY_ONE]} if quick else IN_64)
    return lines


def of(lines: list[Line], model: str, sampler: str) -> Line:
    """A line by its names."""
    return next(line for line in lines if (line.model, line.sampler) == (model, sampler))


def row_of(line: Line, lines: list[Line]) -> str:
    """A row of the table: nats per token, and the difference to the teacher under the same sampler."""
    mean = interval(line.nats)
    before = of(lines, TEACHER, line.sampler)
    change = "" if before is line else str(interval(line.nats - before.nats))
    entropy = "" if line.entropy is None else f"{interval(line.entropy).mean:.3f}"
    half = mean.high - mean.mean
    return f"| {line.model} | {line.sampler} | {mean.mean:.3f} ± {half:.3f} | {change} | {entropy} |"


def markdown(lines: list[Line]) -> str:
    """The table."""
    head = [
        "| model | sampler | nats per token | change by learning (95 %) | entropy of its texts, bits |",
        "|---|---|---:|---:|---:|",
    ]
    return "\n".join([*head, *(row_of(line, lines) for line in lines)]) + "\n"


def claims(lines: list[Line], bytes_per_token: float) -> dict[str, bool]:
    """What has to hold, as sentences, and whether it does."""
    after, slow = of(lines, TRAJECTORY, SPREAD), of(lines, TEACHER, ONE_BY_ONE)
    assert after.entropy is not None
    assert slow.entropy is not None
    to_bits = 1.0 / (bytes_per_token * math.log(2.0))
    cost, ratio = interval((after.nats - slow.nats) * to_bits), float(after.entropy.mean() / slow.entropy.mean())
    return {
        f"the student in 8 calls is {cost} bits per byte from its teacher in 64": cost.high <= 0.02,
        f"the entropy of its texts is {ratio:.4f} of the teacher's in 64 calls": abs(ratio - 1.0) <= 0.02,
    }


def main(checkpoint: Path, out: Path | None, quick: bool) -> int:
    """Measure, write, judge."""
    begin = time.process_time()
    data = build_data(checkpoint.parent)
    data.prepare_data()
    data.setup("fit")
    teacher = load(str(checkpoint), device="cpu").model.eval()
    lines = measure(teacher, data, QUICK if quick else FULL, quick)
    table = markdown(lines)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "few_steps.md").write_text(table, encoding="utf-8")
    found = claims(lines, float(data.rows("val").file.bytes_per_token))
    print(f"\n{table}\n" + "\n".join(f"{'holds' if held else 'FAILS'}: {name}" for name, held in found.items()))
    print(f"{time.process_time() - begin:.0f} s of processor time")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/model.ckpt"), help="of examples/demo.py")
    parser.add_argument("--out", type=Path, help="where the table goes")
    parser.add_argument("--quick", action="store_true", help="one student, fewer steps and rows")
    given = parser.parse_args()
    sys.exit(main(given.checkpoint, given.out, given.quick))

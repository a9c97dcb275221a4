"""What Lightning's loop adds to a training step.

The same module, batches, noise, clipping and optimiser, once in `Trainer.fit` and once in a bare loop, with a model so
small that the loop shows. The weights must be equal at the end. The time that the Trainer needs to set itself up isn't
counted, only what lies between the start and the end of training. "Quiet" has no logger, progress bar or checkpoints;
"as users run it" has the progress bar and a CSV logger.
"""

import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks.models import build
from benchmarks.results import Goal, Plot, Result, Row, finish, must_equal, options, parse
from llada.module import TRAINING, DiffusionLM
from llada.process import MaskingProcess
from llada.random import RowRandom

STEP, GOAL = 0.050, 0.02
Seconds = tuple[float, float]


class Clock(Callback):
    """Process time and wall time between the start and the end of training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.start = time.process_time(), time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds: Seconds = (time.process_time() - self.start[0], time.perf_counter() - self.start[1])


def module() -> DiffusionLM:
    """A model whose step takes about two milliseconds."""
    return DiffusionLM(build(64, 16, 1), MaskingProcess(63))


def batches(steps: int) -> DataLoader[Any]:
    """The same small batch, again and again."""
    batch = {"tokens": torch.randint(63, (2, 16), generator=torch.Generator().manual_seed(1))}
    return DataLoader([batch] * steps, batch_size=None)  # type: ignore[arg-type]


def bare(model: DiffusionLM, steps: int) -> Seconds:
    """What a user without Lightning would write."""
    optimizer = model.configure_optimizers()
    model.train()
    start = time.process_time(), time.perf_counter()
    for step, batch in enumerate(batches(steps)):
        tokens = batch["tokens"]
        random = RowRandom.for_step(model.seed, step, torch.arange(len(tokens)), len(tokens)).fold_in(TRAINING)
        loss = model.objective(model.backbone, model.process, tokens, random=random).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def fit(model: DiffusionLM, steps: int, quiet: bool) -> Seconds:
    """The same in `Trainer.fit`."""
    clock = Clock()
    silent = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            trainer = Trainer(
                max_steps=steps,
                gradient_clip_val=1.0,
                logger=False if quiet else CSVLogger(folder),
                enable_progress_bar=not quiet,
                callbacks=[clock],
                **silent,
            )
            trainer.fit(model, batches(steps))
    return clock.seconds


SIDES: dict[str, Callable[[DiffusionLM, int], Seconds]] = {
    "bare loop": bare,
    "Trainer, quiet": lambda model, steps: fit(model, steps, quiet=True),
    "Trainer, as users run it": lambda model, steps: fit(model, steps, quiet=False),
}


def check(steps: int) -> None:
    """Both loops must end with the same weights."""
    models = [module(), module()]
    bare(models[0], steps)
    fit(models[1], steps, quiet=True)
    ours, theirs = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    must_equal("the weights after training", float((ours - theirs).abs().max()), 1e-6)


def measure(steps: int, rounds: int) -> list[Row]:
    """Milliseconds per step of each side; the least of the rounds, as noise only adds."""
    check(min(steps, 10))
    found: dict[str, list[Seconds]] = {name: [] for name in SIDES}
    for number in range(rounds + 1):
        for name, run in SIDES.items():
            seconds = run(module(), steps)
            if number:
                found[name].append(seconds)
    cpu = {name: min(times)[0] / steps for name, times in found.items()}
    wall = {name: min(time[1] for time in times) / steps for name, times in found.items()}
    return [
        {
            "loop": name,
            "cpu ms per step": 1e3 * cpu[name],
            "wall ms per step": 1e3 * wall[name],
            "added cpu ms": 1e3 * (cpu[name] - cpu["bare loop"]),
            "% of a 50 ms step": 100 * (cpu[name] - cpu["bare loop"]) / STEP,
        }
        for name in SIDES
    ]


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    given: Any = parse(parser, arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = measure(given.steps, given.rounds)
    goals = [
        Goal(f"{row['loop']}, % of a 50 ms step", row["% of a 50 ms step"], 100 * GOAL, most=True) for row in rows[1:]
    ]
    plot = Plot("loop", "added cpu ms", title="What the loop adds to a step", ylabel="process time, ms", goal=1.0)
    return finish(Result("loop_overhead", __doc__ or "", rows, plot, goals, given.note), given.out)


if __name__ == "__main__":
    main()

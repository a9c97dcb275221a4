"""4 x 4 sudoku by reward alone: a small model learns from a rule that checks grids, and is shown no solution.

    python examples/rewards.py
    python examples/rewards.py --quick

A puzzle is a canvas of 16 cells, of which some are blank; the sampler fills two blanks per call, the surest first, at
temperature 1. Of the 288 grids 200 are for training, and the other 88 for judging. Supervised training on whole grids
ends as soon as a seventh of the training puzzles is solved. From there on the model sees blanks and rewards alone: its
own grids, eight to each puzzle, worth the share of the 12 rows, columns and boxes that are right, and 1 more for a grid
that is.

"trajectory" is the default method, GRPO with the exact likelihood of the sampler's own steps; "diffu_grpo" has the same
budget of steps, the same rollouts and learning rate, without its KL term. A finished run is kept in the folder, and a
stopped one goes on from its last checkpoint. ``--quick`` ends with status 1 if the share of solved puzzles hasn't grown
by more than three standard errors.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sudoku import MASK, SIDE, CellEmbedding, RightUnits, grids, puzzles, solved
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.objectives import NELBO, ExactCounts
from llada.rewards import (
    ADVANTAGES,
    PolicyObjective,
    Prompt,
    Rollout,
    RolloutLoader,
    Sudoku,
    Sum,
    Writer,
    diffu_grpo,
    trajectory_grpo,
)
from llada.samplers import PerStep, Proposal, TopProb, UnmaskingSampler
from llada.training.lr_schedulers import WarmupCosine

GROUP, PROMPTS = 8, 32
METHODS = ("trajectory", "diffu_grpo")
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How large a run is.

    Args:
        width: of the network.
        layers: of the network.
        fine_tuning: supervised steps of 64 whole grids, at most.
        enough: share of solved training puzzles that ends them; looked at every ten steps.
        steps: of learning from rewards, 32 puzzles with eight grids each.
        learning_rate: of the latter.
        least: blanks of a puzzle, at least.
        most: and at most.
        judged: held-out puzzles.
    """

    width: int = 64
    layers: int = 3
    fine_tuning: int = 200
    enough: float = 0.15
    steps: int = 850
    learning_rate: float = 5e-4
    least: int = 6
    most: int = 8
    judged: int = 1000

    @property
    def blanks(self) -> tuple[int, int]:
        """Least and most of a puzzle."""
        return self.least, self.most


QUICK = Setting(width=32, layers=2, enough=0.2, steps=100, learning_rate=1e-3, least=3, most=4, judged=500)


def judge(model: DiffusionLM, held_out: Tensor, setting: Setting) -> tuple[float, float]:
    """The share of held-out puzzles that are solved, and its standard error."""
    asked = puzzles(held_out, setting.judged, 10**6, setting.blanks)
    share = float(solved(model.generate(asked, seed=0).tokens).double().mean())
    return share, math.sqrt(max(share * (1.0 - share), 0.25 / setting.judged) / setting.judged)


@dataclass
class Enough(Callback):
    """Ends supervised training as soon as training puzzles are solved often enough.

    Args:
        training: grids.
        setting: says how often.
    """

    training: Tensor
    setting: Setting

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % 10 == 0:
            share, _ = judge(pl_module, self.training, replace(self.setting, judged=250))
            trainer.should_stop = share >= self.setting.enough


def start(seed: int, training: Tensor, setting: Setting) -> DiffusionLM:
    """A model after short supervised training on whole grids."""
    torch.manual_seed(seed)
    network = BidirectionalTransformer(SIDE + 1, width=setting.width, num_layers=setting.layers, num_heads=4)
    network.embedding = CellEmbedding(SIDE + 1, setting.width)
    sampler = UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(temperature=1.0))
    model = DiffusionLM(network, MaskingProcess(MASK), NELBO(ExactCounts()), sampler=sampler, seed=seed)
    model.optimizer = partial(torch.optim.AdamW, lr=1e-3)
    random = torch.Generator().manual_seed(seed)
    drawn = training[torch.randint(len(training), (setting.fine_tuning * 64,), generator=random)]
    options = {"gradient_clip_val": 1.0, "enable_checkpointing": False, "callbacks": [Enough(training, setting)]}
    trainer = Trainer(max_steps=setting.fine_tuning, **options, **QUIET)
    trainer.fit(model, DataLoader([{"tokens": grid} for grid in drawn], 64))
    return model


class Watch(Callback):
    """Prints the reward now and then, and counts processor time."""

    def __init__(self, name: str, every: int) -> None:
        self.name, self.every, self.seconds, self._begun = name, every, 0.0, 0.0
        self.curve: list[tuple[int, float]] = []
        self._rewards: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note what the answers are worth; the share of solved puzzles, too."""
        self._rewards.append(float(batch["reward_solved"].mean()))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin to count."""
        self._begun = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the mean since the last time."""
        if trainer.global_step % self.every == 0:
            self.seconds, self._begun = self.seconds + time.process_time() - self._begun, time.process_time()
            self.curve.append((trainer.global_step, sum(self._rewards) / len(self._rewards)))
            print(f"{self.name} step {trainer.global_step:4}  solved in training {self.curve[-1][1]:.3f}", flush=True)
            self._rewards.clear()

    def state_dict(self) -> dict[str, Any]:
        """For a run that is resumed."""
        return {"seconds": self.seconds, "curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        self.seconds, self.curve = state_dict["seconds"], list(state_dict["curve"])


def objective(method: str, model: DiffusionLM) -> PolicyObjective:
    """The objective of a method."""
    return trajectory_grpo(model.sampler) if method == "trajectory" else diffu_grpo(model.sampler, kl_weight=0.0)


def learn(method: str, model: DiffusionLM, seed: int, training: Tensor, setting: Setting, folder: Path) -> Watch:
    """Learn from rewards alone; goes on where a stopped run was."""
    name = f"{method} {seed}"
    model.objective = objective(method, model)
    model.optimizer = partial(torch.optim.AdamW, lr=setting.learning_rate, weight_decay=0.0)
    model.lr_scheduler = partial(
        WarmupCosine, warmup_steps=setting.steps // 20, total_steps=setting.steps, final_factor=0.1
    )
    asked = puzzles(training, setting.steps * PROMPTS, seed + 1, setting.blanks)
    texts = ["".join(str(cell + 1) if cell < MASK else "0" for cell in puzzle) for puzzle in asked.tolist()]
    prompts = [Prompt(cells, text, {"puzzle": text}) for cells, text in zip(asked.tolist(), texts, strict=True)]
    reward = Sum({"units": RightUnits(), "solved": Sudoku()})
    advantage = ADVANTAGES["trajectory_grpo" if method == "trajectory" else method]
    writer = Writer(Rollout(GROUP, 0), reward, _digits, advantage, whole_row=True)
    every = max(setting.steps // 20, 1)
    watch = Watch(name, every)
    place = folder / name.replace(" ", "-")
    kept = ModelCheckpoint(place, "last", every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(max_steps=setting.steps, gradient_clip_val=1.0, callbacks=[watch, kept], **QUIET)
    last = place / "last.ckpt"
    loader = RolloutLoader(prompts, writer, PROMPTS, seed=seed, trainer=trainer)
    trainer.fit(model, loader, ckpt_path=last if last.is_file() else None, weights_only=False)
    return watch


def _digits(cells: list[int]) -> str:
    return "".join(str(cell + 1) for cell in cells)


def run(method: str, seed: int, setting: Setting, folder: Path) -> dict[str, Any]:
    """One run, or what is kept of it."""
    place = folder / f"{method}-{seed}.json"
    if place.is_file():
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if found["setting"] == asdict(setting):
            return found
        raise SystemExit(f"{place} is of another setting; give another --folder")
    every = grids()
    model = start(seed, every[:200], setting)
    before = judge(model, every[200:], setting)
    watch = learn(method, model, seed, every[:200], setting, folder)
    after = judge(model, every[200:], setting)
    found = {
        "setting": asdict(setting), "method": method, "seed": seed, "before": before, "after": after,
        "seconds": watch.seconds, "curve": watch.curve, "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found), encoding="utf-8")
    return found


def main(
    folder: Path, seeds: int = 1, methods: Sequence[str] = METHODS, setting: Setting = Setting(), quick: bool = False
) -> int:
    """All runs, as a table in Markdown.

    Args:
        folder: where runs are kept.
        seeds: how many of each method.
        methods: which.
        setting: how large.
        quick: whether the default method has to improve.

    Returns:
        1 if it had to, and didn't.
    """
    lines, failed = [], False
    for method, seed in itertools.product(methods, range(seeds)):
        found = run(method, seed, setting, folder)
        (before, error), (after, error_after) = found["before"], found["after"]
        lines.append(f"| {method} | {seed} | {before:.3f} | {after:.3f} | {found['seconds']:.0f} |")
        failed |= quick and method == "trajectory" and after - before <= 3.0 * math.hypot(error, error_after)
    print("\n| method | seed | solved before | after | processor seconds of learning |\n|---|---|---|---|---|")
    print("\n".join(lines))
    if failed:
        print("the share of solved puzzles hasn't grown by more than three standard errors", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/sudoku"), help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs of each method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="which of them")
    parser.add_argument("--steps", type=int, help="of learning from rewards")
    parser.add_argument("--quick", action="store_true", help="small: three or four blanks, the default method alone")
    given = parser.parse_args()
    chosen = QUICK if given.quick else Setting()
    if given.steps is not None:
        chosen = Setting(**{**asdict(chosen), "steps": given.steps})
    wanted = given.methods[:1] if given.quick else given.methods
    sys.exit(main(given.folder / "quick" if given.quick else given.folder, given.seeds, wanted, chosen, given.quick))

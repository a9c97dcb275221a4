"""Puzzles by reward alone: a small model learns from a rule that checks answers, and is shown no more of them.

    python examples/rewards.py
    python examples/rewards.py --task countdown
    python examples/rewards.py --quick

A 4 x 4 sudoku (sudoku_task.py) is a canvas of 16 cells, of which some are blank; in countdown (countdown.py) three
numbers are to reach a fourth. The sampler fills two blanks per call, the surest first, at temperature 1, and when a
model is judged it fills them one by one, too. A part of all questions is for judging alone. Supervised training on
right answers ends as soon as a tenth of the training questions is solved. From there on the model sees blanks and
rewards alone: its own answers, eight to each question, worth 1 if they are right, and something for what is half right.

"trajectory" is the default method, GRPO with the exact likelihood of the sampler's own steps; "diffu_grpo" has as many
steps and the same rollouts, without its KL term. A finished run is kept in the folder, and a stopped one goes on from
its last checkpoint. ``--quick`` ends with status 1 if the share of solved questions hasn't grown by more than three
standard errors.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from countdown import CountdownTask
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from reward_task import ONE_BY_ONE, QUIET, RewardTask, Setting, judge, start
from sudoku_task import SudokuTask

from llada import DiffusionLM
from llada.cli.quiet import quiet
from llada.rewards import (
    ADVANTAGES,
    PolicyObjective,
    Rollout,
    RolloutLoader,
    Sum,
    Writer,
    diffu_grpo,
    trajectory_grpo,
)
from llada.training.lr_schedulers import WarmupCosine

METHODS = ("trajectory", "diffu_grpo")
TASKS: dict[str, tuple[RewardTask, Setting]] = {
    "sudoku": (SudokuTask(), Setting()),
    "countdown": (CountdownTask(), Setting(fine_tuning=4000)),
}
QUICK = (
    SudokuTask(least=3, most=4),
    Setting(width=32, layers=2, enough=0.2, steps=100, learning_rate=1e-3, judged=500, prompts=32),
)


class Watch(Callback):
    """Prints the reward now and then, and counts processor time."""

    def __init__(self, name: str, every: int) -> None:
        self.name, self.every, self.seconds, self._begun = name, every, 0.0, 0.0
        self.curve: list[tuple[int, float, float]] = []  # steps, share of solved questions, processor seconds
        self._rewards: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the share of answers that are right."""
        self._rewards.append(float(batch["reward_solved"].mean()))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin to count."""
        self._begun = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the mean since the last time."""
        if trainer.global_step % self.every == 0:
            self.seconds, self._begun = self.seconds + time.process_time() - self._begun, time.process_time()
            self.curve.append((trainer.global_step, sum(self._rewards) / len(self._rewards), self.seconds))
            step, share, seconds = self.curve[-1]
            print(f"{self.name} step {step:4}  solved in training {share:.3f}  {seconds:5.0f} s", flush=True)
            self._rewards.clear()

    def state_dict(self) -> dict[str, Any]:
        """For a run that is resumed."""
        return {"seconds": self.seconds, "curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        self.seconds, self.curve = state_dict["seconds"], list(state_dict["curve"])


def objective(method: str, model: DiffusionLM) -> PolicyObjective:
    """The objective of a method; answers that are worth as much as the others to their question aren't read again."""
    if method == "trajectory":
        return trajectory_grpo(model.sampler, useful_only=True)
    return replace(diffu_grpo(model.sampler, kl_weight=0.0), useful_only=True)


@quiet()
def learn(method: str, model: DiffusionLM, seed: int, task: RewardTask, setting: Setting, folder: Path) -> Watch:
    """Learn from rewards alone; goes on where a stopped run was."""
    name = f"{method} {seed}"
    model.objective = objective(method, model)
    model.optimizer = partial(torch.optim.AdamW, lr=setting.learning_rate, weight_decay=0.0)
    model.lr_scheduler = partial(
        WarmupCosine, warmup_steps=setting.steps // 20, total_steps=setting.steps, final_factor=0.1
    )
    prompts = task.ask(setting.steps * setting.prompts, seed + 1)
    reward = Sum({**task.parts, "solved": task.solved})
    advantage = ADVANTAGES["trajectory_grpo" if method == "trajectory" else method]
    writer = Writer(Rollout(setting.group, 0), reward, task.text, advantage, whole_row=True)
    every = max(setting.steps // 20, 1)
    watch = Watch(name, every)
    place = folder / name.replace(" ", "-")
    kept = ModelCheckpoint(place, "last", every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(max_steps=setting.steps, gradient_clip_val=1.0, callbacks=[watch, kept], **QUIET)
    last = place / "last.ckpt"
    loader = RolloutLoader(prompts, writer, setting.prompts, seed=seed, trainer=trainer)
    trainer.fit(model, loader, ckpt_path=last if last.is_file() else None, weights_only=False)
    return watch


def run(method: str, seed: int, task: RewardTask, setting: Setting, folder: Path) -> dict[str, Any]:
    """One run, or what is kept of it."""
    place = folder / f"{method}-{seed}.json"
    if place.is_file():
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if (found["task"], found["setting"]) == (repr(task), asdict(setting)):
            return found
        raise SystemExit(f"{place} is of another task or setting; give another --folder")
    model = start(task, setting, seed)
    before, before_one = (judge(model, task, setting.judged, sampler) for sampler in (None, ONE_BY_ONE))
    watch = learn(method, model, seed, task, setting, folder)
    after, after_one = (judge(model, task, setting.judged, sampler) for sampler in (None, ONE_BY_ONE))
    found = {
        "task": repr(task), "setting": asdict(setting), "method": method, "seed": seed,
        "before": before, "after": after, "before_one": before_one, "after_one": after_one,
        "seconds": watch.seconds, "curve": watch.curve, "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found), encoding="utf-8")
    return found


def main(
    folder: Path,
    seeds: Sequence[int] = (0,),
    methods: Sequence[str] = METHODS,
    task: RewardTask = TASKS["sudoku"][0],
    setting: Setting = TASKS["sudoku"][1],
    quick: bool = False,
) -> int:
    """All runs, as a table in Markdown.

    Args:
        folder: where runs are kept.
        seeds: of the runs of each method.
        methods: which.
        task: what is learnt.
        setting: how large.
        quick: whether the default method has to improve.

    Returns:
        1 if it had to, and didn't.
    """
    lines, failed = [], False
    for method, seed in itertools.product(methods, seeds):
        found = run(method, seed, task, setting, folder)
        (before, error), (after, error_after) = found["before"], found["after"]
        shares = [found[name][0] for name in ("before", "after", "before_one", "after_one")]
        cells = [method, str(seed), *(f"{share:.3f}" for share in shares), f"{found['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        failed |= quick and method == "trajectory" and after - before <= 3.0 * math.hypot(error, error_after)
    heads = ("method", "seed", "solved before", "after", "before, one by one", "after", "processor seconds of learning")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print("\n".join(lines))
    if failed:
        print("the share of solved questions hasn't grown by more than three standard errors", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="sudoku", help="what is learnt")
    parser.add_argument("--folder", type=Path, help="where runs are kept; default: runs/TASK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of each method per seed")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="which of them")
    parser.add_argument("--steps", type=int, help="of learning from rewards")
    parser.add_argument("--width", type=int, help="of the network")
    parser.add_argument("--layers", type=int, help="of the network")
    parser.add_argument("--learning_rate", type=float, help="of learning from rewards")
    parser.add_argument("--quick", action="store_true", help="sudoku, three or four blanks, the default method alone")
    given = parser.parse_args()
    task, setting = QUICK if given.quick else TASKS[given.task]
    changed = {name: getattr(given, name) for name in ("steps", "width", "layers", "learning_rate")}
    setting = replace(setting, **{name: value for name, value in changed.items() if value is not None})
    folder = given.folder or Path("runs") / given.task
    wanted = given.methods[:1] if given.quick else given.methods
    sys.exit(main(folder / "quick" if given.quick else folder, given.seeds, wanted, task, setting, given.quick))

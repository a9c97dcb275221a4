"""In context and instructions, each model trained until its own accuracy has stopped rising, not for a budget.

    python -m examples.claims.converged --goal functions       (hours of one core, resumable; --quick: minutes;
                                                                --jobs 4: so many trainings at a time)
    python -m examples.claims.converged --goal instructions
    python -m examples.claims.converged --goal functions --rate 0.003       (without the search)
    python -m examples.claims.converged --goal functions --without "masked diffusion"

The accuracy that ends a training is of questions of the kind that is told, but others. When it has stopped rising for
the patience of `until`, training goes on from its best weights at a tenth of the rate until it has stopped again. All
models get the same search, over rates, with a seed of its own; what is told is of other seeds. Curves are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from examples.claims.goals import AS_ASKED, GOALS, Stage
from examples.claims.kept import Kept
from examples.claims.report import COLOURS, Report, command_line
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS
from examples.claims.until import CAPPED, Curve, Looks, Patience, train
from llada import DiffusionLM
from llada.training.lr_schedulers import WarmupStableDecay

COLOUR = {DIFFUSION: COLOURS[0], NEXT_TOKEN: COLOURS[1], AS_ASKED: COLOURS[3]}
SEARCHED = "searched"
SEARCH_SEED = 100
OTHERS = 500  # added to a seed for the questions by which training ends
LATER = 0.1  # share of the rate in the second part of a stage


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Args:
        rates: that are searched.
        patience: of the first part of every stage.
        settling: steps before which a second part doesn't end; all else is as in the first.
        stopping: questions by which a training ends.
        told: questions that are told.
    """

    rates: tuple[float, ...]
    patience: Patience
    settling: int
    stopping: int
    told: int


LONG = {
    goal: Plan((1e-3, 3e-3), Patience(factor=1.6, spacing=1.15, least=least, most=60_000), 1000, 256, 500)
    # Of the functions two thirds are right after 2,000 steps, and for thousands more, before it goes on.
    for goal, least in {"functions": 20_000, "instructions": 1000}.items()
}
QUICK = Plan((3e-3,), Patience(factor=1.3, spacing=1.3, least=100, most=400), 100, 64, 200)


@dataclass(frozen=True)
class Learnt:
    """What a model reached.

    Attributes:
        right: of the questions that are told, one per question.
        steps: of the optimiser, up to the best look of each part.
        seconds: of the processor, of all of the training.
        curves: part -> (steps, accuracy of the other questions) of each look.
        ended: part -> why it did.
    """

    right: list[float]
    steps: int
    seconds: float
    curves: dict[str, list[tuple[int, float]]]
    ended: dict[str, str]

    @property
    def ends(self) -> float:
        """The best accuracy of each part, on average; the last one's alone is soon 1 whatever the rate."""
        return sum(max(share for _, share in curve) for curve in self.curves.values()) / len(self.curves)


class Learning:
    """Trainings of a goal, measured once and kept.

    Args:
        goal: its name.
        plan: how long.
        folder: of ``converged.jsonl`` and of the trainings that are under way.
        jobs: trainings at a time.
    """

    def __init__(self, goal: str, plan: Plan, folder: Path, jobs: int = 1) -> None:
        self.name, self.goal, self.plan, self.folder, self.jobs = goal, GOALS[goal](), plan, folder, jobs
        self.kept = Kept(folder / "converged.jsonl", Learnt)

    def runs(self, wanted: Sequence[tuple[str, float, int]]) -> list[Learnt]:
        """Several, each as `run` has it."""
        self.kept.fill({self._key(*each): partial(self._learn, *each) for each in wanted}, self.jobs)
        return [self.run(*each) for each in wanted]

    def run(self, model: str, rate: float, seed: int) -> Learnt:
        """A model, trained through all its stages.

        Args:
            model: the name of an arm of the goal.
            rate: of the first part of every stage.
            seed: of weights, rows and questions.
        """
        return self.kept.get(self._key(model, rate, seed), partial(self._learn, model, rate, seed))

    def best_rates(self, models: Sequence[str]) -> dict[str, float]:
        """What the search finds for each model: the rate whose parts, all together, end with the most right answers."""
        rates = self.plan.rates
        if len(rates) == 1:
            return dict.fromkeys(models, rates[0])
        tries = iter(self.runs([(model, rate, SEARCH_SEED) for model in models for rate in rates]))
        ends = {model: {rate: next(tries).ends for rate in rates} for model in models}
        return {model: max(rates, key=found.__getitem__) for model, found in ends.items()}

    def _key(self, model: str, rate: float, seed: int) -> str:
        return f"{self.name} {model} {rate:g} {seed} {self.plan!r}"

    def _learn(self, name: str, rate: float, seed: int) -> Learnt:
        arm = self.goal.arms[name]
        model = TWINS[arm.twin](self.goal.recipe, seed)
        curves: dict[str, Curve] = {}
        for stage in arm.stages:
            begin = ""
            for share, least in ((1.0, self.plan.patience.least), (LATER, self.plan.settling)):
                part = f"{stage.name}, rate {share * rate:g}"
                model.optimizer = partial(torch.optim.AdamW, lr=share * rate, betas=(0.9, 0.98), weight_decay=0.01)
                model.lr_scheduler = partial(WarmupStableDecay, warmup_steps=50, stable_steps=10**9, decay_steps=0)
                looks = self._looks(stage, replace(self.plan.patience, least=least), seed, f"{name}, {part}{begin}")
                curves[part] = train(model, stage.batches(seed), looks)
                begin = f", from step {curves[part].best.step}"
        model.eval()
        right = arm.stages[-1].accuracy(model, self.plan.told, seed)
        steps = sum(curve.best.step for curve in curves.values())
        print(f"{self.name}, {name}, rate {rate:g}, seed {seed}: {right.mean():.2f} after {steps} steps", flush=True)
        return Learnt(
            right.tolist(),
            steps,
            round(sum(curve.looks[-1].seconds for curve in curves.values()), 1),
            {part: [(look.step, 1.0 - look.value) for look in curve.looks] for part, curve in curves.items()},
            {part: curve.ended for part, curve in curves.items()},
        )

    def _looks(self, stage: Stage, patience: Patience, seed: int, part: str) -> Looks:
        def error(model: DiffusionLM) -> float:
            return 1.0 - float(stage.accuracy(model, self.plan.stopping, OTHERS + seed).mean())

        where = f"{self.name}, {part}, {seed}, {patience.most}".replace(", ", "-").replace(" ", "_")
        return Looks(error, patience, self.folder / "converging" / where, seed)


def draw(axis: Any, found: dict[str, list[Learnt]], target: float) -> None:
    """The last stage's curves of all models, all seeds."""
    for name, runs in found.items():
        for number, learnt in enumerate(runs):
            curve = list(learnt.curves.values())[-2]
            steps, right = zip(*curve, strict=True)
            axis.semilogx(steps, [100 * share for share in right], color=COLOUR[name], label=None if number else name)
    axis.axhline(100 * target, color="0.5", linestyle="--", linewidth=1, label="the goal")
    axis.set(xlabel="steps", ylabel="right answers, %", ylim=(0, 102))
    ends = {name: mean_over_seeds([each.right for each in runs]).mean for name, runs in found.items()}
    axis.set_title("they end at " + ",\n".join(f"{100 * end:.0f} %: {name}" for name, end in ends.items()), fontsize=9)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def main() -> None:
    """Measure, print, and fail if diffusion isn't at the goal."""
    choices = {"goal": list(GOALS), "rate": [SEARCHED, "0.001", "0.003"], "without": ["none", *COLOUR]}
    options = command_line(__doc__, choices=choices, jobs=True)
    name = options.goal or next(iter(GOALS))
    report = Report(f"converged_{name}", options.seeds, options.quick, options.chosen)
    learning = Learning(name, QUICK if options.quick else LONG[name], options.folder, options.jobs)
    models = [arm for arm in learning.goal.arms if arm != options.without]
    rates = (
        learning.best_rates(models) if options.rate in (None, SEARCHED) else dict.fromkeys(models, float(options.rate))
    )
    all_runs = iter(learning.runs([(model, rate, seed) for model, rate in rates.items() for seed in options.seeds]))
    found = {model: [next(all_runs) for _ in options.seeds] for model in rates}
    rows = []
    for model, runs in found.items():
        capped = sum(CAPPED in learnt.ended.values() for learnt in runs)
        steps, seconds = (" ".join(f"{getattr(each, what):g}" for each in runs) for what in ("steps", "seconds"))
        right = mean_over_seeds([each.right for each in runs]).percent()
        rows.append([model, f"{rates[model]:g}", right, steps, seconds, capped])
    head = ["model", "rate", "right", "steps", "processor seconds", "seeds that reached the cap"]
    report.table(f"{name}: right answers when they have stopped rising", head, rows)
    for model, runs in found.items():
        share = mean_over_seeds([each.right for each in runs])
        report.check(f"{name}, {model}: right answers are at the goal", share, above=learning.goal.target)
    twin = [each.right for each in found.get(NEXT_TOKEN, [])]
    ours = {model: [each.right for each in runs] for model, runs in found.items() if twin and model != NEXT_TOKEN}
    rows = [[model, difference_over_seeds(right, twin).percent()] for model, right in ours.items()]
    report.table("Over the twin", ["model", "right answers, difference"], rows)
    draw(report.picture(size=(5.5, 3.6))[0], found, learning.goal.target)
    report.finish(options.folder)


if __name__ == "__main__":
    main()

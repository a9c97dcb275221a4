"""Planning: find the way through a graph from both ends, or from the front only.

    python examples/planning.py            # three seeds, about seven minutes of processor time
    python examples/planning.py --quick    # two seeds, fewer names and steps, about two minutes of processor time

A star of paths leaves one node; its edges are listed in random order, then start and goal, and the way between them is
to be written. From the front, the first step needs the whole plan: only one arm leads to the goal, and nothing nearby
says which. From the goal backwards every step is a look at the list. A next-token model has to begin at the front; a
masked diffusion model may write the tokens that it is surest of first.

The task is that of Bachmann and Nagarajan, "The Pitfalls of Next-Token Prediction", arXiv 2403.06963. Exit status
1: a claim doesn't hold beyond its interval.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from claims.statistics import Check, Interval, difference_over_seeds, mean_over_seeds, record
from claims.twins import DIFFUSION, NEXT_TOKEN, TWINS, Recipe, Rows, Training, fit
from torch import Tensor

from llada.module import DiffusionLM
from llada.samplers import (
    LeftToRight,
    Margin,
    NextToken,
    PerStep,
    Proposal,
    Quota,
    RandomOrder,
    Sampler,
    UnmaskingSampler,
    fast_dllm,
    klass,
    low_confidence,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

OWN = "left to right (twin)"
CONFIDENCE, RANDOM, LEFT = "confidence", "random order", "left to right"


@dataclass(frozen=True)
class Stars:
    """Stars of paths from one node.

    Args:
        arms: paths that leave it.
        length: edges of a path, so tokens of an answer.
        nodes: names to draw from; at least ``1 + arms * length``.
    """

    arms: int
    length: int
    nodes: int

    @property
    def mask(self) -> int:
        """The mask token, behind the names."""
        return self.nodes

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Questions (count, 2 arms length + 2) and the ways (count, length), ending with the goal."""
        generator = torch.Generator().manual_seed(seed)
        edges = self.arms * self.length
        names = torch.rand(count, self.nodes, generator=generator).argsort(1)[:, : 1 + edges]
        start, arms = names[:, :1], names[:, 1:].view(count, self.arms, self.length)
        before = torch.cat([start[:, None].expand(-1, self.arms, 1), arms[:, :, :-1]], dim=2)
        pairs = torch.stack([before, arms], dim=-1).view(count, edges, 2)
        order = torch.rand(count, edges, generator=generator).argsort(1)[..., None].expand(-1, -1, 2)
        listed = pairs.gather(1, order).flatten(1)
        return torch.cat([listed, start, arms[:, 0, -1:]], dim=1), arms[:, 0]


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    stars: Stars
    training: Training
    seeds: tuple[int, ...]
    questions: int = 500


FULL = Plan(Stars(3, 3, 14), Training(1200, 64, 4e-3), (0, 1, 2))
QUICK = Plan(Stars(3, 3, 10), Training(600, 64, 4e-3), (0, 1), 300)


class Answers(NamedTuple):
    """Whether each question was answered, model calls per question, and nats of each right answer if it has any."""

    correct: np.ndarray
    calls: float
    nats: np.ndarray | None


class Line(NamedTuple):
    """A model and a way of decoding."""

    model: str
    name: str
    seed_calls: list[float]
    """Of each seed, model calls per question."""
    correct: list[np.ndarray]
    """Of each seed, whether each question was answered."""
    nats: list[np.ndarray]
    """Of each seed, -log p of each right answer by the same order at temperature 1; empty where there is none."""

    @property
    def calls(self) -> float:
        """Mean over seeds."""
        return sum(self.seed_calls) / len(self.seed_calls)

    @property
    def accuracy(self) -> Interval:
        """Share of right answers."""
        return mean_over_seeds(self.correct)


def samplers(length: int) -> dict[str, Sampler]:
    """Ways of decoding for the diffusion model, all of them greedy."""
    made: dict[str, Sampler] = {}
    for steps in range(length, 0, -1):
        made |= {
            f"{CONFIDENCE}, {steps}": low_confidence(steps),
            f"margin, {steps}": UnmaskingSampler(Quota(steps), Margin()),
            f"{RANDOM}, {steps}": UnmaskingSampler(Quota(steps), RandomOrder()),
        }
    made |= {"threshold 0.9": fast_dllm(0.9, block_length=None), "KLASS": klass(0.6, 0.1, 1)}
    return made | {LEFT: UnmaskingSampler(PerStep(1), LeftToRight())}


def drawing(sampler: Sampler | None) -> UnmaskingSampler | NextToken | None:
    """The order of a greedy sampler at temperature 1, if a text has a likelihood under it; None for the twin's own."""
    if sampler is None:
        return NextToken(temperature=1.0)
    assert isinstance(sampler, UnmaskingSampler)
    drawn = replace(sampler, proposal=Proposal(temperature=1.0))
    return drawn if drawn.likelihood_gap is None else None


@torch.no_grad()
def answer(model: DiffusionLM, plan: Plan, sampler: Sampler | None, seed: int) -> Answers:
    """Ask the test questions."""
    questions, ways = plan.stars.draw(plan.questions, 1000 + seed)
    canvas = torch.cat([questions, torch.full_like(ways, plan.stars.mask)], dim=1)
    sample = model.generate(canvas, sampler=sampler, seed=seed)
    right = (sample.tokens[:, questions.shape[1] :] == ways).all(1)
    nats, drawn = None, drawing(sampler)
    if drawn is not None:
        texts = torch.cat([questions, ways], dim=1)
        given = canvas != plan.stars.mask
        found = drawn.likelihood(model.backbone, texts, model.process, given=given, seed=seed)
        nats = -found.log_likelihood.numpy()
    return Answers(right.double().numpy(), float(sample.calls.double().mean()), nats)


def train(plan: Plan, model: str, seed: int) -> DiffusionLM:
    """A model that has seen no question twice, and only the answer counts for its loss."""
    stars, training = plan.stars, plan.training
    rows = torch.cat(stars.draw(training.steps * training.batch_size, seed), dim=1)
    maskable = (torch.arange(rows.shape[1]) >= rows.shape[1] - stars.length).expand_as(rows)
    recipe = Recipe(stars.nodes + 1, stars.mask, width=64, num_layers=3, num_heads=4, convolution=3)
    return fit(TWINS[model](recipe, seed), Rows(rows, maskable), training, seed)


def measure(plan: Plan, make: Callable[[Plan, str, int], DiffusionLM] = train) -> list[Line]:
    """Train both models for every seed, and ask them."""
    lines: dict[str, Line] = {}
    for seed in plan.seeds:
        for model in (DIFFUSION, NEXT_TOKEN):
            trained = make(plan, model, seed)
            ways = samplers(plan.stars.length) if model == DIFFUSION else {OWN: None}
            for name, sampler in ways.items():
                found = answer(trained, plan, sampler, seed)
                line = lines.setdefault(name, Line(model, name, [], [], []))
                line.seed_calls.append(found.calls)
                line.correct.append(found.correct)
                line.nats.extend([] if found.nats is None else [found.nats])
                share = f"{found.correct.mean():.3f}  {found.calls:.2f} calls"
                print(f"seed {seed}  {model:<17} {name:<22} {share}", flush=True)
    return list(lines.values())


def claims(lines: list[Line], plan: Plan) -> list[Check]:
    """Differences of accuracy that must lie above 0, paired by question."""
    found = {line.name: line.correct for line in lines}
    best, length = found[f"{CONFIDENCE}, {plan.stars.length}"], plan.stars.length
    others = {
        "diffusion by confidence beats its next-token twin": found[OWN],
        "by confidence beats the same model in random order": found[f"{RANDOM}, {length}"],
        "by confidence beats the same model from left to right": found[LEFT],
    }
    return [Check.above(claim, difference_over_seeds(best, other)) for claim, other in others.items()]


def numbers(lines: list[Line]) -> dict[str, Interval]:
    """Right answers, %, by model and way of decoding."""
    return {f"{line.model}, {line.name}, %": line.accuracy.times(100) for line in lines}


def markdown(lines: list[Line]) -> str:
    """The table. Nats of a random order are those given the order that was drawn, whose mean is a bound."""
    head = ["| model | decoding | calls | right answers, % | nats of the right answer |", "|---|---|---:|---:|---:|"]
    for line in lines:
        nats = f"{'at most ' if RANDOM in line.name else ''}{mean_over_seeds(line.nats)}" if line.nats else "none"
        head.append(f"| {line.model} | {line.name} | {line.calls:.2f} | {line.accuracy.percent()} | {nats} |")
    return "\n".join(head)


def draw(lines: list[Line], chance: float, path: Path) -> None:
    """Accuracy against calls."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    groups: dict[str, list[tuple[float, Interval]]] = {line.name.split(",")[0]: [] for line in lines}
    for line in lines:
        groups[line.name.split(",")[0]].append((line.calls, line.accuracy))
    for number, (name, points) in enumerate(groups.items()):
        points.sort()
        x, y = [calls for calls, _ in points], [100 * share.mean for _, share in points]
        errors = [[100 * (s.mean - s.low) for _, s in points], [100 * (s.high - s.mean) for _, s in points]]
        shifted = [value + 0.02 * (number - 3) for value in x]
        axes.errorbar(shifted, y, yerr=errors, marker="o", capsize=3, label=name, linewidth=1)
    axes.axhline(100 * chance, color="0.5", linestyle="--", linewidth=1, label="a guessed arm")
    axes.set(xlabel="model calls per answer", ylabel="right answers, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(out: Path, plan: Plan) -> int:
    """Measure, write, draw, judge."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    lines = measure(plan)
    table, held = markdown(lines), claims(lines, plan)
    (out / "planning.md").write_text(f"{table}\n", encoding="utf-8")
    draw(lines, 1.0 / plan.stars.arms, out / "planning.png")
    print(f"\n{table}\n\n{time.process_time() - begin:.0f} s of processor time")
    (out / "planning.json").write_text(json.dumps(record(held, numbers(lines)), indent=2) + "\n", encoding="utf-8")
    print(*held, sep="\n")
    return 0 if all(check.holds for check in held) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/planning"), help="where table and plot go")
    parser.add_argument("--quick", action="store_true", help="fewer seeds and steps")
    given = parser.parse_args()
    sys.exit(main(given.out, QUICK if given.quick else FULL))

"""Learning in context: mappings that exist only in the prompt, for a masked diffusion model and its next-token twin.

    python -m examples.claims.in_context         (--quick for the short form)

Two tasks, each row with a mapping of its own, shown by examples; then one more input, whose output is asked for:

    recall       a random table from 8 keys to 8 values           k v  k v  k v ... k ?
    functions    each of 3 outputs copies one of 3 inputs         a b c > b b a    c a d > ? ? ?

No table is read twice. Of the 27 functions, 6 are held out: no training row has them. What is learnt from an example is
seen by how the share of right outputs rises with the number of examples, beside what the examples tell at all (the
optimum). docs/claims/in-context.md has the results.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from examples.claims.report import Report, command_line, lines
from examples.claims.statistics import Interval, difference_over_seeds, mean_over_seeds
from examples.claims.twins import TWINS, Recipe, Rows, Training, fit, write
from llada import DiffusionLM

BEGIN, END, MASK, ARROW, FIRST = range(5)


class Task(ABC):
    """Rows of examples of one mapping each.

    Attributes:
        symbols: size of the alphabet, inputs and outputs together.
        inputs: tokens of an example up to its output.
        outputs: tokens of an output.
        most: examples before the query, at most.
    """

    symbols: int
    inputs: int
    outputs: int
    most: int

    @abstractmethod
    def examples(self, rows: int, number: int, held_out: bool, random: torch.Generator) -> Tensor:
        """Examples of a mapping per row, (rows, number, inputs + outputs) int64."""

    @abstractmethod
    def optimum(self, shown: int) -> float:
        """The share of right outputs of whoever knows how the mappings were drawn, after so many examples."""

    def training_rows(self, rows: int, random: torch.Generator, asked: float = 0.0) -> Rows:
        """Rows with 0 to ``most`` examples before the last; only outputs are maskable.

        Args:
            rows: N.
            random: source of the draws.
            asked: share of rows whose last output alone is maskable, as in a question; the first of them.
        """
        tokens = self._row(self.examples(rows, self.most + 1, False, random))
        place = torch.arange(tokens.shape[1])
        output = (place - 1) % (self.inputs + self.outputs) >= self.inputs
        length = 1 + (1 + torch.randint(self.most + 1, (rows, 1), generator=random)) * (self.inputs + self.outputs)
        question = torch.arange(rows)[:, None] < asked * rows
        first = torch.where(question, length - self.outputs, 1)
        return Rows(tokens.masked_fill(place >= length, END), output & (place < length) & (place >= first))

    def ask(self, model: DiffusionLM, shown: int, rows: int, seed: int) -> Tensor:
        """Whether the query's output is right after ``shown`` examples of mappings not met in training, (rows,)."""
        random = torch.Generator().manual_seed(1_000_000 + seed)
        tokens = self._row(self.examples(rows, shown + 1, True, random))
        start = 1 + shown * (self.inputs + self.outputs) + self.inputs
        place = torch.arange(tokens.shape[1])
        answer = (place >= start) & (place < start + self.outputs)
        return (write(model, tokens, answer) == tokens[:, answer]).all(1).double()

    def _row(self, examples: Tensor) -> Tensor:
        """Examples as a row of the length that all have, with END to its end."""
        told = torch.nn.functional.pad(examples.flatten(1), (1, 0), value=BEGIN)
        length = 2 + (self.most + 1) * (self.inputs + self.outputs)
        return torch.nn.functional.pad(told, (0, length - told.shape[1]), value=END)


@dataclass(frozen=True)
class Recall(Task):
    """A random table from keys to values; keys are drawn with repetition."""

    keys: int = 8
    values: int = 8
    inputs: int = 1
    outputs: int = 1
    most: int = 12

    @property
    def symbols(self) -> int:  # type: ignore[override]
        """Keys and values."""
        return self.keys + self.values

    def examples(self, rows: int, number: int, held_out: bool, random: torch.Generator) -> Tensor:
        """A table is drawn for every row, so all are new."""
        table = torch.randint(self.values, (rows, self.keys), generator=random)
        keys = torch.randint(self.keys, (rows, number), generator=random)
        return FIRST + torch.stack([keys, self.keys + table.gather(1, keys)], dim=2)

    def optimum(self, shown: int) -> float:
        """1 if the key was among the examples, which it is with probability 1 - (1 - 1/K)^n; else a guess."""
        unseen = (1 - 1 / self.keys) ** shown
        return 1 - unseen + unseen / self.values


@dataclass(frozen=True)
class Functions(Task):
    """y_j = x_{f(j)}: every output copies an input; a function says which."""

    letters: int = 4
    places: int = 3
    outputs: int = 3
    most: int = 5

    @property
    def symbols(self) -> int:  # type: ignore[override]
        """The letters."""
        return self.letters

    @property
    def inputs(self) -> int:  # type: ignore[override]
        """The places, and the arrow."""
        return self.places + 1

    def family(self, held_out: bool) -> Tensor:
        """The functions, (F, outputs): the held-out ones are the 6 permutations of the places."""
        every = torch.tensor(list(product(range(self.places), repeat=self.outputs)))
        permutation = torch.tensor([len(set(f)) == self.outputs for f in every.tolist()])
        return every[permutation == held_out]

    @override
    def examples(self, rows: int, number: int, held_out: bool, random: torch.Generator) -> Tensor:
        family = self.family(held_out)
        chosen = family[torch.randint(len(family), (rows,), generator=random)]
        x = torch.randint(self.letters, (rows, number, self.places), generator=random)
        y = x.gather(2, chosen[:, None].expand(rows, number, self.outputs))
        return torch.cat([FIRST + x, torch.full((rows, number, 1), ARROW), FIRST + y], dim=2)

    def optimum(self, shown: int) -> float:
        """Outputs are drawn independently here, so an output's share to the power of their number.

        An output's source stays possible if it agrees with all examples: by chance one does with probability 1/L^n. The
        likeliest letter is the one with most of the possible sources; the mean is taken over 20,000 draws.
        """
        random = torch.Generator().manual_seed(shown)
        x = torch.randint(self.letters, (20_000, shown + 1, self.places), generator=random)
        possible = (x[:, :-1] == x[:, :-1, :1]).all(1).double()  # the true source is place 0
        votes = (possible[:, :, None] * torch.nn.functional.one_hot(x[:, -1], self.letters)).sum(1)
        best = votes == votes.max(1, keepdim=True).values
        right = best.gather(1, x[:, -1, :1])[:, 0] / best.sum(1)
        return float(right.mean()) ** self.outputs


@dataclass(frozen=True)
class Plan:
    """A task, how it is trained (``quick`` None: not in short form), and after how many examples it is asked."""

    task: Task
    full: Training
    quick: Training | None
    shown: tuple[int, ...]
    questions: int = 400


PLANS = {
    "recall": Plan(Recall(), Training(800), Training(500), (0, 1, 2, 4, 8, 12)),
    # 800 steps of 32 rows were too few for both twins.
    "functions": Plan(Functions(), Training(3000), None, (0, 1, 2, 3, 4, 5)),
}


def learn(
    make: Callable[[Recipe, int], DiffusionLM], task: Task, training: Training, seed: int, asked: float = 0.0
) -> DiffusionLM:
    """Train one of the twins on fresh rows; ``asked`` as of `Task.training_rows`."""
    random = torch.Generator().manual_seed(seed)
    rows = task.training_rows(training.steps * training.batch_size, random, asked)
    return fit(
        make(Recipe(FIRST + task.symbols, MASK, width=64, num_layers=3, convolution=5), seed), rows, training, seed
    )


def run(plan: Plan, training: Training, seeds: list[int]) -> dict[str, list[list[Tensor]]]:
    """Right or wrong for every query: model -> number of examples -> seed."""
    outcomes: dict[str, list[list[Tensor]]] = {name: [[] for _ in plan.shown] for name in TWINS}
    for seed in seeds:
        for name, make in TWINS.items():
            model = learn(make, plan.task, training, seed)
            for runs, shown in zip(outcomes[name], plan.shown, strict=True):
                runs.append(plan.task.ask(model, shown, plan.questions, seed))
            print(f"{type(plan.task).__name__}, seed {seed}, {name}: {outcomes[name][-1][-1].mean():.2f}", flush=True)
    return outcomes


def show(report: Report, title: str, plan: Plan, outcomes: dict[str, list[list[Tensor]]], axis: Any) -> None:
    """Table, checks and curves of a task."""
    best = [plan.task.optimum(shown) for shown in plan.shown]
    means = {name: [mean_over_seeds(runs) for runs in column] for name, column in outcomes.items()}
    table = [[name, *(interval.percent() for interval in column)] for name, column in means.items()]
    table.append(["optimum", *(f"{100 * share:.0f}" for share in best)])
    report.table(f"{title}: right outputs by examples shown", ["model", *map(str, plan.shown)], table)
    for name, column in outcomes.items():
        gain = difference_over_seeds(column[-1], column[0])
        report.check(f"{title}, {name}: more is right after {plan.shown[-1]} examples than after none", gain, 0.2)
    lines(axis, plan.shown, {**means, "optimum": [Interval(share, share, share, share) for share in best]})
    axis.set_xlabel("examples shown")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run the tasks, and report."""
    report = Report("in_context", seeds, quick)
    chosen = {title: (plan, plan.quick if quick else plan.full) for title, plan in PLANS.items()}
    chosen = {title: (plan, training) for title, (plan, training) in chosen.items() if training is not None}
    axes = report.picture(columns=len(chosen), size=(4.6 * len(chosen), 3.6))
    for (title, (plan, training)), axis in zip(chosen.items(), axes, strict=True):
        show(report, title, plan, run(plan, training, seeds), axis)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

"""The size, rate and batch with which a recipe does best at a compute: a climb, the same for every recipe.

    climb = Climb(runs, seed=100)
    best = climb.at(1e11, Choice(TWIN, Size(16, 1)))      # tries larger models, a lower rate, more rows per step
    climb.tried                                           # every run of it

Computes are climbed from the lowest up, each from where the one before ended. So a model that is told has a larger
neighbour that did worse at its own compute, and a smaller one that did worse at a lower compute, where smaller models
are better than they ever are again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from examples.claims.text_runs import Arm, Point, Runs, Size

SIZES = tuple(
    Size(*shape)
    for shape in (
        (16, 1), (24, 1), (32, 1), (48, 1), (64, 1), (64, 2), (96, 2), (128, 2), (128, 3), (192, 3), (192, 5), (256, 5)
    )
)  # fmt: skip
"""From the smallest up, each with about 1.6 times the parameters of the one before."""


@dataclass(frozen=True)
class Choice:
    """What is searched.

    Args:
        arm: the recipe, with its rate and its rows per step.
        size: of the model.
    """

    arm: Arm
    size: Size

    def larger(self) -> "Choice | None":
        """The next size, if there is one."""
        place = SIZES.index(self.size) + 1
        return replace(self, size=SIZES[place]) if place < len(SIZES) else None

    def slower(self) -> "Choice":
        """At half of the rate."""
        return replace(self, arm=replace(self.arm, rate=self.arm.rate / 2))

    def more_rows(self) -> "Choice":
        """Twice the rows per step, and so half of the steps."""
        return replace(self, arm=replace(self.arm, rows=2 * self.arm.rows))

    def __str__(self) -> str:
        return f"{self.size.width} x {self.size.num_layers}, rate {self.arm.rate:g}, {self.arm.rows} rows"


@dataclass
class Climb:
    """Searches of one recipe.

    Args:
        runs: what was measured.
        seed: of the search; no result is told of it.
        tried: (compute, choice, run) of all that was tried.
    """

    runs: Runs
    seed: int
    tried: list[tuple[float, Choice, Point]] = field(default_factory=list)

    def at(self, compute: float, start: Choice) -> Choice:
        """The best choice at a compute: each kind of step is repeated for as long as it helps, one kind after another.

        Args:
            compute: of every run.
            start: where the climb begins.
        """
        best, loss = start, self._loss(compute, start)
        steps: tuple[Callable[[Choice], Choice | None], ...] = (Choice.larger, Choice.slower, Choice.more_rows)
        for step in steps:
            while (further := step(best)) is not None:
                found = self._loss(compute, further)
                if found >= loss:
                    break
                best, loss = further, found
        return best

    def _loss(self, compute: float, choice: Choice) -> float:
        point = self.runs.point(choice.arm, choice.size, compute, self.seed)
        self.tried.append((compute, choice, point))
        return point.stopping

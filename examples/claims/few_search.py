"""The search that either model gets for few data: the same grid, then the same single steps from its best point.

found = search(runs, twin=True, plan=plan, tokens=10_000, seeds=[100])
setting, of_each_seed = found[0]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from examples.claims.few_runs import FewRuns, Run, Setting


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Args:
        tokens: unique ones, an experiment each.
        grid: settings -> the values that are crossed.
        search_seeds: of the search; None: those whose results are told, on other held-out rows.
        rounds: of single steps, each from the best point so far; the search ends before if none was better.
    """

    tokens: tuple[int, ...]
    grid: dict[str, tuple[float, ...]]
    search_seeds: tuple[int, ...] | None = None
    rounds: int = 0


def grid(twin: bool, tokens: int, values: dict[str, tuple[float, ...]]) -> list[Setting]:
    """Every combination."""
    combinations = product(*values.values())
    return [Setting(twin, tokens, **dict(zip(values, each, strict=True))) for each in combinations]  # type: ignore[arg-type]


def steps_away(best: Setting) -> list[Setting]:
    """Single changes: other rates, and further out in width, weight decay, dropout and hidden inputs."""
    outward = 2 * best.width if best.width > 32 else max(16, best.width // 2)
    return [
        replace(best, rate=0.4 * best.rate),
        replace(best, rate=2.5 * best.rate),
        replace(best, width=outward),
        replace(best, weight_decay=0.1 if best.weight_decay < 0.1 else 3.0 * best.weight_decay),
        replace(best, dropout=0.15 if best.dropout == 0.0 else min(0.8, best.dropout + 0.2)),
        replace(best, hidden=best.hidden + 0.2),
    ]


def search(runs: FewRuns, twin: bool, plan: Plan, tokens: int, seeds: Sequence[int]) -> list[tuple[Setting, list[Run]]]:
    """All runs of a search, one per seed, the best setting first: by the mean over seeds, on the rows for stopping."""
    final = plan.search_seeds is None

    def tried(settings: list[Setting]) -> list[tuple[Setting, list[Run]]]:
        runs.fill(product(settings, seeds), final)
        found = [(setting, [runs.run(setting, seed, final) for seed in seeds]) for setting in settings]
        return sorted(found, key=lambda entry: stopping(entry[1]))

    found = tried(grid(twin, tokens, plan.grid))
    for _ in range(plan.rounds):
        best, known = found[0][0], {setting for setting, _ in found}
        found += tried([setting for setting in steps_away(best) if setting not in known])
        found.sort(key=lambda entry: stopping(entry[1]))
        if found[0][0] == best:
            break
    return found


def stopping(runs: list[Run]) -> float:
    """Mean over seeds of what was reached on the rows for stopping."""
    return sum(run.stopping for run in runs) / len(runs)

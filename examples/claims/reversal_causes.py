"""Two questions that the reversal leaves open, on its facts: what the twin knows in reverse, and what time does.

    python -m examples.claims.reversal_causes         (a quarter of an hour of one core; --quick: four minutes)

Asked in reverse, the next-token twin ranks the right answer first more often than by chance. It could have it from the
facts that are read both ways, or from the matrix that it shares between its input and its output, in which what
predicts a word lies near the word itself. So either is taken away.

As they were read, diffusion writes few of the facts. If that is a matter of time, longer training ends it.
"""

from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from examples.claims import facts
from examples.claims.report import COLOURS, Report, command_line
from examples.claims.reversal import DIRECTIONS, FULL, ask_facts, learn_facts
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS

FACTORS, QUICK_FACTORS = (1, 4), (1, 2)
CAUSES = tuple(product((True, False), (True, False)))
"""(facts that are read both ways, one matrix for input and output)."""
Found = dict[tuple[object, ...], list[Tensor]]


def ranked_in_reverse(seeds: list[int], steps: int) -> Found:
    """Whether the twin ranks the right answer first, of all facts that it read in one direction; keys are `CAUSES`."""
    found: Found = {}
    for seed, (both, tied) in product(seeds, CAUSES):
        world = facts.Facts(seed=seed) if both else facts.Facts(both=0, seed=seed)
        model = learn_facts(TWINS[NEXT_TOKEN], world, steps, tied)
        for seen, asked in (DIRECTIONS, DIRECTIONS[::-1]):
            found.setdefault((both, tied, seen), []).append(ask_facts(model, world, seen, asked)[1])
        print(f"seed {seed}, read both ways {both}, one matrix {tied}: done", flush=True)
    return _together(found)


def by_time(seeds: list[int], factors: tuple[int, ...], steps: int) -> Found:
    """What diffusion writes as it was read, and ranks first in reverse; keys are (factor, "written" or "ranked")."""
    found: Found = {}
    for seed, factor in product(seeds, factors):
        world = facts.Facts(seed=seed)
        model = learn_facts(TWINS[DIFFUSION], world, factor * steps)
        for seen, other in (DIRECTIONS, DIRECTIONS[::-1]):
            found.setdefault((factor, "written", seen), []).append(ask_facts(model, world, seen, seen)[0])
            found.setdefault((factor, "ranked", seen), []).append(ask_facts(model, world, seen, other)[1])
        print(f"seed {seed}, {factor} times the steps: done", flush=True)
    return _together(found)


def _together(found: Found) -> Found:
    """Both groups of facts as one; the last part of a key is the group."""
    keys = dict.fromkeys(key[:-1] for key in found)
    groups = {key: [runs for name, runs in found.items() if name[:-1] == key] for key in keys}
    return {key: [torch.cat(parts) for parts in zip(*runs, strict=True)] for key, runs in groups.items()}


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run both, and report."""
    report, factors = Report("reversal_causes", seeds, quick), QUICK_FACTORS if quick else FACTORS
    steps = FULL.facts // 2 if quick else FULL.facts
    causes = ranked_in_reverse(seeds, steps)
    yes = {True: "yes", False: "no"}
    rows = [[yes[both], yes[tied], mean_over_seeds(causes[both, tied]).percent()] for both, tied in CAUSES]
    report.table("Next token, asked in reverse", ["facts read both ways", "one matrix", "ranked first"], rows)
    lost = difference_over_seeds(causes[True, True], causes[True, False])
    report.check("facts: the twin ranks more in reverse with one matrix for input and output", lost)
    times = by_time(seeds, factors, steps)
    shares = {what: [mean_over_seeds(times[factor, what]) for factor in factors] for what in ("written", "ranked")}
    table = [
        [f"{factor * steps:,}", *(shares[what][place].percent() for what in shares)]
        for place, factor in enumerate(factors)
    ]
    report.table("Masked diffusion by steps", ["steps", "written as read", "ranked first in reverse"], table)
    gain = difference_over_seeds(times[factors[-1], "written"], times[factors[0], "written"])
    report.check(f"facts: diffusion writes more as read after {factors[-1]} times the steps", gain, expected=False)
    axis = report.picture(size=(5.0, 3.4))[0]
    at = [factor * steps for factor in factors]
    for what, label, colour in (
        ("written", "written as read", COLOURS[0]),
        ("ranked", "ranked in reverse", COLOURS[3]),
    ):
        axis.semilogx(at, [100 * share.mean for share in shares[what]], "o-", color=colour, label=label)
    axis.set(xlabel="steps", ylabel="masked diffusion: facts, %", ylim=(0, 102))
    axis.legend(fontsize=8)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

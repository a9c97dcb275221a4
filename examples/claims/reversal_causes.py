"""Two questions about the reversal, on its facts: what the twin knows in reverse, and what a missing END does.

    python -m examples.claims.reversal_causes         (eight minutes of one core; --quick: three)

Asked in reverse, the next-token twin ranks the right answer first more often than by chance. It could have it from the
facts that are read both ways, or from the matrix that it shares between its input and its output, in which what
predicts a word lies near the word itself. So either is taken away.

Diffusion reads rows as a whole, END included. Asked in rows that stop before END, which training never has, it writes
few of the facts that it knows.
"""

from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from examples.claims import facts
from examples.claims.report import COLOURS, Report, bars, command_line
from examples.claims.reversal import DIRECTIONS, FULL, ask_facts, learn_facts
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS, write

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


def by_end(seeds: list[int], steps: int) -> Found:
    """What diffusion writes of its facts; keys are (whether the row has its END, hidden, whether asked in reverse)."""
    found: Found = {}
    for seed in seeds:
        world = facts.Facts(seed=seed)
        model = learn_facts(TWINS[DIFFUSION], world, steps)
        for (seen, asked), end in product(product(DIRECTIONS, DIRECTIONS), (True, False)):
            whole = world.questions(seen, asked)
            length = whole.shape[1] - (not end)
            rows, answer = whole[:, :length], facts.ANSWER[:length]
            right = (write(model, rows, answer) == rows[:, answer]).all(1).double()
            found.setdefault((end, seen != asked, seen), []).append(right)
        print(f"seed {seed}, with and without END: done", flush=True)
    return _together(found)


def _together(found: Found) -> Found:
    """Both groups of facts as one; the last part of a key is the group."""
    keys = dict.fromkeys(key[:-1] for key in found)
    groups = {key: [runs for name, runs in found.items() if name[:-1] == key] for key in keys}
    return {key: [torch.cat(parts) for parts in zip(*runs, strict=True)] for key, runs in groups.items()}


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run both, and report."""
    report = Report("reversal_causes", seeds, quick)
    steps = FULL.facts // 2 if quick else FULL.facts
    causes = ranked_in_reverse(seeds, steps)
    yes = {True: "yes", False: "no"}
    rows = [[yes[both], yes[tied], mean_over_seeds(causes[both, tied]).percent()] for both, tied in CAUSES]
    report.table("Next token, asked in reverse", ["facts read both ways", "one matrix", "ranked first"], rows)
    lost = difference_over_seeds(causes[True, True], causes[True, False])
    report.check("facts: the twin ranks more in reverse with one matrix for input and output", lost)
    ends = by_end(seeds, steps)
    shares = [[mean_over_seeds(ends[end, back]) for end in (True, False)] for back in (False, True)]
    asked = ("as they were read", "in reverse")
    table = [[how, *(share.percent() for share in both)] for how, both in zip(asked, shares, strict=True)]
    report.table("Masked diffusion: written", ["asked", "in rows with their end", "in rows without"], table)
    gain = difference_over_seeds(ends[True, False], ends[False, False])
    report.check("facts: diffusion writes more when its rows have their end", gain)
    axis = report.picture(size=(5.0, 3.4))[0]
    sides = zip(("rows with END", "rows without"), zip(*shares, strict=True), strict=True)
    bars(axis, list(asked), dict(sides), (COLOURS[0], COLOURS[2]))
    axis.set_title(
        f"Asked in rows as training has them, diffusion writes {100 * shares[0][0].mean:.0f} %\n"
        f"of its facts; in rows that stop before END {100 * shares[0][1].mean:.0f} %",
        fontsize=9,
    )
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.44, 1.0))
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

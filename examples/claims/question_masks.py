"""Do the masks of training explain why diffusion learns functions in context less well than its twin?

    python -m examples.claims.question_masks         (half an hour of two cores; --quick: minutes)

A question hides the last output and shows all others. Noise with even levels makes this very mask in 0.006 % of the
rows with five examples; a next-token model is asked it in every row. Here a share of the rows have masks in their last
output alone. All else is as in `in_context`: the same rows, weights, steps and rate. The twin's rows are changed
alike, so that its losses are those of the same outputs.
"""

from pathlib import Path

from torch import Tensor

from examples.claims.in_context import PLANS, Plan, learn
from examples.claims.report import COLOURS, Report, command_line
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS, Training

SHARES = (0.0, 0.5, 1.0)
QUICK = Training(400)
Found = dict[tuple[str, float], list[Tensor]]
"""Right or wrong for every question: (model, share of rows with such masks) -> seed."""


def run(plan: Plan, training: Training, seeds: list[int]) -> Found:
    """Train and ask, with as many examples as there are at most."""
    found: Found = {(name, share): [] for name in TWINS for share in SHARES}
    for seed in seeds:
        for (name, share), runs in found.items():
            model = learn(TWINS[name], plan.task, training, seed, share)
            runs.append(plan.task.ask(model, plan.shown[-1], plan.questions, seed))
            print(f"seed {seed}, {name}, share {share:g}: {runs[-1].mean():.2f}", flush=True)
    return found


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run, and report."""
    report, plan = Report("question_masks", seeds, quick), PLANS["functions"]
    found = run(plan, QUICK if quick else plan.full, seeds)
    means = {key: mean_over_seeds(runs) for key, runs in found.items()}
    head = ["model", *(f"{100 * share:g} % of rows" for share in SHARES)]
    rows = [[name, *(means[name, share].percent() for share in SHARES)] for name in TWINS]
    report.table(f"functions after {plan.shown[-1]} examples, by rows with masks in the last output alone", head, rows)
    gain = difference_over_seeds(found[DIFFUSION, 1.0], found[DIFFUSION, 0.0])
    gap = difference_over_seeds(found[DIFFUSION, 1.0], found[NEXT_TOKEN, 0.0])
    names = ["masks of the question alone, over noise", "the same, over the twin"]
    report.table(
        "Differences of right answers", ["", "points"], [*zip(names, [gain.percent(), gap.percent()], strict=True)]
    )
    report.check("functions: masks of the question help diffusion", gain)
    axis = report.picture(size=(5.0, 3.4))[0]
    for name, colour in ((DIFFUSION, COLOURS[0]), (NEXT_TOKEN, COLOURS[1])):
        centres = [100 * means[name, share].mean for share in SHARES]
        axis.plot([100 * share for share in SHARES], centres, marker="o", color=colour, label=name)
    axis.set(xlabel="rows with masks in the last output alone, %", ylabel="right answers, %", ylim=(0, 102))
    axis.legend(fontsize=8)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

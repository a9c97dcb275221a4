"""Do the masks of training explain why diffusion learns functions in context less well than its twin?

    python -m examples.claims.question_masks         (an hour of one core, resumable; --quick: minutes)

A question hides the last output and shows all others. Noise with even levels makes this very mask in 0.006 % of the
rows with five examples; a next-token model is asked it in every row. Here a share of the rows have masks in their last
output alone. All else is as in `in_context`: the same rows, weights, steps and rate. The twin stays as it is there.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.claims.in_context import PLANS, Plan, learn
from examples.claims.kept import study
from examples.claims.report import Report, bars, command_line
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS, Training

NOISE, HALF, ALL, TWIN = "noise", "half of the rows", "all rows", "as in context"
ARMS = {NOISE: (DIFFUSION, 0.0), HALF: (DIFFUSION, 0.5), ALL: (DIFFUSION, 1.0), TWIN: (NEXT_TOKEN, 0.0)}
"""Name -> (model, share of rows that are masked as a question is)."""
QUICK = Training(400)


def right(plan: Plan, training: Training, arm: str, seed: int) -> dict[str, Any]:
    """Train and ask, with as many examples as there are at most: 1 for each question that is answered rightly."""
    torch.set_num_threads(1)
    model, share = ARMS[arm]
    trained = learn(TWINS[model], plan.task, training, seed, share)
    return {"right": plan.task.ask(trained, plan.shown[-1], plan.questions, seed).tolist()}


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run, and report."""
    report, plan = Report("question_masks", seeds, quick), PLANS["functions"]
    training = QUICK if quick else plan.full
    found: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    file = folder / ("question_masks-quick.jsonl" if quick else "question_masks.jsonl")
    for arm, _, run in study(file, list(ARMS), len(seeds), lambda arm, seed: right(plan, training, arm, seed)):
        found[arm].append(torch.tensor(run.values["right"], dtype=torch.float64))
    means = {arm: mean_over_seeds(runs) for arm, runs in found.items()}
    title = f"functions after {plan.shown[-1]} examples, by which rows are masked as a question is"
    report.table(title, ["rows", "right"], [[arm, share.percent()] for arm, share in means.items()])
    gain, gap = difference_over_seeds(found[ALL], found[NOISE]), difference_over_seeds(found[ALL], found[TWIN])
    differences = [["all rows, over noise", gain.percent()], ["all rows, over the twin", gap.percent()]]
    report.table("Differences of right answers", ["", "points"], differences)
    report.check("functions: masks as a question has them help diffusion", gain)
    axis = report.picture(size=(5.0, 3.4))[0]
    bars(axis, [f"{model},\n{arm}" for arm, (model, _) in ARMS.items()], {"right answers": list(means.values())})
    all_rows, noise, twin = (f"{100 * means[arm].mean:.0f} %" for arm in (ALL, NOISE, TWIN))
    title = f"diffusion is right in {all_rows}\nof new functions, else in {noise}; its twin in {twin}"
    axis.set_title(f"Masked as a question is, {title}", fontsize=9)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

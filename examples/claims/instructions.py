"""Following instructions: before and after fine-tuning, a masked diffusion model and its next-token twin.

    python -m examples.claims.instructions       (--quick for the short form)

Both are pretrained on small tasks told as plain text (`tasks`), then fine-tuned on instructions, where only answers
are masked or scored. They are asked with wordings and arguments that neither stage had: is the answer
right, and does it end where it should? docs/claims/instructions.md has the results.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.claims.report import Report, bars, command_line
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.tasks import ROW, TASKS, Sampled, Words, sample
from examples.claims.twins import TWINS, Recipe, Rows, Training, fit, write
from llada import DiffusionLM

BASE, INSTRUCT = "base", "instruct"


@dataclass(frozen=True)
class Scale:
    """Both stages of training, and the number of questions."""

    pretraining: Training
    fine_tuning: Training
    questions: int


FULL = Scale(Training(1600, rate=3e-3), Training(500, rate=1e-3), 500)
QUICK = Scale(Training(800, rate=3e-3), Training(300, rate=1e-3), 200)


@dataclass(frozen=True)
class Marks:
    """What became of every question, (N,) each: whether the answer is right, and whether it has the right length."""

    right: Tensor
    ended: Tensor


def ask(model: DiffusionLM, asked: Sampled, words: Words) -> Marks:
    """Let the model write from the start of each answer to the end of the row; what stands before END counts."""
    right, ended = torch.zeros(len(asked.tokens)), torch.zeros(len(asked.tokens))
    for start in asked.starts.unique().tolist():
        which = asked.starts == start
        answer = asked.tokens[which, start:]
        written = write(model, asked.tokens[which], torch.arange(ROW) >= start)
        stop = torch.cat([written == words.end, torch.ones(len(written), 1, dtype=torch.bool)], dim=1).int().argmax(1)
        right[which] = ((written == answer) | (torch.arange(ROW - start) > stop[:, None])).all(1).float()
        ended[which] = (stop == asked.lengths[which]).float()
    return Marks(right, ended)


def run(seeds: list[int], scale: Scale) -> dict[tuple[str, str, str], list[Marks]]:
    """Marks of each seed; keys are (model, stage, how it is asked)."""
    words, marks = Words(), {}
    for seed in seeds:
        random = np.random.default_rng(seed)
        stages, questions = draw(words, scale, random)
        for name, make in TWINS.items():
            model = make(Recipe(len(words.words), words.mask, width=64, num_layers=3, convolution=5), seed)
            for stage, (rows, training) in stages.items():
                fit(model, rows, training, seed)
                for kind, asked in questions.items():
                    marks.setdefault((name, stage, kind), []).append(ask(model, asked, words))
            print(f"seed {seed}, {name}: {marks[name, INSTRUCT, 'both new'][-1].right.mean():.2f}", flush=True)
    return marks


def draw(
    words: Words, scale: Scale, random: np.random.Generator
) -> tuple[dict[str, tuple[Rows, Training]], dict[str, Sampled]]:
    """Training rows of both stages, and questions: in the form of the text, known wordings, and all new."""
    stages = {}
    for stage, training, as_text in ((BASE, scale.pretraining, True), (INSTRUCT, scale.fine_tuning, False)):
        rows = min(20_000, training.steps * training.batch_size)
        drawn = sample(words, rows, random, as_text, new_wording=False, new_argument=False)
        stages[stage] = Rows(drawn.tokens, torch.arange(ROW) > 0 if as_text else drawn.answers), training
        if as_text:
            stages[stage] = Rows(drawn.tokens), training
    questions = {
        "as text": sample(words, scale.questions, random, True, new_wording=False, new_argument=True),
        "known wording": sample(words, scale.questions, random, False, new_wording=False, new_argument=True),
        "both new": sample(words, scale.questions, random, False, new_wording=True, new_argument=True),
    }
    return stages, questions


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run, and report."""
    report = Report("instructions", seeds, quick)
    marks = run(seeds, QUICK if quick else FULL)
    table = []
    for (name, stage, kind), runs in marks.items():
        right, ended = (mean_over_seeds([getattr(run, what) for run in runs]) for what in ("right", "ended"))
        table.append([name, stage, kind, right.percent(), ended.percent()])
    report.table("Questions on new arguments", ["model", "stage", "asked", "right", "ends in its place"], table)
    names = [list(TASKS)[i % len(TASKS)] for i in range(len(next(iter(marks.values()))[0].right))]
    by_task = {}
    for name in TWINS:
        chosen = [torch.tensor([task == other for other in names]) for task in TASKS]
        by_task[name] = [mean_over_seeds([run.right[c] for run in marks[name, INSTRUCT, "both new"]]) for c in chosen]
    rows = [[name, *(interval.percent() for interval in column)] for name, column in by_task.items()]
    report.table("After fine-tuning, wording and argument new, by task", ["model", *TASKS], rows)
    for name in TWINS:
        for what, title in (("right", "more answers are right"), ("ended", "more answers end in their place")):
            before, after = (
                [getattr(run, what) for run in marks[name, stage, "both new"]] for stage in (BASE, INSTRUCT)
            )
            report.check(f"{name}: {title} after fine-tuning", difference_over_seeds(after, before))
    left, right_axis = report.picture(columns=2)
    stages = [(stage, kind) for stage in (BASE, INSTRUCT) for kind in ("as text", "both new")]
    bars(
        left,
        [f"{stage}\n{kind}" for stage, kind in stages],
        {name: [mean_over_seeds([run.right for run in marks[name, *key]]) for key in stages] for name in TWINS},
    )
    left.set_title("right answers", fontsize=10)
    bars(right_axis, list(TASKS), by_task)
    right_axis.set_title("after fine-tuning, by task", fontsize=10)
    right_axis.legend(fontsize=8)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

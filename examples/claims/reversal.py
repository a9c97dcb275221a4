"""The reversal curse: who has read "A is B" is asked for A, by a masked diffusion model and by its next-token twin.

    python -m examples.claims.reversal           (--quick for the short form)

Two experiments: invented facts (`facts`), read in one direction and asked in both, by writing the answer and by ranking
it among the answers of the other facts; and poems (`couplets`), asked for the next and the previous line after
fine-tuning on questions about other poems. docs/claims/reversal.md has the results and what they mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.claims import couplets, facts
from examples.claims.report import Report, bars, command_line
from examples.claims.statistics import difference_over_seeds, mean_over_seeds
from examples.claims.twins import DIFFUSION, NEXT_TOKEN, TWINS, Recipe, Rows, Training, fit, log_likelihood, write
from llada import DiffusionLM, RowRandom

Outcomes = dict[tuple[str, ...], list[Tensor]]
"""Key -> one tensor of item outcomes per seed."""
DIRECTIONS = (facts.NAME_FIRST, facts.DESCRIPTION_FIRST)


@dataclass(frozen=True)
class Scale:
    """How long everything is trained: optimiser steps of 64 rows.

    Args:
        facts: on the facts.
        poems: on the poems as text.
        questions: of fine-tuning on questions.
    """

    facts: int
    poems: int
    questions: int


FULL, QUICK = Scale(facts=1800, poems=400, questions=800), Scale(facts=900, poems=300, questions=500)


def learn_facts(
    make: Callable[[Recipe, int], DiffusionLM], world: facts.Facts, steps: int, tied: bool = True
) -> DiffusionLM:
    """Train one of the twins on a world of facts; ``tied``: with the embedding's matrix as the head's."""
    recipe = Recipe(world.vocab_size, facts.MASK, width=64, num_layers=2, convolution=5, tie_embeddings=tied)
    model = make(recipe, world.seed)
    return fit(model, Rows(world.rows()), Training(steps, rate=5e-3, weight_decay=0.1), world.seed)


def ask_facts(model: DiffusionLM, world: facts.Facts, seen: str, asked: str) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each fact's answer is written, END included; whether it ranks first; whether a random other would have.

    The likelihood of every answer of the group is computed for every question of the group, so chance is 1 / N. The
    last is the control: the same question with the answer of the next fact taken for the right one.
    """
    rows, answer = world.questions(seen, asked), facts.ANSWER
    written = (write(model, rows, answer) == rows[:, answer]).all(1)
    n = len(rows)
    pairs = torch.where(answer, rows.repeat(n, 1), rows.repeat_interleave(n, 0))
    best = log_likelihood(model, pairs, answer.expand(pairs.shape)).view(n, n).argmax(1)
    return written.double(), (best == torch.arange(n)).double(), (best == (torch.arange(n) + 1) % n).double()


def learn_poems(make: Callable[[Recipe, int], DiffusionLM], book: couplets.Couplets, scale: Scale) -> DiffusionLM:
    """Train one of the twins on a book, then on questions about some of its poems."""
    model = make(Recipe(book.vocab_size, couplets.MASK, width=64, num_layers=2, convolution=5), book.seed)
    fit(model, Rows(*book.text()), Training(scale.poems, rate=5e-3, weight_decay=0.1), book.seed)
    return fit(model, Rows(*book.fine_tuning()), Training(scale.questions, rate=3e-3, weight_decay=0.1), book.seed + 1)


def ask_poems(model: DiffusionLM, book: couplets.Couplets, kind: int, held_out: bool) -> Tensor:
    """Whether each line is written without an error, end included."""
    asked = book.questions(kind, held_out)
    assert asked.maskable is not None
    answer = asked.maskable[0]  # the same in all of them
    return (write(model, asked.tokens, answer) == asked.tokens[:, answer]).all(1).double()


def hidden_and_visible(draws: int = 200_000) -> tuple[float, float]:
    """Share of training masks, for one row, that hide all of the left thing and show all of the right one; the formula.

    Mask rate t ~ U(0, 1) and spans of a and b tokens: integral of t^a (1 - t)^b = a! b! / (a + b + 1)!; 1/30 for 2, 2.
    """
    random = RowRandom.from_seed(0, draws)
    masked = random.uniform(2 * facts.THING_WORDS) < random.fold_in(1).uniform(1)
    left, right = masked.split(facts.THING_WORDS, dim=1)
    return float((left.all(1) & ~right.any(1)).double().mean()), 1 / 30


def by_evidence(model: DiffusionLM, world: facts.Facts, seen: str) -> list[Tensor]:
    """In a row as it was read, hide the left thing and 0, 1 or 2 words of the right one: is its first word found?

    Training asks the diffusion model for this. It never asks the next-token twin for the left thing given the right.
    """
    rows = world.questions(seen, seen)
    left, right = slice(1, 1 + facts.THING_WORDS), rows.shape[1] - 1 - facts.THING_WORDS
    outcomes = []
    for hidden in range(facts.THING_WORDS + 1):
        masked = rows.clone()
        masked[:, left] = facts.MASK
        masked[:, right : right + hidden] = facts.MASK
        with torch.no_grad():
            outcomes.append((model.forward(masked)[:, 1].argmax(1) == rows[:, 1]).double())
    return outcomes


def run_facts(seeds: list[int], scale: Scale) -> tuple[Outcomes, Outcomes, Outcomes, Outcomes]:
    """Written, ranked first, control, and by evidence; keys are (model, seen, asked)."""
    written, ranked, control, evidence = {}, {}, {}, {}
    for seed in seeds:
        world = facts.Facts(seed=seed)
        for name, make in TWINS.items():
            model = learn_facts(make, world, scale.facts)
            for seen in DIRECTIONS:
                for asked in DIRECTIONS:
                    results = ask_facts(model, world, seen, asked)
                    for outcomes, result in zip((written, ranked, control), results, strict=True):
                        outcomes.setdefault((name, seen, asked), []).append(result)
                if name == DIFFUSION:
                    for hidden, result in enumerate(by_evidence(model, world, seen)):
                        evidence.setdefault((str(hidden),), []).append(result)
            print(f"facts, seed {seed}, {name}: done", flush=True)
    return written, ranked, control, evidence


def run_poems(seeds: list[int], scale: Scale) -> Outcomes:
    """Lines written without an error; keys are (model, which poems, which line)."""
    outcomes: Outcomes = {}
    for seed in seeds:
        book = couplets.Couplets(seed=seed)
        for name, make in TWINS.items():
            model = learn_poems(make, book, scale)
            for poems, held_out in (("asked about", False), ("held out", True)):
                for line, kind in (("next", couplets.NEXT), ("previous", couplets.PREVIOUS)):
                    outcomes.setdefault((name, poems, line), []).append(ask_poems(model, book, kind, held_out))
            print(f"poems, seed {seed}, {name}: done", flush=True)
    return outcomes


def pooled(outcomes: Outcomes, name: str, same: bool) -> list[Tensor]:
    """Outcomes of both groups of facts, asked as they were read or the other way round, seed by seed."""
    parts = [outcomes[name, seen, asked] for seen in DIRECTIONS for asked in DIRECTIONS if (seen == asked) == same]
    return [torch.cat(seed) for seed in zip(*parts, strict=True)]


def show_facts(
    report: Report, results: tuple[Outcomes, Outcomes, Outcomes, Outcomes], masks: tuple[float, float]
) -> None:
    """Tables and checks of the facts."""
    written, ranked, control, evidence = results
    table = []
    for name in TWINS:
        for seen in DIRECTIONS:
            for asked in DIRECTIONS:
                shares = [mean_over_seeds(part[name, seen, asked]).percent() for part in (written, ranked, control)]
                table.append([name, seen, asked, *shares])
    report.table("Facts", ["model", "read", "asked", "written", "ranked first", "control"], table)
    rows = [[hidden, mean_over_seeds(runs).percent()] for (hidden,), runs in evidence.items()]
    report.table("Left thing hidden: its first word found", ["hidden words of the right thing", "percent"], rows)
    report.table(
        "Masks that hide the left thing and show the right one", ["drawn", "formula"], [[f"{x:.4f}" for x in masks]]
    )
    there, back = pooled(ranked, DIFFUSION, same=True), pooled(ranked, DIFFUSION, same=False)
    twin = pooled(ranked, NEXT_TOKEN, same=False)
    ours, theirs = (pooled(written, name, same=False) for name in (DIFFUSION, NEXT_TOKEN))
    report.check(
        "facts, asked in reverse: diffusion writes more answers than its twin", difference_over_seeds(ours, theirs)
    )
    report.check("... and ranks more of them first", difference_over_seeds(back, twin))
    report.check("... and more than the control", difference_over_seeds(back, pooled(control, DIFFUSION, same=False)))
    report.check(
        "facts: the twin loses more by the reversal",
        difference_over_seeds(
            [a - b for a, b in zip(pooled(ranked, NEXT_TOKEN, same=True), twin, strict=True)],
            [a - b for a, b in zip(there, back, strict=True)],
        ),
    )


def main(seeds: list[int], folder: Path, quick: bool) -> None:
    """Run both experiments, and report."""
    report, scale = Report("reversal", seeds, quick), QUICK if quick else FULL
    results = run_facts(seeds, scale)
    show_facts(report, results, hidden_and_visible())
    poems = run_poems(seeds, scale)
    table = [[*key, mean_over_seeds(runs).percent()] for key, runs in poems.items()]
    report.table("Poems", ["model", "poems", "line", "written"], table)
    back = difference_over_seeds(poems[DIFFUSION, "held out", "previous"], poems[NEXT_TOKEN, "held out", "previous"])
    report.check("poems, previous line of held-out poems: diffusion writes more than its twin", back)
    for model in TWINS:
        for way, line in (("forward", "next"), ("backward", "previous")):
            share = mean_over_seeds(poems[model, "held out", line])
            report.number(f"poems {way}, {model}, %", share.times(100))
    left, right = report.picture(columns=2)
    bars(
        left,
        ["written\nas read", "written\nreversed", "ranked first\nas read", "ranked first\nreversed"],
        {
            name: [mean_over_seeds(pooled(part, name, same)) for part in results[:2] for same in (True, False)]
            for name in TWINS
        },
    )
    left.set_title("facts", fontsize=10)
    bars(
        right,
        ["next line", "previous line"],
        {name: [mean_over_seeds(poems[name, "held out", line]) for line in ("next", "previous")] for name in TWINS},
    )
    right.set_title("held-out poems", fontsize=10)
    right.legend(fontsize=8)
    report.finish(folder)


if __name__ == "__main__":
    options = command_line(__doc__)
    main(options.seeds, options.folder, options.quick)

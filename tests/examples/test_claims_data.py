"""The claims' data hold out what they say, and ask what can be answered."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from examples.claims import couplets, facts
from examples.claims.in_context import BEGIN, END, FIRST, MASK, PLANS, Functions, Recall
from examples.claims.reversal import hidden_and_visible
from examples.claims.tasks import ROW, TASKS, Words, sample
from examples.claims.twins import NEXT_TOKEN, TWINS, Recipe

WORDS = Words()


def contains(rows: torch.Tensor, part: list[int]) -> int:
    return sum(row[i : i + len(part)] == part for row in rows.tolist() for i in range(len(row) - len(part) + 1))


def test_facts_are_read_in_their_direction_only() -> None:
    world = facts.Facts(per_group=4, both=5)
    rows = world.rows()
    names, descriptions = (part.tolist() for part in world.things())
    assert len({word for name in names for word in name}) == 2 * world.total  # no word is used twice
    place = {tuple(name): i for i, name in enumerate(names)}
    order = [row[1:3] in names for row in rows.tolist()]
    seen: dict[int, set[bool]] = {}
    for row, name_first in zip(rows.tolist(), order, strict=True):
        fact = place[tuple(row[1:3] if name_first else row[5:7])]
        assert (row[5:7] if name_first else row[1:3]) == descriptions[fact]
        seen.setdefault(fact, set()).add(name_first)
    assert [seen[i] for i in range(13)] == 4 * [{True}] + 4 * [{False}] + 5 * [{True, False}]
    assert rows.max() < world.vocab_size


@pytest.mark.parametrize("asked", [facts.NAME_FIRST, facts.DESCRIPTION_FIRST])
def test_questions_use_wordings_that_no_row_has(asked: str) -> None:
    world = facts.Facts(per_group=4, both=5)
    rows = world.rows()
    for form in range(4):
        asked_rows = world.questions(facts.NAME_FIRST, asked, form)
        prompts, answers = asked_rows[:, ~facts.ANSWER], asked_rows[:, facts.ANSWER]
        known, wanted = world.things() if asked == facts.NAME_FIRST else world.things()[::-1]
        assert torch.equal(prompts[:, 1:3], known[:4])
        assert torch.equal(answers[:, :-1], wanted[:4])
        assert (answers[:, -1] == facts.END).all()
        assert asked_rows.shape[1] == rows.shape[1]  # a question is as long as what was read
        wording = prompts[0, 3:].tolist()
        assert contains(rows, wording) == 0
        assert all(contains(rows, [word]) for word in wording)


def test_held_out_poems_are_read_and_never_asked_about() -> None:
    book = couplets.Couplets(asked=5, held_out=3)
    text, training = book.text(), book.fine_tuning()
    for kind in (couplets.NEXT, couplets.PREVIOUS):
        held_out = book.questions(kind, held_out=True).tokens
        for row in held_out.tolist():
            assert row not in training.tokens.tolist()
            assert contains(text.tokens, row[2 : 2 + couplets.LINE_WORDS]) == 1
    first, second = (book.questions(kind, True).tokens for kind in (couplets.NEXT, couplets.PREVIOUS))
    assert torch.equal(first[:, 2:5], second[:, 6:9])  # what follows in one precedes in the other
    questions = training.tokens[:, 1] != couplets.POEM
    assert training.maskable[~questions].all()
    assert training.maskable[questions].sum(1).unique().tolist() == [couplets.LINE_WORDS + 1]


def test_the_share_of_masks_is_the_formulas() -> None:
    drawn, formula = hidden_and_visible()
    # Standard error sqrt(p (1 - p) / 200000) = 0.0004: 4 of them are exceeded once in 16000 seeds; the seed is fixed.
    assert drawn == pytest.approx(formula, abs=0.0016)


def test_recall_tells_the_value_of_a_key_once_and_for_all() -> None:
    examples = Recall().examples(50, 20, True, torch.Generator().manual_seed(0)) - FIRST
    for row in examples.tolist():
        assert len({tuple(pair) for pair in row}) == len({key for key, _ in row})
    tables = {tuple(sorted({tuple(pair) for pair in row})) for row in examples.tolist()}
    assert len(tables) == 50


def test_held_out_functions_are_none_of_training() -> None:
    task = Functions()
    known, held_out = (set(map(tuple, task.family(flag).tolist())) for flag in (False, True))
    assert (len(known), len(held_out)) == (21, 6)
    assert not known & held_out
    # Every output copies every input in some function of training, so nothing that is held out is new in its parts.
    assert {(j, f[j]) for f in held_out for j in range(3)} <= {(j, f[j]) for f in known for j in range(3)}


@pytest.mark.parametrize("name", PLANS)
def test_training_rows_mask_outputs_only(name: str) -> None:
    task = PLANS[name].task
    rows = task.training_rows(64, torch.Generator().manual_seed(0))
    assert rows.maskable is not None
    assert (rows.tokens[:, 0] == BEGIN).all()
    outputs = rows.maskable.sum(1) // task.outputs
    assert set(outputs.tolist()) == set(range(1, task.most + 2))
    assert not rows.maskable[rows.tokens == END].any()
    assert (rows.tokens[rows.maskable] >= FIRST).all()


@pytest.mark.parametrize("name", PLANS)
def test_a_share_of_the_rows_has_masks_in_the_last_output_alone(name: str) -> None:
    task = PLANS[name].task
    plain, half, every = (
        task.training_rows(64, torch.Generator().manual_seed(0), asked=share) for share in (0.0, 0.5, 1.0)
    )
    assert torch.equal(plain.tokens, half.tokens)
    assert torch.equal(plain.tokens, every.tokens)
    assert torch.equal(plain.maskable[32:], half.maskable[32:])
    assert torch.equal(half.maskable[:32], every.maskable[:32])
    later = plain.maskable.flip(1).cumsum(1).flip(1)  # outputs from here to the end
    assert torch.equal(every.maskable, plain.maskable & (later <= task.outputs))


def test_the_optimum_of_recall_is_the_share_of_keys_shown_and_a_guess() -> None:
    task = Recall()
    assert task.optimum(0) == pytest.approx(1 / 8)
    keys = task.examples(20_000, 5, True, torch.Generator().manual_seed(1))[..., 0]
    shown = (keys[:, :-1] == keys[:, -1:]).any(1).double()
    # Standard error 0.003; 0.013 is exceeded once in 16000 seeds, and this one is fixed.
    assert float((shown + (1 - shown) / 8).mean()) == pytest.approx(task.optimum(4), abs=0.013)


def test_the_optimum_of_the_functions_grows_from_a_guess_to_certainty() -> None:
    shares = [Functions().optimum(shown) for shown in range(6)]
    assert shares == sorted(shares)
    # Without examples the best guess is the most frequent of the 3 letters: of 64 words 4 have one letter, where it is
    # right, 36 have one twice, where it is right in 2 of 3 cases, and 24 have three, where it is right in 1 of 3.
    assert shares[0] == pytest.approx((4 / 64 + 36 / 64 * 2 / 3 + 24 / 64 / 3) ** 3, abs=0.01)
    assert shares[-1] > 0.98


@pytest.mark.parametrize("as_text", [True, False])
def test_answers_are_right_and_end(as_text: bool) -> None:
    asked = sample(WORDS, 50, np.random.default_rng(0), as_text, new_wording=False, new_argument=False)
    for row, start, length, name in zip(asked.tokens, asked.starts, asked.lengths, asked.tasks, strict=True):
        words = [WORDS.words[token] for token in row]
        answer = words[start : start + length]
        argument = words[1 : start - 1] if as_text else words[5 : start - 1]
        assert (words[start - 1] == TASKS[name].told) if as_text else (words[4], words[start - 1]) == (":", "=")
        assert answer == TASKS[name].answer(argument)
        assert words[start + length :] == ["END"] * (ROW - start - length)
        assert len(words[start + length :]) >= 1
    assert asked.answers.sum(1).tolist() == (ROW - asked.starts).tolist()


def test_wordings_and_arguments_of_questions_are_new() -> None:
    random = np.random.default_rng(0)
    told = sample(WORDS, 2000, random, False, new_wording=False, new_argument=False)
    asked = sample(WORDS, 300, random, False, new_wording=True, new_argument=True)

    def wordings(rows: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(row[1:4].tolist()) for row in rows}

    def arguments(rows: torch.Tensor, starts: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(row[5 : start - 1].tolist()) for row, start in zip(rows, starts, strict=True)}

    assert not wordings(told.tokens) & wordings(asked.tokens)
    assert not arguments(told.tokens, told.starts) & arguments(asked.tokens, asked.starts)
    assert {word for wording in wordings(asked.tokens) for word in wording} <= {
        word for wording in wordings(told.tokens) for word in wording
    }


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("twin", TWINS)
def test_questions_are_rows_as_training_has_them(name: str, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusion reads all of a row: one that ends before its END is none that it was trained on."""
    task, asked = PLANS[name].task, []
    recipe = Recipe(FIRST + task.symbols, MASK, width=16, num_layers=1)
    model = TWINS[twin](recipe, 0)
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda tokens: asked.append(tokens) or generate(tokens))
    for shown in (0, task.most):
        task.ask(model, shown, 5, 0)
    length = task.training_rows(3, torch.Generator()).tokens.shape[1]
    for shown, rows in zip((0, task.most), asked, strict=True):
        end = 1 + (shown + 1) * (task.inputs + task.outputs)
        assert rows.shape[1] == (end if twin == NEXT_TOKEN else length)
        assert (rows[:, end - task.outputs : end] == MASK).all()
        assert (rows == MASK).sum(1).unique().tolist() == [task.outputs]
        assert (rows[:, end:] == END).all()

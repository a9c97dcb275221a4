"""Rounds of edits reach the text; labels against a plain alignment of one row."""

import random
from functools import cache

import pytest
import torch
from torch import Tensor

from llada.process.levenshtein import EditTokens, edit_labels, edited, matches

NAMES = EditTokens(mask=9, delete=10, insert=11)
_ = NAMES.mask  # as it looks in a row


def rows(dice: random.Random, count: int, size: int, alphabet: int, masks: float) -> tuple[Tensor, Tensor, Tensor]:
    def drawn(share: float) -> list[int]:
        return [NAMES.mask if dice.random() < share else dice.randrange(alphabet) for _ in range(size)]

    real = torch.arange(size) < torch.tensor([[dice.randint(1, size)] for _ in range(count)])
    draft, text = (torch.tensor([drawn(share) for _ in range(count)]) for share in (masks, 0.0))
    return draft, text, real


@pytest.mark.parametrize("masks", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("alphabet", [2, 4])
def test_from_any_draft_the_text_is_reached_in_as_many_rounds_as_it_has_tokens(alphabet: int, masks: float) -> None:
    dice = random.Random(alphabet)
    for size in (1, 2, 3, 5, 8, 13):
        draft, text, real = rows(dice, 300, size, alphabet, masks)
        length, reached = real.sum(1), torch.full((300,), -1)
        reached[((draft == text) | ~real).all(1)] = 0
        behind = draft[~real].clone()
        for number in range(1, size + 1):
            draft, _ = edited(draft, edit_labels(draft, text, real, NAMES), real, NAMES)
            same = ((draft == text) | ~real).all(1)
            assert same[reached >= 0].all(), "a text that was reached was left again"
            reached[(reached < 0) & same] = number
        assert (reached >= 0).all()
        assert (reached <= length).all()
        assert torch.equal(draft[~real], behind)


def most(draft: list[int], text: list[int]) -> tuple[int, int]:
    """Real matches and, of such alignments, the most masks that are matched, by trying everything."""

    @cache
    def best(i: int, j: int) -> tuple[int, int]:
        if i == len(draft) or j == len(text):
            return 0, 0
        found = max(best(i + 1, j), best(i, j + 1))
        if draft[i] in (text[j], NAMES.mask):
            real, masks = best(i + 1, j + 1)
            found = max(found, (real + (draft[i] == text[j]), masks + (draft[i] == NAMES.mask)))
        return found

    return best(0, 0)


def test_matches_are_as_many_as_can_be() -> None:
    draft, text, real = rows(random.Random(3), 100, 8, 3, 0.3)
    partner = matches(draft, text, real, NAMES.mask)
    for row in range(100):
        n = int(real[row].sum())
        x, y = draft[row, :n].tolist(), text[row, :n].tolist()
        pairs = [(i, j) for i, j in enumerate(partner[row].tolist()) if j >= 0]
        assert all(i < n and x[i] in (y[j], NAMES.mask) for i, j in pairs)
        assert [j for _, j in pairs] == sorted({j for _, j in pairs})
        masks = sum(x[i] == NAMES.mask for i, _ in pairs)
        assert (len(pairs) - masks, masks) == most(x, y)


@pytest.mark.parametrize(
    ("draft", "text", "labels"),
    [
        ([1, 2, 3], [1, 2, 3], [1, 2, 3]),
        ([1, 5, 3], [1, 2, 3], [1, 2, 3]),  # replaced
        ([1, 5, 5, 3, 4], [1, 2, 3, 4, 6], [1, 2, 10, 3, 4]),  # replaced and deleted
        ([3, 4, 5, 5], [1, 2, 3, 4], [11, 4, 10, 10]),  # one mask at a time
        ([_, _, 3], [1, 2, 3], [1, 2, 3]),
        ([_, 3, 4, 0], [1, 2, 3, 4], [1, 11, 4, 10]),
        ([1, _, _, 2], [1, 2, 3, 4], [1, 10, 10, 2]),  # a real match is worth more than any masks
    ],
)
def test_labels(draft: list[int], text: list[int], labels: list[int]) -> None:
    real = torch.ones(1, len(draft)).bool()
    assert edit_labels(torch.tensor([draft]), torch.tensor([text]), real, NAMES).tolist() == [labels]


def test_what_becomes_of_a_draft() -> None:
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    said = torch.tensor([[1, 10, 5, 4], [11, 2, 3, 4], [10, 11, 3, 4]])
    real = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False]])
    new, source = edited(tokens, said, real, NAMES)
    assert new.tolist() == [[1, 5, 4, _], [_, 1, 2, 3], [_, 2, 3, 4]]
    assert source.tolist() == [[0, 2, 3, -1], [-1, 0, 1, 2], [-1, 1, 2, 3]]

"""Edits that turn a draft into a text of the same length: keep, replace, delete, insert, in rounds.

The longest common subsequence matches tokens of the draft x with tokens of the text y. Between two matches, and at
either end, stand p tokens of x and q of y:

    the first min(p, q) of x are replaced by those of y, what is left of x is deleted, and if more of y is left, one
    mask is inserted in front of the match that follows: at most one in a round.

What falls short of the length is filled with masks behind. A mask matches any token, but counts less than a real match.
Repeated, the rounds reach y in at most as many rounds as it has tokens.

Shapes: B rows, M tokens of a draft and of a text.

Reference: Levenshtein editing of LLaDA2.2; Gu et al., "Levenshtein Transformer", arXiv 1905.11006.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.process.columns import Edit


class EditTokens(NamedTuple):
    """The tokens by which a network asks for edits.

    Attributes:
        mask: a token that is still to be written.
        delete: this token goes.
        insert: a mask comes in front of this token.
    """

    mask: int
    delete: int
    insert: int


def edit_labels(draft: Tensor, text: Tensor, real: Tensor, names: EditTokens) -> Tensor:
    """What a network should say of each token of a draft, (B, M) int64: a token, ``delete`` or ``insert``.

    Args:
        draft: (B, M) int64.
        text: (B, M) int64.
        real: (B, M) bool, the tokens of each row, from its first column on; the others get their own token.
        names: the tokens that aren't text.
    """
    partner = matches(draft, text, real, names.mask)
    matched = partner >= 0
    columns = torch.arange(draft.shape[1], device=draft.device).expand_as(draft)
    before = torch.nn.functional.pad(partner.cummax(1).values, (1, 0), value=-1)[:, :-1]  # of the match on the left
    behind = torch.nn.functional.pad(torch.where(matched, columns, -1).cummax(1).values, (1, 0), value=-1)[:, :-1]
    length = real.sum(1, keepdim=True)
    following = torch.where(matched, partner, draft.shape[1]).flip(1).cummin(1).values.flip(1).minimum(length)
    rank = columns - behind - 1  # among the tokens of the draft since the match on the left
    target = before + 1 + rank
    replaced = torch.where(target < following, text.gather(1, target.clamp(max=draft.shape[1] - 1)), names.delete)
    kept = text.gather(1, partner.clamp(min=0))
    short = matched & (partner - before - 1 > rank) & (draft != names.mask)
    labels = torch.where(matched, torch.where(short, names.insert, kept), replaced)
    return torch.where(real, labels, draft)


def matches(draft: Tensor, text: Tensor, real: Tensor, mask: int) -> Tensor:
    """The token of the text that each token of a draft is matched with, (B, M) int64, rising; -1 for none.

    Real matches are as many as can be; of such alignments it is one with the most masks matched, then one whose matches
    come first.

    Args:
        draft: (B, M) int64.
        text: (B, M) int64.
        real: (B, M) bool, the tokens of each row, from its first column on.
        mask: matches any token.
    """
    rows, size = draft.shape
    both = real[:, :, None] & real[:, None, :]
    worth = torch.where(draft[:, :, None] == text[:, None, :], size + 1, (draft == mask)[:, :, None].long()) * both
    best = draft.new_zeros(rows, size + 1, size + 1)  # of what follows two places
    for at in range(size - 1, -1, -1):
        here = torch.maximum(best[:, at + 1, :-1], worth[:, at] + best[:, at + 1, 1:])
        best[:, at, :-1] = here.flip(1).cummax(1).values.flip(1)
    partner = torch.full_like(draft, -1)
    i, j, row = torch.zeros_like(draft[:, 0]), torch.zeros_like(draft[:, 0]), torch.arange(rows, device=draft.device)
    for _ in range(2 * size):
        inside = (i < size) & (j < size)
        a, b = i.clamp(max=size - 1), j.clamp(max=size - 1)
        now, value = best[row, a, b], worth[row, a, b]
        match = inside & (value > 0) & (value + best[row, a + 1, b + 1] == now)
        skip = inside & ~match & (best[row, a + 1, b] == now)  # of the draft's token; else of the text's
        partner[row, a] = torch.where(match, b, partner[row, a])
        i, j = i + (match | skip), j + (inside & ~skip)
    return partner


def edited(tokens: Tensor, said: Tensor, real: Tensor, names: EditTokens) -> tuple[Tensor, Tensor]:
    """What becomes of a draft when a network's word is obeyed.

    Args:
        tokens: (B, M) int64, the draft.
        said: (B, M) int64, the token to be there, or ``delete``, ``insert``.
        real: (B, M) bool, the tokens of each row, in one piece.
        names: the tokens that aren't text.

    Returns:
        The next draft (B, M) with as many tokens in each row: masks fill it up, and what is too much falls off its end.
        And the column of the draft that each of its tokens comes from, (B, M) int64, -1 for new masks.
    """
    insert = real & (said == names.insert)
    spread = torch.nn.functional.pad(insert.long(), (0, 1))
    edit = Edit.of(real, real & (said == names.delete), spread)
    size, width = tokens.shape[1], edit.source.shape[1]
    source = torch.nn.functional.pad(edit.source, (0, max(0, size - width)), value=-1)[:, :size]
    new = torch.where(insert, tokens, said).gather(1, source.clamp(min=0))
    new = torch.where(source >= 0, new, names.mask)
    return torch.where(real, new, tokens), torch.where(real, source, torch.arange(size, device=tokens.device))

"""Poems of two lines, and questions for the line that follows or precedes.

    read as text             POEM first line / second line
    fine-tuning, questions   NEXT first line / second line          the answer, behind the stroke, is to be written
                             PREVIOUS second line / first line

Every poem is read as text, in its order. Only some are asked about in fine-tuning; the others are held out, so
answering for them takes the poem from the text and the skill of answering from the questions about other poems.

After the poem completion of Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, with random words.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LINE_WORDS = 3
BEGIN, END, MASK, STROKE, POEM, NEXT, PREVIOUS = range(7)


class Rows(NamedTuple):
    """Rows of equal length: tokens (N, 10) int64, and maskable (N, 10) bool, false for questions."""

    tokens: Tensor
    maskable: Tensor


@dataclass(frozen=True)
class Couplets:
    """A book of poems.

    Args:
        asked: poems with questions in fine-tuning.
        held_out: poems without.
        seed: of the book.
    """

    asked: int = 100
    held_out: int = 25
    seed: int = 0

    @property
    def vocab_size(self) -> int:
        """The special tokens and the words."""
        return 7 + 2 * LINE_WORDS * (self.asked + self.held_out)

    def lines(self) -> Tensor:
        """(N, 2, 3): the two lines of every poem; no word is used twice, and poems that are asked about come first."""
        random = np.random.default_rng(self.seed)
        poems = self.asked + self.held_out
        words = np.stack([random.permutation(poems) for _ in range(2 * LINE_WORDS)], axis=1)
        return torch.from_numpy(7 + words + poems * np.arange(2 * LINE_WORDS)).view(poems, 2, LINE_WORDS)

    def text(self) -> Rows:
        """All poems as text."""
        lines = self.lines()
        tokens = self._row(POEM, lines[:, 0], lines[:, 1])
        return Rows(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def questions(self, kind: int, held_out: bool) -> Rows:
        """Questions of a kind, `NEXT` or `PREVIOUS`, with their answers and an end; only these are maskable."""
        lines = self.lines()[self.asked :] if held_out else self.lines()[: self.asked]
        known, wanted = (0, 1) if kind == NEXT else (1, 0)
        tokens = self._row(kind, lines[:, known], lines[:, wanted])
        answer = torch.arange(tokens.shape[1]) >= 3 + LINE_WORDS
        return Rows(tokens, answer.expand(tokens.shape))

    def fine_tuning(self) -> Rows:
        """Both kinds of questions about the poems that are asked about, and all poems as text again."""
        parts = [self.questions(NEXT, False), self.questions(PREVIOUS, False), self.text()]
        return Rows(torch.cat([part.tokens for part in parts]), torch.cat([part.maskable for part in parts]))

    def _row(self, kind: int, first: Tensor, second: Tensor) -> Tensor:
        column = first.new_ones(len(first), 1)
        return torch.cat([BEGIN * column, kind * column, first, STROKE * column, second, END * column], dim=1)

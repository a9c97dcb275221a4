"""Invented facts, "name is description", that a model reads in one direction and is asked in both.

A name has two words and a description two, none of them used twice. Three groups:

    name first           read as "NAME is known as DESCRIPTION" only
    description first    read as "DESCRIPTION is the title of NAME" only
    both                 read both ways; from these a model can learn that the two wordings mean the same

Each wording has several forms; the questions use forms that no training row has.

After Berglund et al., "The Reversal Curse", arXiv 2309.12288, with words of our own and without their rewordings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NAME_FIRST, DESCRIPTION_FIRST, BOTH = "name first", "description first", "both"
THING_WORDS = 2
BEGIN, END, MASK = range(3)
ANSWER = torch.tensor([False] * (1 + THING_WORDS + 2) + [True] * (THING_WORDS + 1))
"""Where a row that is asked as a question has its answer, (8,) bool; END is the last token of an answer."""


@dataclass(frozen=True)
class Facts:
    """A world of facts.

    Args:
        per_group: facts read in one direction, of each direction.
        both: facts read in both.
        seed: of the world.
    """

    per_group: int = 20
    both: int = 80
    seed: int = 0

    @property
    def total(self) -> int:
        """Number of facts."""
        return 2 * self.per_group + self.both

    @property
    def vocab_size(self) -> int:
        """Begin, end and mask; the words of names and descriptions; 8 words for the middle of either direction."""
        return 3 + 2 * THING_WORDS * self.total + 16

    def things(self) -> tuple[Tensor, Tensor]:
        """All names and all descriptions, (N, 2) each, group after group; first and second words pair up at random."""
        random = np.random.default_rng(self.seed)
        words = np.stack([random.permutation(self.total) for _ in range(2 * THING_WORDS)], axis=1)
        things = torch.from_numpy(3 + words + self.total * np.arange(2 * THING_WORDS))
        return things[:, :THING_WORDS], things[:, THING_WORDS:]

    def group(self, name: str) -> slice:
        """Places of a group among all facts."""
        n = self.per_group
        return {NAME_FIRST: slice(0, n), DESCRIPTION_FIRST: slice(n, 2 * n), BOTH: slice(2 * n, None)}[name]

    def phrases(self, direction: str, held_out: bool) -> Tensor:
        """The middle of a sentence, (forms, 2): 12 forms for training, 4 for questions, of the same 8 words."""
        first = 3 + 2 * THING_WORDS * self.total + (8 if direction == DESCRIPTION_FIRST else 0)
        forms = [(first + i, first + 4 + j) for i in range(4) for j in range(4) if (i == j) == held_out]
        return torch.tensor(forms)

    def rows(self) -> Tensor:
        """The training text: every fact in every form of its direction, (N, 8)."""
        names, descriptions = self.things()
        rows = []
        for direction in (NAME_FIRST, DESCRIPTION_FIRST):
            for group in (direction, BOTH):
                place = self.group(group)
                left, right = names[place], descriptions[place]
                if direction == DESCRIPTION_FIRST:
                    left, right = right, left
                rows += [self._row(left, form, right) for form in self.phrases(direction, held_out=False)]
        return torch.cat(rows)

    def questions(self, group: str, direction: str, form: int = 0) -> Tensor:
        """Rows that ask all facts of a group, with their answers at `ANSWER`; (N, 8).

        Args:
            group: how the facts were read.
            direction: `NAME_FIRST` asks for the description, `DESCRIPTION_FIRST` for the name.
            form: which of the 4 held-out forms.
        """
        names, descriptions = (part[self.group(group)] for part in self.things())
        left, right = (names, descriptions) if direction == NAME_FIRST else (descriptions, names)
        return self._row(left, self.phrases(direction, held_out=True)[form], right)

    def _row(self, left: Tensor, form: Tensor, right: Tensor) -> Tensor:
        edge = left.new_ones(len(left), 1)
        return torch.cat([BEGIN * edge, left, form.expand(len(left), -1), right, END * edge], dim=1)

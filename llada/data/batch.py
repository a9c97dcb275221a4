"""What a batch is, and how rows of unequal length become one; what else a loader may hand out is in `foreign`.

A data set hands out token ids and which of them may be masked. Corruption is the process's business, not the
collator's. Shapes: B rows, L positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor
from typing_extensions import override

from llada.data.tokenizers.tokenizer import Tokenizer


class TokenBatch(TypedDict):
    """A batch of clean rows.

    Attributes:
        tokens: (B, L) int64.
        maskable: (B, L) bool; False for a prompt and for padding that is no part of the data.
        attention_mask: (B, L) bool, True for real tokens; absent where all are.
        segment_ids: (B, L) int64, the document of each position, from 0 in each row; absent where documents see one
            another.

    Examples:
        >>> import torch
        >>> from llada.data import TokenBatch
        >>> tokens = torch.tensor([[5, 6, 7, 0]])  # the prompt 5, the answer 6 7, and padding
        >>> batch = TokenBatch(tokens=tokens, maskable=tokens > 5, attention_mask=tokens > 0)
        >>> batch["maskable"].sum()  # tokens that can be learnt
        tensor(2)
    """

    tokens: Tensor
    maskable: Tensor
    attention_mask: NotRequired[Tensor]
    segment_ids: NotRequired[Tensor]


class AnswerRow(NamedTuple):
    """A prompt and its answer.

    Attributes:
        tokens: (n,) int64, the prompt and then the answer.
        answer_start: index of the first token of the answer.
    """

    tokens: Tensor
    answer_start: int


def already_batched(batch: TokenBatch) -> TokenBatch:
    """The ``collate_fn`` for data sets whose ``__getitems__`` gathers a whole batch at once."""
    return batch


def pad_right(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Stack rows of unequal length, with the padding after them.

    Args:
        rows: B tensors of shape (n_b,) int64.
        fill: id of the padding.

    Returns:
        Tokens (B, L) int64 and which of them are real, (B, L) bool, with L = max n_b.
    """
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    real = torch.arange(width) < lengths[:, None]
    tokens = torch.full((len(rows), width), fill, dtype=torch.int64)
    tokens[real] = torch.cat(list(rows))
    return tokens, real


def pad_left(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Stack rows of unequal length, with the padding before them; arguments and result as in `pad_right`."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    real = torch.arange(width) >= width - lengths[:, None]
    tokens = torch.full((len(rows), width), fill, dtype=torch.int64)
    tokens[real] = torch.cat(list(rows))
    return tokens, real


class Padding(ABC):
    """How the answers of a batch come to one length."""

    @abstractmethod
    def __call__(self, rows: Sequence[AnswerRow], tokenizer: Tokenizer) -> TokenBatch:
        """Stack the rows.

        Args:
            rows: B prompts with their answers.
            tokenizer: knows the ids of the special tokens.

        Raises:
            ValueError: if the tokenizer lacks the special token that this padding needs.
        """


@dataclass(frozen=True)
class EosInAnswer(Padding):
    """Short answers go on with EOS, which is masked, predicted and counted like the rest of the answer.

    So the model learns where to stop, and answers of a batch have their length up to the longest row's end. Nothing is
    hidden from attention.

    Reference:
        Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, section 2.3 and appendix B.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.data import EosInAnswer
        >>> from llada.data.batch import AnswerRow
        >>> rows = [AnswerRow(torch.tensor([5, 6, 7]), 1), AnswerRow(torch.tensor([5, 8]), 1)]
        >>> batch = EosInAnswer()(rows, SimpleNamespace(special_id={"eos": 2}.get))
        >>> batch["tokens"].tolist(), batch["maskable"].int().tolist()
        ([[5, 6, 7], [5, 8, 2]], [[0, 1, 1], [0, 1, 1]])
    """

    @override
    def __call__(self, rows: Sequence[AnswerRow], tokenizer: Tokenizer) -> TokenBatch:
        tokens, _ = pad_right([row.tokens for row in rows], tokenizer.special_id("eos"))
        starts = torch.tensor([row.answer_start for row in rows])
        return {"tokens": tokens, "maskable": torch.arange(tokens.shape[1]) >= starts[:, None]}


@dataclass(frozen=True)
class ExcludedPadding(Padding):
    """Padding outside the data: neither seen by attention nor masked, predicted or counted.

    Args:
        left: whether it stands before the row instead of after it.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.data import ExcludedPadding
        >>> from llada.data.batch import AnswerRow
        >>> rows = [AnswerRow(torch.tensor([5, 6, 7]), 1), AnswerRow(torch.tensor([5, 8]), 1)]
        >>> batch = ExcludedPadding()(rows, SimpleNamespace(special_id={"pad": 0}.get))
        >>> batch["tokens"].tolist(), batch["maskable"].int().tolist()
        ([[5, 6, 7], [5, 8, 0]], [[0, 1, 1], [0, 1, 0]])
        >>> batch["attention_mask"].int().tolist()
        [[1, 1, 1], [1, 1, 0]]
    """

    left: bool = False

    @override
    def __call__(self, rows: Sequence[AnswerRow], tokenizer: Tokenizer) -> TokenBatch:
        pad = pad_left if self.left else pad_right
        tokens, real = pad([row.tokens for row in rows], tokenizer.special_id("pad"))
        # The answer is the row's tail: count its tokens from the first real position.
        place = real.cumsum(1) - 1
        starts = torch.tensor([row.answer_start for row in rows])
        return {"tokens": tokens, "maskable": real & (place >= starts[:, None]), "attention_mask": real}

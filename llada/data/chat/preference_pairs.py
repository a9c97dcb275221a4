"""Preferences as batches: the columns of the chosen answers, and the same again for the rejected ones.

    tokens, maskable, attention_mask, segment_ids             prompt and chosen answer
    rejected_tokens, rejected_maskable, ...                   prompt and rejected answer
    row                                                       (B,) int64, number of the pair; of rows of one pair each

To an objective that knows nothing of preferences this is fine-tuning on the chosen answers, and so the bound that
validation reports is theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from llada.data.batch import AnswerRow, ExcludedPadding, Padding, TokenBatch
from llada.data.chat.answers import AnswerDataModule
from llada.data.chat.chat_template import ChatRow, ChatTemplate, make_row, plain_template
from llada.data.chat.conversations import Message
from llada.data.chat.over_long import Account, OverLong, Refuse, fit_answers, size
from llada.data.chat.packed_answers import PackedAnswers, RowPacking
from llada.data.chat.preferences import Preference, PreferenceSource
from llada.data.packing import AnswerRows
from llada.data.token_file import TokenFile
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining

_PAIRS = 2
"""Number of the way in which pairs are written; another one gives another folder of token files."""


class PairRows(AnswerRows):
    """Pairs over a token file of prompts and answers in turn: of pair k, row 2 k is the chosen one and 2 k + 1 not.

    Args:
        file: the tokens.
        padding: makes a batch of rows of unequal length.
        tokenizer: knows the ids that the padding needs.

    Raises:
        ValueError: if the file is empty or doesn't hold whole pairs.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from types import SimpleNamespace
        >>> from llada.data import ExcludedPadding, PairRows, TokenFile, TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         for document in ([5], [6, 6], [5], [7]):  # prompt and chosen answer, prompt and rejected answer
        ...             writer.add(document)
        ...     file = TokenFile(writer.path)
        >>> batch = PairRows(file, ExcludedPadding(), SimpleNamespace(special_id={"pad": 0}.get)).__getitems__([0])
        >>> batch["tokens"].tolist(), batch["rejected_tokens"].tolist()
        ([[5, 6, 6]], [[5, 7]])
    """

    def __init__(self, file: TokenFile, padding: Padding, tokenizer: Tokenizer) -> None:
        super().__init__(file, padding, tokenizer)
        if file.num_documents % 4:
            raise ValueError(f"{file.path} has {file.num_documents} documents; pairs are four each")

    def __len__(self) -> int:
        return self.file.num_documents // 4

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of pairs, padded; -1 gives a pair without maskable tokens."""
        filling, sides = torch.tensor(indices) < 0, []
        for side in range(2):
            batch = self.padding([self._answer(2 * (index % len(self)) + side) for index in indices], self.tokenizer)
            batch["maskable"][filling] = False
            sides.append(batch)
        return _joined(*sides, row=torch.tensor(indices))

    @override
    def row(self, index: int) -> AnswerRow:
        return self._answer(2 * (index % len(self)))

    def _answer(self, number: int) -> AnswerRow:
        start, middle, end = (int(offset) for offset in self.file.offsets[2 * number : 2 * number + 3])
        return AnswerRow(torch.from_numpy(self.file.tokens[start:end].astype(np.int64)), middle - start)


class PackedPairs(PackedAnswers):
    """Rows of several pairs: segment k of a row and segment k of its rejected row are a pair.

    Args:
        alone: the same pairs, a row each.
        max_length: L, of either row.
        packing: decides what shares a row, by the longer answer of each pair.

    Raises:
        ValueError: if a prompt with its answer is longer than a row.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import ExcludedPadding, FirstFitDecreasing, PackedPairs, PairRows
        >>> from llada.data import TokenFile, TokenFileWriter
        >>> with TemporaryDirectory() as folder:
        ...     with TokenFileWriter(f"{folder}/tokens", vocab_size=10, fingerprint="") as writer:
        ...         for document in ([5], [6, 6], [5], [7], [5], [8], [5], [9]):  # two pairs, four documents each
        ...             writer.add(document)
        ...     file = TokenFile(writer.path)
        >>> rows = PackedPairs(PairRows(file, ExcludedPadding(), None), max_length=5, packing=FirstFitDecreasing())
        >>> batch = rows.__getitems__([0])
        >>> batch["tokens"].tolist(), batch["rejected_tokens"].tolist()
        ([[5, 6, 6, 5, 8]], [[5, 7, 5, 9, 0]])
    """

    def __init__(self, alone: PairRows, max_length: int, packing: RowPacking) -> None:
        super().__init__(alone, max_length, _OneSide(packing, 0))
        self._rejected = PackedAnswers(alone, max_length, _OneSide(packing, 1))

    @property
    def fill(self) -> float:
        """Share of the positions that hold tokens."""
        return float(self._bounds[-1] - self._bounds[0]) / (2 * len(self) * self.max_length)

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of rows; indices as in `PackedAnswers.__getitems__`."""
        return _joined(super().__getitems__(indices), self._rejected.__getitems__(indices))


@dataclass(frozen=True)
class _OneSide(RowPacking):
    """Packs pairs by the longer answer of each, and gives the rows of one of the answers."""

    packing: RowPacking
    side: int

    @override
    def __call__(self, lengths: NDArray[np.int64], max_length: int) -> list[list[int]]:
        longer = lengths.reshape(-1, 2).max(1)
        return [[2 * pair + self.side for pair in row] for row in self.packing(longer, max_length)]


class PreferenceDataModule(AnswerDataModule[Preference]):
    """Pairs of answers to a prompt, which is never masked.

    Args:
        source: the pairs.
        tokenizer: a tokenizer, or how to train one on the messages.
        max_length: tokens that a prompt with one of its answers may have.
        batch_size: rows per batch and rank: pairs, or packed rows of them.
        template: how messages become tokens.
        padding: what follows short rows. What counts as an answer mustn't depend on its neighbours here, so nothing is
            added to it.
        over_long: what becomes of pairs of which a row has more than ``max_length`` tokens, see
            `llada.data.chat.over_long`; both rows keep the same turns. How many there were is logged.
        val_source: see `TokenDataModule`.
        test_source: see `TokenDataModule`.
        val_fraction: see `TokenDataModule`; all pairs of a prompt fall on the same side.
        test_fraction: see `TokenDataModule`.
        cache_folder: where token files and tokenizer go, in a sub-folder per setting.
        num_workers: processes that load batches.
        seed: of the order of rows; the split doesn't depend on it.
        packing: what shares a row; None: a row for each pair.

    Raises:
        ValueError: if the sizes or fractions are out of range.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines, PreferenceDataModule, PreferencePairs, SentencePieceTraining
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "pairs.jsonl").write_text('{"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"}')
        ...     source, words = PreferencePairs(JsonLines(f"{folder}/pairs.jsonl")), SentencePieceTraining(268)
        ...     data = PreferenceDataModule(source, words, 32, batch_size=1, val_fraction=0.0, cache_folder=folder)
        ...     data.prepare_data()
        ...     data.setup("fit")
        ...     batch = next(iter(data.train_dataloader()))
        >>> words = data.tokenizer
        >>> [words.decode(batch[name][0]).splitlines() for name in ("tokens", "rejected_tokens")]
        [['1 + 1 =', '2'], ['1 + 1 =', '3']]
    """

    counted = held = "pairs"
    alone = PairRows
    packed = PackedPairs

    def __init__(
        self,
        source: PreferenceSource,
        tokenizer: Tokenizer | TokenizerTraining,
        max_length: int,
        batch_size: int,
        template: ChatTemplate = plain_template(),  # noqa: B008 - frozen
        padding: Padding = ExcludedPadding(),  # noqa: B008 - frozen
        over_long: OverLong = Refuse(),  # noqa: B008 - frozen
        val_source: PreferenceSource | None = None,
        test_source: PreferenceSource | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        cache_folder: str = "token_cache",
        num_workers: int = 0,
        seed: int = 0,
        packing: RowPacking | None = None,
    ) -> None:
        super().__init__(
            max_length, template, padding, over_long, packing, source=source, tokenizer=tokenizer,
            cache_folder=cache_folder, batch_size=batch_size, val_source=val_source, test_source=test_source,
            val_fraction=val_fraction, test_fraction=test_fraction, num_workers=num_workers, seed=seed,
        )  # fmt: skip

    @override
    def settings(self) -> dict[str, Any]:
        own = ["pairs", _PAIRS, self.max_length, repr(self.template), repr(self.over_long)]
        return {**super().settings(), "rows": own}

    def key(self, document: Preference) -> str:
        """The prompt."""
        return repr([message.as_object() for message in document.prompt])

    def texts(self, document: Preference) -> Iterable[str]:
        """The messages."""
        messages = [*document.prompt, document.chosen, document.rejected]
        return [text for message in messages for text in message.texts()]

    @override
    def rows_of(self, document: Preference, tokenizer: Tokenizer, account: Account) -> list[ChatRow]:
        """The rows of both answers; an empty list for a pair that is left out."""
        try:
            return self._pair(document, tokenizer, account)
        except ValueError as error:
            raise ValueError(f"{document.where}: {error}") from error

    def _pair(self, pair: Preference, tokenizer: Tokenizer, account: Account) -> list[ChatRow]:
        def write(turns: Sequence[Message]) -> ChatRow:
            row = make_row(self.template, turns, tokenizer, pair.tools)
            if not row.answer:
                raise ValueError("an answer has no tokens, so it can't be compared")
            return row

        turns = [[*pair.prompt, answer] for answer in (pair.chosen, pair.rejected)]
        rows = [write(messages) for messages in turns]
        fitted = fit_answers(rows, turns, write, self.over_long, self.max_length)
        is_long = max(map(size, rows)) > self.max_length
        account.rows += 1
        if fitted is not None and fitted[0].answer == fitted[1].answer:
            account.equal += 1
            account.first_equal = account.first_equal or pair.where
        account.over_long += is_long
        account.left_out += fitted is None
        account.fitted += is_long and fitted is not None
        return fitted or []


def _joined(chosen: TokenBatch, rejected: TokenBatch, **further: Tensor) -> TokenBatch:
    other = {f"rejected_{name}": value for name, value in rejected.items()}
    return cast(TokenBatch, {**chosen, **other, **further})

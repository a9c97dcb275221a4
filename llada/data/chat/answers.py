"""What data modules share whose documents become rows of a prompt and an answer; the prompt is never masked."""

import logging
from abc import abstractmethod
from typing import Any, ClassVar

from typing_extensions import override

from llada.data.batch import Padding
from llada.data.chat.chat_template import ChatRow, ChatTemplate
from llada.data.chat.over_long import Account, OverLong
from llada.data.chat.packed_answers import PackedAnswers, RowPacking
from llada.data.datamodule import Document, TokenDataModule
from llada.data.packing import AnswerRows, Canvases, TokenRows
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class AnswerDataModule(TokenDataModule[Document]):
    """Rows of prompts with answers. A subclass says which rows a document gives, and how they make a batch.

    Args:
        max_length: tokens that a row may have.
        template: how messages become tokens.
        padding: what follows short rows.
        over_long: what becomes of rows with more than ``max_length`` tokens.
        packing: what shares a row; None: a row each.
        **data: arguments of `TokenDataModule`.

    Raises:
        ValueError: if the sizes or fractions are out of range.
    """

    counted: ClassVar[str] = "rows"
    """The word for what may be over-long."""
    held: ClassVar[str] = "answers"
    """The word for what packed rows hold."""
    alone: ClassVar[type[AnswerRows]] = AnswerRows
    packed: ClassVar[Any] = PackedAnswers

    def __init__(
        self,
        max_length: int,
        template: ChatTemplate,
        padding: Padding,
        over_long: OverLong,
        packing: RowPacking | None,
        **data: Any,
    ) -> None:
        super().__init__(**data)
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more; got {max_length}")
        self.max_length, self.template, self.padding = max_length, template, padding
        self.over_long, self.packing = over_long, packing

    @abstractmethod
    def rows_of(self, document: Document, tokenizer: Tokenizer, account: Account) -> list[ChatRow]:
        """The rows of a document, none of them over-long.

        Args:
            document: of the source.
            tokenizer: that writes them.
            account: of what was too long or empty.

        Raises:
            ValueError: if the document makes no rows, or if they are too long and that is refused.
        """

    @override
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        account = Account(kind=self.counted)
        for part, document in self.documents():
            for prompt, answer in self.rows_of(document, tokenizer, account):
                writers[part].add(prompt)
                writers[part].add(answer)
        for warning in account.warnings(self.max_length, self.over_long):
            _log.warning("%s", warning)

    @override
    def make_rows(self, file: TokenFile) -> AnswerRows | PackedAnswers:
        alone = self.alone(file, self.padding, self.tokenizer)
        if self.packing is None:
            return alone
        packed: PackedAnswers = self.packed(alone, self.max_length, self.packing)
        fill = 100 * packed.fill
        _log.info("%s: %d rows hold %d %s, %.1f%% full", file.path, len(packed), len(alone), self.held, fill)
        return packed

    @override
    def make_canvases(self, rows: TokenRows | AnswerRows) -> Canvases:
        return Canvases(rows, self.mask_token_id)

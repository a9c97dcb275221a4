"""Prompts with answers for supervised fine-tuning: only answers are maskable."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from llada.data.batch import EosInAnswer, Padding
from llada.data.chat.chat_template import ChatRow, ChatTemplate, Tools, make_row, plain_template
from llada.data.chat.conversations import ASSISTANT, Conversation, ConversationSource, Message
from llada.data.chat.over_long import Account, OverLong, Refuse, size
from llada.data.chat.packed_answers import PackedAnswers, RowPacking
from llada.data.datamodule import TokenDataModule
from llada.data.packing import AnswerRows, Canvases, TokenRows
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining

_ROWS = 3
"""Number of the way in which rows are made; another one gives another folder of token files."""
_log = logging.getLogger(__name__)


class InstructionDataModule(TokenDataModule[Conversation]):
    """Conversations as rows of a prompt and its answer; the prompt is never masked.

    A chat of several turns gives one row for each answer of the assistant, with the turns before it as the prompt.
    (LLaDA draws one of them at random.)

    Args:
        source: conversations.
        tokenizer: a tokenizer, or how to train one on the messages.
        max_length: tokens that a row may have.
        batch_size: rows per batch and rank.
        template: how messages become tokens.
        padding: what follows short answers.
        every_turn: whether every answer of a chat gives a row, instead of the last one alone.
        over_long: what becomes of rows with more than ``max_length`` tokens, see `llada.data.chat.over_long`; how many
            there were is logged.
        val_source: see `TokenDataModule`.
        test_source: see `TokenDataModule`.
        val_fraction: see `TokenDataModule`; all rows of a chat fall on the same side.
        test_fraction: see `TokenDataModule`.
        cache_folder: where token files and tokenizer go, in a sub-folder per setting.
        num_workers: processes that load batches.
        seed: of the order of rows; the split doesn't depend on it.
        packing: what shares a row of ``max_length`` tokens, so that hardly a position is padding: several prompts with
            their answers, which don't see one another and each have their own noise level. None: a row each. Packed
            answers end with their own EOS; ``padding`` then is for ``predict`` alone.

    Raises:
        ValueError: if the sizes or fractions are out of range.

    Reference:
        Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, section 2.3 and appendix B.
    """

    def __init__(
        self,
        source: ConversationSource,
        tokenizer: Tokenizer | TokenizerTraining,
        max_length: int,
        batch_size: int,
        template: ChatTemplate = plain_template(),  # noqa: B008 - frozen
        padding: Padding = EosInAnswer(),  # noqa: B008 - frozen
        every_turn: bool = True,
        over_long: OverLong = Refuse(),  # noqa: B008 - frozen
        val_source: ConversationSource | None = None,
        test_source: ConversationSource | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        cache_folder: str = "token_cache",
        num_workers: int = 0,
        seed: int = 0,
        packing: RowPacking | None = None,
    ) -> None:
        super().__init__(
            source=source,
            tokenizer=tokenizer,
            cache_folder=cache_folder,
            batch_size=batch_size,
            val_source=val_source,
            test_source=test_source,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            num_workers=num_workers,
            seed=seed,
        )
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more; got {max_length}")
        self.max_length, self.template, self.padding = max_length, template, padding
        self.every_turn, self.over_long, self.packing = every_turn, over_long, packing

    @override
    def settings(self) -> dict[str, Any]:
        own = [_ROWS, self.max_length, repr(self.template), self.every_turn, repr(self.over_long)]
        return {**super().settings(), "rows": own}

    def key(self, document: Conversation) -> str:
        """The whole chat."""
        said = [(m.role, m.content, m.fields) if m.fields else (m.role, m.content) for m in document.messages]
        return repr(said if document.tools is None else [said, document.tools])

    def texts(self, document: Conversation) -> Iterable[str]:
        """The messages."""
        return [text for message in document.messages for text in message.texts()]

    @override
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        account = Account()
        for part, conversation in self.documents():
            for prompt, answer in self._rows_of(conversation, tokenizer, account):
                writers[part].add(prompt)
                writers[part].add(answer)
        for warning in account.warnings(self.max_length, self.over_long):
            _log.warning("%s", warning)

    @override
    def make_rows(self, file: TokenFile) -> AnswerRows | PackedAnswers:
        alone = AnswerRows(file, self.padding, self.tokenizer)
        if self.packing is None:
            return alone
        packed = PackedAnswers(alone, self.max_length, self.packing)
        _log.info("%s: %d rows hold %d answers, %.1f%% full", file.path, len(packed), len(alone), 100 * packed.fill)
        return packed

    def make_canvases(self, rows: TokenRows | AnswerRows) -> Canvases:
        """Prompts with as many masks as the answers have tokens."""
        return Canvases(rows, self.mask_token_id)

    def _rows_of(self, conversation: Conversation, tokenizer: Tokenizer, account: Account) -> list[ChatRow]:
        """The rows of a chat, none of them over-long."""
        where, messages, tools = conversation
        turns = [index for index, message in enumerate(messages) if message.role == ASSISTANT]
        if not turns:
            raise ValueError(f"{where}: there is no message with the role {ASSISTANT!r}, so nothing to learn")
        found = []
        turns = turns if self.every_turn else turns[-1:]
        for turn in turns:
            try:
                row = self._fitted(messages[: turn + 1], tokenizer, tools, account)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if not any(text.strip() for text in messages[turn].texts()):
                account.empty += 1
                account.first_empty = account.first_empty or where
            found += [] if row is None else [row]
        found = [] if self.over_long.takes_the_chat and len(found) < len(turns) else found
        account.rows += len(turns)
        account.left_out += len(turns) - len(found)
        return found

    def _fitted(self, messages: list[Message], tokenizer: Tokenizer, tools: Tools, account: Account) -> ChatRow | None:
        """The row of a conversation that ends with an answer; None if it is too long and is to be left out."""

        def write(turns: Sequence[Message]) -> ChatRow:
            row = make_row(self.template, turns, tokenizer, tools)
            if not row.answer:
                raise ValueError("the answer has no tokens, so no position of the row may be masked")
            return row

        row = write(messages)
        if size(row) <= self.max_length:
            return row
        account.over_long += 1
        fitted = self.over_long.fit(row, messages, write, self.max_length)
        account.fitted += fitted is not None
        return fitted

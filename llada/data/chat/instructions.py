"""Prompts with answers for supervised fine-tuning: only answers are maskable."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import override

from llada.data.batch import EosInAnswer, Padding
from llada.data.chat.chat_template import ChatRow, ChatTemplate, make_row, plain_template
from llada.data.chat.conversations import ASSISTANT, Conversation, ConversationSource
from llada.data.chat.packed_answers import PackedAnswers, RowPacking
from llada.data.datamodule import TokenDataModule
from llada.data.packing import AnswerRows, Canvases, TokenRows
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining

_ROWS = 2
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
        drop_over_long: whether rows of more than ``max_length`` tokens are left out, and their number logged, instead
            of being an error.
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
        drop_over_long: bool = False,
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
        self.every_turn, self.drop_over_long, self.packing = every_turn, drop_over_long, packing

    @override
    def settings(self) -> dict[str, Any]:
        own = [_ROWS, self.max_length, repr(self.template), self.every_turn, self.drop_over_long]
        return {**super().settings(), "rows": own}

    def key(self, document: Conversation) -> str:
        """The whole chat."""
        said = [tuple(message) if not message.fields else (*message, message.fields) for message in document.messages]
        return repr(said if document.tools is None else [said, document.tools])

    def texts(self, document: Conversation) -> Iterable[str]:
        """The messages."""
        return [text for message in document.messages for text in message.texts()]

    @override
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        dropped = kept = 0
        for part, conversation in self.documents():
            for prompt, answer in self._encode(conversation, tokenizer):
                length = len(prompt) + len(answer)
                if length > self.max_length and not self.drop_over_long:
                    raise ValueError(
                        f"{conversation.where}: the row has {length} tokens, but max_length is {self.max_length}; "
                        "raise it, shorten the text, or set drop_over_long"
                    )
                if length > self.max_length:
                    dropped += 1
                    continue
                kept += 1
                writers[part].add(prompt)
                writers[part].add(answer)
        if dropped:
            _log.warning("left out %d of %d rows with more than %d tokens", dropped, dropped + kept, self.max_length)

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

    def _encode(self, conversation: Conversation, tokenizer: Tokenizer) -> Iterator[ChatRow]:
        where, messages, tools = conversation
        turns = [index for index, message in enumerate(messages) if message.role == ASSISTANT]
        if not turns:
            raise ValueError(f"{where}: there is no message with the role {ASSISTANT!r}, so nothing to learn")
        for turn in turns if self.every_turn else turns[-1:]:
            try:
                row = make_row(self.template, messages[: turn + 1], tokenizer, tools)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if not row.answer:
                raise ValueError(f"{where}: the answer has no tokens, so no position of the row may be masked")
            yield row

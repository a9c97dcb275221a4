"""Prompts with answers for supervised fine-tuning: only answers are maskable."""

from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from llada.data.batch import EosInAnswer, Padding
from llada.data.chat.answers import AnswerDataModule
from llada.data.chat.chat_template import ChatRow, ChatTemplate, Tools, make_row, plain_template
from llada.data.chat.conversations import ASSISTANT, Conversation, ConversationSource, Message
from llada.data.chat.over_long import Account, OverLong, Refuse, size
from llada.data.chat.packed_answers import RowPacking
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining

_ROWS = 3
"""Number of the way in which rows are made; another one gives another folder of token files."""


class InstructionDataModule(AnswerDataModule[Conversation]):
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

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import InstructionDataModule, JsonLines, PromptAnswers, SentencePieceTraining
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "tasks.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}')
        ...     source, words = PromptAnswers(JsonLines(f"{folder}/tasks.jsonl")), SentencePieceTraining(267)
        ...     data = InstructionDataModule(source, words, 32, batch_size=1, val_fraction=0.0, cache_folder=folder)
        ...     data.prepare_data()
        ...     data.setup("fit")
        ...     batch = next(iter(data.train_dataloader()))
        >>> learnt = batch["tokens"][batch["maskable"]]  # the answer, and the EOS behind it
        >>> data.tokenizer.decode(learnt), int(learnt[-1]) == data.tokenizer.eos_token_id
        ('2', True)
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
            max_length, template, padding, over_long, packing, source=source, tokenizer=tokenizer,
            cache_folder=cache_folder, batch_size=batch_size, val_source=val_source, test_source=test_source,
            val_fraction=val_fraction, test_fraction=test_fraction, num_workers=num_workers, seed=seed,
        )  # fmt: skip
        self.every_turn = every_turn

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
    def rows_of(self, document: Conversation, tokenizer: Tokenizer, account: Account) -> list[ChatRow]:
        where, messages, tools = document
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

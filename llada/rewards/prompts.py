"""Prompts with what their reward needs, and the data module that has them answered by the model that is trained."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from llada.data.batch import TokenBatch, pad_left
from llada.data.chat.chat_template import ChatTemplate, make_prompt, plain_template
from llada.data.chat.conversations import USER, Message, read_messages
from llada.data.datamodule import TokenDataModule
from llada.data.sources import DocumentSource, RecordSource, text_field
from llada.data.split import TRAIN, VAL
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining
from llada.rewards.advantage import Advantage, LeaveOneOut
from llada.rewards.loader import RolloutLoader
from llada.rewards.reward import Reward, Row
from llada.rewards.rollout import Rollout
from llada.rewards.writer import Prompt, Writer


class Task(NamedTuple):
    """A prompt, and what is known of it.

    Attributes:
        where: the place it was found at, for messages.
        messages: the turns before the answer.
        row: the fields of its record.
    """

    where: str
    messages: list[Message]
    row: Row


class TaskSource(DocumentSource[Task]):
    """Prompts with what is known of them."""


@dataclass(frozen=True)
class Tasks(TaskSource):
    """Records with a prompt, and fields that a reward reads.

    Args:
        records: where they come from.
        prompt: field of the prompt, a text or a list of messages.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines
        >>> from llada.rewards import Tasks
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "tasks.jsonl").write_text('{"prompt": "2 + 2 =", "answer": "4"}')
        ...     for task in Tasks(JsonLines(f"{folder}/tasks.jsonl")):
        ...         task.messages[0].content, task.row["answer"]  # what is asked, and what the reward reads
        ('2 + 2 =', '4')
    """

    records: RecordSource
    prompt: str = "prompt"

    @override
    def __iter__(self) -> Iterator[Task]:
        for where, record in self.records.records():
            if isinstance(record.get(self.prompt), list):
                messages = read_messages(record, self.prompt, where)
            else:
                messages = [Message(USER, text_field(record, self.prompt, where))]
            yield Task(where, messages, record)

    @override
    def fingerprint(self) -> str:
        return f"{self!r} {self.records.fingerprint()}"


class PromptRows(Dataset[TokenBatch]):
    """Prompts over a token file, and the canvases on which they are answered.

    Args:
        file: the prompts.
        tasks: where they come from, in the same order.
        answer_length: masks behind each.
        mask_token_id: the mask.
        pad_token_id: what shorter prompts get in front.

    Raises:
        ValueError: if there isn't a task for each prompt.
    """

    def __init__(
        self, file: TokenFile, tasks: list[Task], answer_length: int, mask_token_id: int, pad_token_id: int
    ) -> None:
        if file.num_documents != len(tasks):
            raise ValueError(f"{file.path} has {file.num_documents} prompts, and their source {len(tasks)}")
        self.file, self.tasks, self.answer_length = file, tasks, answer_length
        self.mask_token_id, self.pad_token_id = mask_token_id, pad_token_id

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]  # `__getitems__` gives the batches
        messages, row = self.tasks[index].messages, self.tasks[index].row
        return Prompt(self.file.document(index).tolist(), "\n".join(text for m in messages for text in m.texts()), row)

    def __getitems__(self, indices: list[int]) -> TokenBatch:
        """A batch of canvases, padded on the left; -1 gives a row with nothing to fill."""
        masks = torch.full((self.answer_length,), self.mask_token_id)
        prompts = [torch.tensor(self[index % len(self)].tokens) for index in indices]
        tokens, real = pad_left([torch.cat((prompt, masks)) for prompt in prompts], self.pad_token_id)
        answer = torch.arange(tokens.shape[1]) >= tokens.shape[1] - self.answer_length
        wanted = torch.tensor(indices)[:, None] >= 0
        return {"tokens": tokens, "maskable": answer & wanted, "attention_mask": real}


class RewardDataModule(TokenDataModule[Task]):
    """Prompts that are answered by the model in training, judged, and handed out as batches to learn from.

    Args:
        source: prompts.
        tokenizer: a tokenizer, or how to train one on the prompts.
        reward: what answers are worth.
        rollout: how prompts are answered.
        batch_size: prompts per batch and rank; a batch has as many times ``rollout.group_size`` rows.
        advantage: how the answers to a prompt are compared; `llada.rewards.ADVANTAGES` has those of published methods.
        inner_steps: optimiser steps for each answer.
        template: how messages become tokens.
        val_source: see `TokenDataModule`; held-out prompts, which the callback Rewards has answered.
        val_fraction: see `TokenDataModule`.
        cache_folder: where token files and tokenizer go, in a sub-folder per setting.
        seed: of the order of prompts and of the answers.

    Raises:
        ValueError: if the sizes or fractions are out of range, or answers have no length.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines, SentencePieceTraining
        >>> from llada.rewards import Number, RewardDataModule, Rollout, Tasks
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "tasks.jsonl").write_text('{"prompt": "2 + 2 =", "answer": "4"}')
        ...     tasks, rollout = Tasks(JsonLines(f"{folder}/tasks.jsonl")), Rollout(group_size=4, answer_length=8)
        ...     data = RewardDataModule(
        ...         tasks, SentencePieceTraining(266), Number(), rollout, 1, val_fraction=0.0, cache_folder=folder
        ...     )
        ...     data.prepare_data()
        ...     data.setup("fit")
        >>> data.train_dataloader().prompts[0].text
        '2 + 2 ='
    """

    def __init__(
        self,
        source: TaskSource,
        tokenizer: Tokenizer | TokenizerTraining,
        reward: Reward,
        rollout: Rollout = Rollout(),  # noqa: B008 - frozen
        batch_size: int = 8,
        advantage: Advantage = LeaveOneOut(),  # noqa: B008 - frozen
        inner_steps: int = 1,
        template: ChatTemplate = plain_template(),  # noqa: B008 - frozen
        val_source: TaskSource | None = None,
        val_fraction: float = 0.05,
        cache_folder: str = "token_cache",
        seed: int = 0,
    ) -> None:
        super().__init__(
            source=source,
            tokenizer=tokenizer,
            cache_folder=cache_folder,
            batch_size=batch_size,
            val_source=val_source,
            test_source=None,
            val_fraction=val_fraction,
            test_fraction=0.0,
            num_workers=0,
            seed=seed,
        )
        if rollout.answer_length < 1:
            raise ValueError(f"rollout.answer_length must be 1 or more; got {rollout.answer_length}")
        self.reward, self.rollout, self.advantage = reward, rollout, advantage
        self.inner_steps, self.template = inner_steps, template
        self._tasks: dict[str, list[Task]] = {}

    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "rows": [_PROMPTS, repr(self.template)]}

    @override
    def key(self, document: Task) -> str:
        return repr([(message.role, message.content) for message in document.messages])

    @override
    def texts(self, document: Task) -> Iterable[str]:
        return [text for message in document.messages for text in message.texts()]

    @override
    def write(self, writers: dict[str, TokenFileWriter], tokenizer: Tokenizer) -> None:
        for part, task in self.documents():
            try:
                writers[part].add(make_prompt(self.template, task.messages, tokenizer, None))
            except ValueError as error:
                raise ValueError(f"{task.where}: {error}") from error

    @override
    def setup(self, stage: str) -> None:
        self._tasks = {part: [] for part in self.parts}
        for part, task in self.documents():
            self._tasks[part].append(task)
        super().setup(stage)

    @override
    def make_rows(self, file: TokenFile) -> PromptRows:  # type: ignore[override]  # of no data, but of prompts
        tasks, pad = self._tasks[file.path.stem], self.tokenizer.pad_token_id
        return PromptRows(file, tasks, self.rollout.answer_length, self.mask_token_id, 0 if pad is None else pad)

    @override
    def make_canvases(self, rows: PromptRows) -> PromptRows:  # type: ignore[override]
        return rows

    @override
    def train_dataloader(self) -> RolloutLoader:  # type: ignore[override]
        rows = self.rows(TRAIN)
        return RolloutLoader(rows, self.writer, self.batch_size, self.inner_steps, self.seed, self.trainer)  # type: ignore[arg-type]

    @override
    def val_dataloader(self) -> list[Any]:
        return []  # there are no answers that the bound could be about

    @property
    def writer(self) -> Writer:
        """What has prompts answered and judged."""
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id
        return Writer(
            self.rollout,
            self.reward,
            tokenizer.decode,
            self.advantage,
            0 if pad is None else pad,
            tuple(sorted(tokenizer.stop_token_ids)),
        )

    @property
    def held_out(self) -> list[Prompt]:
        """The prompts of the validation data; none if there is none."""
        rows: Any = self.rows(VAL) if VAL in self.parts else []
        return [rows[index] for index in range(len(rows))]


_PROMPTS = 1
"""Number of the way in which prompts are written; another one gives another folder of token files."""

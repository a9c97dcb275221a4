"""Where conversations come from: prompts with answers, and chats of several turns."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llada.data.sources import RecordSource, text_field

USER, ASSISTANT = "user", "assistant"


class Message(NamedTuple):
    """One turn.

    Attributes:
        role: "user", "assistant", or whatever else the template knows, such as "system".
        content: what is said.
    """

    role: str
    content: str


class Conversation(NamedTuple):
    """Turns in order.

    Attributes:
        where: the place it was found at, for messages.
        messages: the turns.
    """

    where: str
    messages: list[Message]


class ConversationSource(ABC):
    """Conversations, in the same order at every iteration."""

    @abstractmethod
    def __iter__(self) -> Iterator[Conversation]:
        """Yield one conversation after the other.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a record is malformed; the message names file and line.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes if the conversations do."""


@dataclass(frozen=True)
class PromptAnswers(ConversationSource):
    """Records with a prompt and its answer.

    Args:
        records: where they come from.
        prompt: field of the prompt.
        answer: field of the answer.
    """

    records: RecordSource
    prompt: str = "prompt"
    answer: str = "answer"

    def __iter__(self) -> Iterator[Conversation]:
        for where, record in self.records.records():
            prompt, answer = text_field(record, self.prompt, where), text_field(record, self.answer, where)
            yield Conversation(where, [Message(USER, prompt), Message(ASSISTANT, answer)])

    def fingerprint(self) -> str:
        """Settings, and the records' own fingerprint."""
        return f"{self!r} {self.records.fingerprint()}"


@dataclass(frozen=True)
class ChatMessages(ConversationSource):
    """Records with a list of messages: ``{"messages": [{"role": "user", "content": "Hi"}, ...]}``.

    Args:
        records: where they come from.
        messages: field of the list.
    """

    records: RecordSource
    messages: str = "messages"

    def __iter__(self) -> Iterator[Conversation]:
        for where, record in self.records.records():
            if not isinstance(record.get(self.messages), list) or not record[self.messages]:
                raise ValueError(f"{where}: field {self.messages!r} must be a list with at least one message")
            yield Conversation(where, [_message(entry, where) for entry in record[self.messages]])

    def fingerprint(self) -> str:
        """Settings, and the records' own fingerprint."""
        return f"{self!r} {self.records.fingerprint()}"


def _message(entry: object, where: str) -> Message:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a message must be an object with 'role' and 'content'; got {type(entry).__name__}")
    return Message(text_field(entry, "role", where), text_field(entry, "content", where))

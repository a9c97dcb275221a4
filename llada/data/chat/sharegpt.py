"""Conversations in the form of ShareGPT: ``{"conversations": [{"from": "human", "value": "Hi"}, ...]}``."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from llada.data.chat.conversations import ASSISTANT, USER, Conversation, ConversationSource, Message
from llada.data.sources import RecordSource, text_field


def _usual_roles() -> dict[str, str]:
    return {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": "system"}


@dataclass(frozen=True)
class ShareGPT(ConversationSource):
    """Records with a list of turns that say who speaks (``from``) and what (``value``).

    Args:
        records: where they come from.
        conversations: field of the list.
        system: field of a system message for the whole chat; left out where a record has none.
        roles: the role that each speaker has. Others are refused by name, such as those of tool calls: what they say
            reads differently in every data set.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines, ShareGPT
        >>> chat = '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}'
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "chats.jsonl").write_text(chat)
        ...     for conversation in ShareGPT(JsonLines(f"{folder}/chats.jsonl")):
        ...         [(message.role, message.content) for message in conversation.messages]
        [('user', 'Hi'), ('assistant', 'Hello!')]
    """

    records: RecordSource
    conversations: str = "conversations"
    system: str = "system"
    roles: dict[str, str] = field(default_factory=_usual_roles)

    @override
    def __iter__(self) -> Iterator[Conversation]:
        for where, record in self.records.records():
            turns = record.get(self.conversations)
            if not isinstance(turns, list) or not turns:
                raise ValueError(f"{where}: field {self.conversations!r} must be a list with at least one turn")
            messages = [self._message(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, start=1)]
            if record.get(self.system):
                messages.insert(0, Message("system", text_field(record, self.system, where)))
            yield Conversation(where, messages)

    def fingerprint(self) -> str:
        """Settings, and the records' own fingerprint."""
        return f"{self!r} {self.records.fingerprint()}"

    def _message(self, turn: Any, where: str) -> Message:
        if not isinstance(turn, dict):
            raise ValueError(f"{where}: must be an object with 'from' and 'value'; got {type(turn).__name__}")
        speaker = text_field(turn, "from", where)
        if speaker not in self.roles:
            raise ValueError(
                f"{where}: the speaker {speaker!r} is none of {', '.join(map(repr, self.roles))}; say its role with "
                f"roles={{'{speaker}': ...}}"
            )
        return Message(self.roles[speaker], text_field(turn, "value", where))

"""Where conversations come from: prompts with answers, and chats of several turns."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llada.data.sources import DocumentSource, RecordSource, text_field
from llada.files.json_object import parse_object

LEARNING = frozenset({"weight", "train", "training", "trainable", "loss"})
"""Entries by which data sets say whether, or how much, a message is learned."""
USER, ASSISTANT = "user", "assistant"
Content = str | list[dict[str, Any]] | None
"""What a message says: text, parts such as ``{"type": "text", "text": "Hi"}``, or None beside a call of a tool."""


@dataclass(frozen=True)
class Message:
    """Who says what, and what else the template is handed.

    Attributes:
        role: "user", "assistant", or whatever else the template knows, such as "system" or "tool".
        content: what is said; None where the fields say it all.
        fields: further entries, such as ``tool_calls`` or ``reasoning_content``.

    Examples:
        >>> from llada.data import Message
        >>> Message("user", "Is it raining?").as_object()
        {'role': 'user', 'content': 'Is it raining?'}
        >>> call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
        >>> Message("assistant", None, {"tool_calls": [call]}).texts()  # what special tokens are looked for in
        ['function', 'weather', 'Oslo']
    """

    role: str
    content: Content
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_object(self) -> dict[str, Any]:
        """The message as it stands in a file; an entry without a value is left out, as the hub's own reader does."""
        entries = {"role": self.role, "content": self.content, **self.fields}
        return {name: value for name, value in entries.items() if value is not None}

    def texts(self) -> list[str]:
        """Every text in it but the role and the names of entries."""
        return list(texts_in([self.content, self.fields]))


class Conversation(NamedTuple):
    """Turns in order.

    Attributes:
        where: the place it was found at, for messages.
        messages: the turns.
        tools: schemas of the tools that the assistant may call; None if there are none.
    """

    where: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


class ConversationSource(DocumentSource[Conversation]):
    """Conversations."""


@dataclass(frozen=True)
class PromptAnswers(ConversationSource):
    """Records with a prompt and its answer.

    Args:
        records: where they come from.
        prompt: field of the prompt.
        answer: field of the answer.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines, PromptAnswers
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "tasks.jsonl").write_text('{"question": "2 + 2 = ?", "answer": "4"}')
        ...     for conversation in PromptAnswers(JsonLines(f"{folder}/tasks.jsonl"), prompt="question"):
        ...         [(message.role, message.content) for message in conversation.messages]
        [('user', '2 + 2 = ?'), ('assistant', '4')]
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

    What a message has beside role and content, such as ``tool_calls`` or ``reasoning_content``, goes to the template,
    which refuses what it can't write.

    Args:
        records: where they come from.
        messages: field of the list.
        tools: field of the list of tool schemas, as objects or as the JSON text of them; a record may lack it.
        ignore_fields: entries of messages and records that are left out on purpose, such as "tools" or "weight".

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import ChatMessages, JsonLines
        >>> chat = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "chats.jsonl").write_text(chat)
        ...     for conversation in ChatMessages(JsonLines(f"{folder}/chats.jsonl")):
        ...         [(message.role, message.content) for message in conversation.messages]
        [('user', 'Hi'), ('assistant', 'Hello!')]
    """

    records: RecordSource
    messages: str = "messages"
    tools: str = "tools"
    ignore_fields: Collection[str] = ()

    def __iter__(self) -> Iterator[Conversation]:
        for where, record in self.records.records():
            messages = read_messages(record, self.messages, where, self.ignore_fields)
            tools = None if self.tools in self.ignore_fields else read_tools(record, self.tools, where)
            yield Conversation(where, messages, tools)

    def fingerprint(self) -> str:
        """Settings, and the records' own fingerprint."""
        return f"{self!r} {self.records.fingerprint()}"


def read_messages(
    record: Mapping[str, Any], field: str, where: str, ignore_fields: Collection[str] = ()
) -> list[Message]:
    """The messages of a record.

    Args:
        record: an object that somebody else wrote.
        field: its entry with the list.
        where: the place of the record, for messages.
        ignore_fields: entries of messages that are left out.

    Raises:
        ValueError: if it isn't a list of messages, each with a role and a content, or one is empty.
    """
    entries = record.get(field)
    if not isinstance(entries, list) or not entries:
        other = "; 'conversations' are read by llada.data.ShareGPT" if "conversations" in record else ""
        raise ValueError(f"{where}: field {field!r} must be a list with at least one message{other}")
    return [_message(entry, where, ignore_fields) for entry in entries]


def read_tools(record: Mapping[str, Any], field: str, where: str) -> list[dict[str, Any]] | None:
    """The tool schemas of a record; None if it has none.

    Raises:
        ValueError: if they are no list of objects, nor the JSON text of one.
    """
    tools = record.get(field)
    if isinstance(tools, str) and tools.strip():
        tools = parse_object(f'{{"tools": {tools}}}', f"{where}, field {field!r}")["tools"]
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"{where}: field {field!r} must be a list of objects; got {type(tools).__name__}")
    return tools


def texts_in(value: object) -> Iterator[str]:
    """Every text in nested lists and objects, but the names of entries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts_in(entry)
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from texts_in(entry)


def _message(entry: object, where: str, ignore_fields: Collection[str]) -> Message:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a message must be an object with 'role' and 'content'; got {type(entry).__name__}")
    role = text_field(entry, "role", where)
    fields = {name: value for name, value in entry.items() if name not in ("role", "content", *ignore_fields)}
    fields = _without_learning(fields, role, where)
    content = entry.get("content")
    if isinstance(content, list) and content:
        return Message(role, _parts(content, where), fields)
    if content is None and any(fields.values()):  # as OpenAI writes a message that only calls a tool
        return Message(role, None, fields)
    return Message(role, text_field(entry, "content", where), fields)


def _without_learning(fields: dict[str, Any], role: str, where: str) -> dict[str, Any]:
    """Leave out what says that an answer is learned, as all are, and that a question isn't.

    Raises:
        ValueError: where an answer is to count otherwise.
    """
    for name in LEARNING & fields.keys():
        value = fields[name]
        if role == ASSISTANT and value is not None and value != 1:
            raise ValueError(
                f"{where}: an answer has {name}={value!r}, but all answers of a chat are learned alike; leave out such "
                f"chats, or the field with ignore_fields=[{name!r}]"
            )
    plain = {name for name in LEARNING & fields.keys() if role == ASSISTANT or not fields[name]}
    return {name: value for name, value in fields.items() if name not in plain}


def _parts(content: list[Any], where: str) -> list[dict[str, Any]]:
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"{where}: field 'content' has a part of type {kind!r}; these models read text alone")
    return content

"""Where preferences come from: prompts with two answers, of which the first is better."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llada.data.chat.conversations import ASSISTANT, USER, Message, read_messages, read_tools
from llada.data.sources import DocumentSource, RecordSource, text_field


class Preference(NamedTuple):
    """A prompt with two answers.

    Attributes:
        where: the place it was found at, for messages.
        prompt: the turns before the answers.
        chosen: the better answer.
        rejected: the other one.
        tools: schemas of the tools that the assistant may call; None if there are none.
    """

    where: str
    prompt: list[Message]
    chosen: Message
    rejected: Message
    tools: list[dict[str, Any]] | None = None


class PreferenceSource(DocumentSource[Preference]):
    """Prompts with two answers each."""


@dataclass(frozen=True)
class PreferencePairs(PreferenceSource):
    """Records with a prompt, a chosen and a rejected answer, as text or as lists of messages.

        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
        {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}
        {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [the same turns, another answer]}

    Lists of answers may repeat the turns of the prompt, as many data sets on the hub do; all turns but the last must be
    the same for both.

    Args:
        records: where they come from.
        prompt: field of the prompt; a record whose answers are whole chats may lack it.
        chosen: field of the better answer.
        rejected: field of the other one.
        tools: field of the list of tool schemas; a record may lack it.
        ignore_fields: entries of messages and records that are left out on purpose.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JsonLines, PreferencePairs
        >>> record = '{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}'
        >>> with TemporaryDirectory() as folder:
        ...     size = Path(folder, "pairs.jsonl").write_text(record)
        ...     for pair in PreferencePairs(JsonLines(f"{folder}/pairs.jsonl")):
        ...         pair.prompt[0].content, pair.chosen.content, pair.rejected.content
        ('Hi', 'Hello!', 'What?')
    """

    records: RecordSource
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    tools: str = "tools"
    ignore_fields: Collection[str] = ()

    def __iter__(self) -> Iterator[Preference]:
        for where, record in self.records.records():
            prompt = self._prompt(record, where)
            chosen, rejected = (self._chat(record, field, prompt, where) for field in (self.chosen, self.rejected))
            if chosen[:-1] != rejected[:-1]:
                raise ValueError(
                    f"{where}: {self.chosen!r} and {self.rejected!r} answer different prompts; all turns but the last "
                    "must be the same"
                )
            tools = None if self.tools in self.ignore_fields else read_tools(record, self.tools, where)
            yield Preference(where, chosen[:-1], chosen[-1], rejected[-1], tools)

    def fingerprint(self) -> str:
        """Settings, and the records' own fingerprint."""
        return f"{self!r} {self.records.fingerprint()}"

    def _prompt(self, record: dict[str, Any], where: str) -> list[Message]:
        if isinstance(record.get(self.prompt), list):
            return read_messages(record, self.prompt, where, self.ignore_fields)
        answers_are_text = isinstance(record.get(self.chosen), str)
        if record.get(self.prompt) is None and not answers_are_text:
            return []
        return [Message(USER, text_field(record, self.prompt, where))]

    def _chat(self, record: dict[str, Any], field: str, prompt: list[Message], where: str) -> list[Message]:
        """The turns up to an answer."""
        if not isinstance(record.get(field), list):
            return [*prompt, Message(ASSISTANT, text_field(record, field, where))]
        turns = read_messages(record, field, where, self.ignore_fields)
        if turns[-1].role != ASSISTANT:
            raise ValueError(
                f"{where}: the last message of {field!r} must be the answer of the role {ASSISTANT!r}; got "
                f"{turns[-1].role!r}"
            )
        repeated = len(prompt) < len(turns) and turns[-1 - len(prompt) : -1] == prompt
        if len(turns) > 1 and prompt and not repeated:
            raise ValueError(
                f"{where}: {field!r} has {len(turns) - 1} message(s) before the answer, which aren't those of "
                f"{self.prompt!r}; give the prompt in one place"
            )
        return turns if repeated or not prompt else [*prompt, *turns]

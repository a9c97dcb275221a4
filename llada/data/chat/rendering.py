"""What a chat template writes for a conversation, in parts: special tokens of its own, and text.

A template writes one string in which special tokens are spelt like text, and so is whatever a user writes. There are
two ways to tell them apart, and either must spell what the template writes for the conversation as it is:

    1. a placeholder for each content; what remains is the template's own. Enough for templates that print contents.
    2. the contents in place, and stand-ins for the tokens that the template spells; for those that look into them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from llada.data.chat.chat_template import Part, Special, Tools
from llada.data.chat.conversations import ASSISTANT, USER, Message, texts_in
from llada.data.chat.template_literals import CLOSE, OPEN, Literals
from llada.data.chat.template_program import run_program
from llada.data.tokenizers.tokenizer import ROLES, Tokenizer

ROLE_NAMES = (USER, ASSISTANT, "system", "tool", "developer", "ipython", "function")
"""Roles that may stand in a message whatever the tokenizer: a template may build a special token's name from one."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which data sets keep what was thought before an answer."""
_SPACE = "\x1c"
_PLACEHOLDER = re.compile(f"({_SPACE}?){OPEN}([0-9]+){CLOSE}({_SPACE}?)")


class Printed(str):
    """Text of a message, as opposed to text of the template."""

    message: int
    """Which one."""

    def __new__(cls, text: str, index: int) -> "Printed":  # noqa: D102
        printed = super().__new__(cls, text)
        printed.message = index
        return printed


@dataclass(frozen=True)
class Rendering:
    """A template with all that it sees but the messages.

    Args:
        source: the program.
        variables: what it sees beside the messages, such as ``enable_thinking``.
        tokenizer: of the model.
        tools: schemas of tools.
        now: the date that it sees.
    """

    source: str
    variables: Mapping[str, Any]
    tokenizer: Tokenizer
    tools: Tools = None
    now: datetime = field(default_factory=datetime.now)

    def text(self, messages: Sequence[Message], prompt: bool) -> str:
        """The string that the template writes.

        Args:
            messages: the turns.
            prompt: whether it opens the assistant's next answer (``add_generation_prompt``).

        Raises:
            ValueError: if the template fails, or refuses the messages.
        """
        return self._run(messages, prompt)

    def parts(self, messages: Sequence[Message], prompt: bool) -> list[Part]:
        """What it writes, in parts; arguments as in `text`.

        Raises:
            ValueError: as `text`, or if its own tokens can't be told from the messages' text.
        """
        self._check(messages)
        spelt = self._run(messages, prompt)
        if self.tools is None and all(isinstance(m.content, str) and not m.fields for m in messages):
            hollow = self._hollow_parts(messages, prompt)
            if hollow is not None and spell(hollow) == spelt:
                return hollow
        literals = Literals(tuple(self.tokenizer.special_tokens), self._roles(messages))
        parts = list(literals.parts(self._run(messages, prompt, literals)))
        if spell(parts) != spelt:
            raise ValueError(
                "the chat template does more with a message than print it, so that its text can't be told from the "
                "template's; take what the template looks for out of the message, or give another template"
            )
        self._check_text(parts, messages)
        return parts

    def _hollow_parts(self, messages: Sequence[Message], prompt: bool) -> list[Part] | None:
        marks = [f"{_SPACE}{OPEN}{index}{CLOSE}{_SPACE}" for index in range(len(messages))]
        hollow = [Message(message.role, mark) for message, mark in zip(messages, marks, strict=True)]
        try:
            return list(_split(self._run(hollow, prompt), messages, tuple(self.tokenizer.special_tokens)))
        except ValueError:  # it doesn't take a placeholder
            return None

    def _run(self, messages: Sequence[Message], prompt: bool, literals: Literals | None = None) -> str:
        names = {index: name for name, index in self.tokenizer.special_tokens.items()}
        roles = {role: getattr(self.tokenizer, f"{role}_token_id") for role in ROLES}
        special = {f"{role}_token": names[index] for role, index in roles.items() if index is not None}
        if literals is not None:
            special = {variable: literals.stand_in(name) for variable, name in special.items()}
        inputs: dict[str, Any] = {
            "messages": [_as_seen(message) for message in messages],
            "add_generation_prompt": prompt,
            "tools": self.tools,
            "documents": None,
        }
        try:
            return run_program(self.source, special | dict(self.variables) | inputs, self.now, literals)
        except ValueError as error:
            listed = next((message.role for message in messages if isinstance(message.content, list)), None)
            if listed is None:
                raise
            raise ValueError(
                f"{error}. The content of a message with the role {listed!r} is a list of parts, which few templates "
                "take; join the parts into one text"
            ) from error

    def _roles(self, messages: Sequence[Message]) -> tuple[str, ...]:
        return tuple(sorted({*ROLE_NAMES, *(message.role for message in messages)}))

    def _check(self, messages: Sequence[Message]) -> None:
        for message in messages:
            role = message.role
            strange = not re.fullmatch(r"[\w-]+", role) or any(role in name for name in self.tokenizer.special_tokens)
            if role not in ROLE_NAMES and strange:
                raise ValueError(f"a message has the role {role!r}; the template's may be {', '.join(ROLE_NAMES)}")
        seen = [[_as_seen(message) for message in messages], self.tools, dict(self.variables)]
        everything = json.dumps(seen, ensure_ascii=False, default=str)
        if OPEN in everything or CLOSE in everything:
            raise ValueError("a message holds U+10FFFE or U+10FFFF, which are no characters; take them out")

    def _check_text(self, parts: Sequence[Part], messages: Sequence[Message]) -> None:
        """Refuse a token that the template puts together, for as text it would be another."""
        said = [text for message in messages for text in message.texts()]
        said += [*texts_in(self.tools), *texts_in(self.variables)]
        written = [part for part in parts if isinstance(part, str)]
        for name in self.tokenizer.special_tokens:
            if any(name in text for text in written) and not any(name in text for text in said):
                raise ValueError(
                    f"the chat template puts the special token {name!r} together from pieces, so that it can't be "
                    "told from a message's text; give another template"
                )
        for message in messages:
            if isinstance(message.content, list) and any(str(message.content) in text for text in written):
                raise ValueError(
                    f"the chat template takes no list of parts as the content of the role {message.role!r}; join the "
                    "parts into one text"
                )


def spell(parts: Sequence[Part]) -> str:
    """The string whose parts these are."""
    return "".join(part.name if isinstance(part, Special) else part for part in parts)


def _as_seen(message: Message) -> dict[str, Any]:
    """The message as the template sees it; reasoning goes by each of the names that templates read."""
    seen = message.as_object()
    thought = next((seen[name] for name in REASONING if name in seen), None)
    return seen if thought is None else {"thinking": thought, **seen, "reasoning_content": thought}


def _split(rendered: str, messages: Sequence[Message], names: tuple[str, ...]) -> Iterator[Part]:
    end = 0
    for found in _PLACEHOLDER.finditer(rendered):
        yield from _own_parts(rendered[end : found.start()], names)
        index = int(found[2])
        content = str(messages[index].content)
        content = content if found[1] else content.lstrip()
        yield Printed(content if found[3] else content.rstrip(), index)
        end = found.end()
    yield from _own_parts(rendered[end:], names)


def _own_parts(text: str, names: tuple[str, ...]) -> Iterator[Part]:
    """Text of the template with its special tokens, the longest spelling first."""
    for piece in _any_of(names).split(text):
        if piece:
            yield Special(piece) if piece in names else piece


@lru_cache(maxsize=4)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, longest)) or "(?!)") + ")")

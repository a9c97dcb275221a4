"""The chat template that comes with a checkpoint: a Jinja program, run in a sandbox (extra ``hf``).

A row is, token for token, what the template writes for the whole conversation. What is learnt of it follows from what
the template writes ahead of an answer:

    row = template(messages)          prompt = the longest beginning that row and template(messages[:-1], open) share
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any
from zlib import crc32

from llada.data.chat.chat_template import ChatRow, ChatTemplate, Part, Special, Tools, encode_parts
from llada.data.chat.conversations import ASSISTANT, USER, Message
from llada.data.chat.rendering import REASONING, Printed, Rendering, spell
from llada.data.chat.template_program import names_in
from llada.data.tokenizers.special_tokens import read_files, template_source, tool_template_source
from llada.data.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_LABELS = ("id", "name", "tool_call_id")
"""Entries of a message that say nothing themselves: a template that doesn't write them only gets a warning."""


@dataclass(frozen=True)
class JinjaTemplate(ChatTemplate):
    """A chat template in Jinja, as tokenizers of Hugging Face checkpoints have it.

    Args:
        source: the program. It sees ``messages``, ``tools``, ``add_generation_prompt``, the spellings ``bos_token``,
            ``eos_token`` and so on, and the variables.
        eos: whether EOS follows the answer and its ending in a training row, if the ending isn't EOS itself. None:
            only if the template opens the next answer whatever ``add_generation_prompt`` says, as LLaDA's does; what it
            opens is no part of a row.
        variables: what the program sees besides, such as ``{"enable_thinking": False}``.
        tool_source: the program for conversations with tools; None: the same one.

    Raises:
        ImportError: without the package ``jinja2``, when it is first used.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import JinjaTemplate, Message, SentencePieceTraining
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(280).train(["user: hi", "assistant: hello"], folder)
        >>> turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}; {% endfor %}"
        >>> template = JinjaTemplate(turns + "{% if add_generation_prompt %}assistant: {% endif %}")
        >>> row = template.row([Message("user", "hi"), Message("assistant", "hello")], words)
        >>> words.decode(row.prompt), words.decode(row.answer)
        ('user: hi; assistant:', ' hello; ')
    """

    source: str
    eos: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    tool_source: str | None = None

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> list[int]:
        """What stands in front of an answer, as the template writes it.

        Args:
            messages: the turns so far.
            tokenizer: of the model.
            tools: schemas of the tools that the assistant may call.

        Raises:
            ValueError: if the template fails, refuses the messages, doesn't write a field of theirs, or does with them
                what can't be told from its own text; or if a role could spell a special token.
        """
        view = self._view(tokenizer, tools)
        _check_taken(view, messages, prompt=True)
        return encode_parts(view.parts(messages, prompt=True), tokenizer)

    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        """As the answer to a question that doesn't matter."""
        said = Message(ASSISTANT, message.content, message.fields)
        return self.row([Message(USER, "x"), said], tokenizer).answer

    def row(self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> ChatRow:
        """The whole conversation as the template writes it; arguments as in `prompt`.

        Raises:
            ValueError: as `prompt`, or if it can't be told where the answer begins or ends.
        """
        if messages[-1].role != ASSISTANT:
            raise ValueError(
                f"a row ends with a message of the {ASSISTANT}; got one with the role {messages[-1].role!r}"
            )
        view = self._view(tokenizer, tools)
        _check_taken(view, messages, prompt=False)
        whole, ahead = view.parts(messages, prompt=False), view.parts(messages[:-1], prompt=True)
        if not _prints_last(view, messages, whole):
            raise ValueError("the chat template doesn't print the assistant's message, so there is nothing to learn")
        before = view.text(messages[:-1], prompt=False)
        opened = _opened(view) if before == spell(ahead) else []
        if opened and whole[-len(opened) :] != opened:
            raise ValueError(_ENDLESS)
        whole = whole[: len(whole) - len(opened)]
        _check_beginning(view, messages, whole, ahead)
        if (self.eos or (self.eos is None and opened)) and not _ends_with_eos(whole, tokenizer):
            whole = [*whole, Special("eos", optional=True)]
        ids, start = encode_parts(whole, tokenizer), encode_parts(ahead, tokenizer)
        shared = _shared(ids, start)
        return ChatRow(ids[:shared], ids[shared:])

    def _view(self, tokenizer: Tokenizer, tools: Tools) -> Rendering:
        source = self.source if self.tool_source is None or not tools else self.tool_source
        return Rendering(source, self.variables, tokenizer, tools)


_ENDLESS = (
    "the chat template ignores add_generation_prompt, and where an answer ends can't be told from it; give a "
    "llada.data.MarkupTemplate for training"
)
_warned: set[str] = set()


def checkpoint_template(
    folder: str | Path, eos: bool | None = None, variables: Mapping[str, Any] | None = None
) -> ChatTemplate:
    """The chat template of a checkpoint, from ``chat_template.jinja`` or ``tokenizer_config.json``.

    Args:
        folder: of the checkpoint or its tokenizer.
        eos: see `JinjaTemplate`.
        variables: see `JinjaTemplate`.

    Raises:
        ValueError: if the checkpoint has none, as base models don't.
    """
    files = read_files(Path(folder))
    found = template_source(files)
    if found is None:
        raise ValueError(
            f"{folder} has no chat template, and none is made up; a base model has learnt no turns. Give one, such as "
            "llada.data.plain_template or llada.data.llada_template"
        )
    return JinjaTemplate(found, eos, variables or {}, tool_template_source(files))


def _check_taken(view: Rendering, messages: Sequence[Message], prompt: bool) -> None:
    """Refuse what the template would leave out without a word."""
    if view.tools and "tools" not in names_in(view.source):
        raise ValueError("there are tools, which the chat template doesn't write; leave out the field 'tools'")
    for index, message in enumerate(messages):
        last = index == len(messages) - 1 and message.role == ASSISTANT
        for name in (name for name, value in message.fields.items() if value):
            aliases = REASONING if name in REASONING else (name,)
            known = any(alias in names_in(view.source) for alias in aliases)
            if (known and not last) or _writes(view, messages, index, aliases, prompt):
                continue
            if name in _LABELS:
                _warn_once(name)
                continue
            raise ValueError(
                f"the chat template doesn't write the field {name!r} of a message with the role {message.role!r}; "
                f"give another template, or leave it out with ignore_fields=[{name!r}]"
            )


def _warn_once(name: str) -> None:
    if name not in _warned:
        _warned.add(name)
        _log.warning("the chat template doesn't write the field %r of messages", name)


def _writes(view: Rendering, messages: Sequence[Message], index: int, names: Sequence[str], prompt: bool) -> bool:
    """Whether a message is written otherwise for these fields of it."""
    bare = {name: value for name, value in messages[index].fields.items() if name not in names}
    without = [*messages[:index], Message(messages[index].role, messages[index].content, bare), *messages[index + 1 :]]
    try:
        return view.text(without, prompt) != view.text(messages, prompt)
    except ValueError:  # without them it can't be written at all
        return True


def _prints_last(view: Rendering, messages: Sequence[Message], whole: Sequence[Part]) -> bool:
    """Whether what the last message says is in the row."""
    last = messages[-1]
    if not isinstance(last.content, str) or any(
        isinstance(p, Printed) and p.message == len(messages) - 1 for p in whole
    ):
        return True
    if any(isinstance(part, Printed) for part in whole):
        return False
    if not last.content.strip():
        return True
    other = Message(last.role, last.content + "x", last.fields)
    return view.text([*messages[:-1], other], prompt=False) != spell(whole)


def _opened(view: Rendering) -> list[Part]:
    """What a template that ignores ``add_generation_prompt`` writes behind an answer to open the next one.

    The ending of the answer is the shortest beginning of what follows it that, with what the template writes before its
    first question, leads over to a second question. The rest is opened.
    """
    question, reply = Message(USER, "x"), Message(ASSISTANT, "x")
    bare = Rendering(view.source, view.variables, view.tokenizer, None, view.now)
    if bare.text([question], False) != bare.text([question], True):
        return []  # it does mind, but not behind this conversation
    one, chat = bare.parts([question, reply], False), bare.parts([question, reply, question], False)
    places = [i for i, part in enumerate(one) if isinstance(part, Printed) and part.message == 1]
    asked = [i for i, part in enumerate(chat) if isinstance(part, Printed)]
    if not places or len(asked) != 3:
        raise ValueError(_ENDLESS)
    after, opening, between = one[places[0] + 1 :], chat[: asked[0]], chat[asked[1] + 1 : asked[2]]
    for length in range(1, len(between) + 1):
        rest = between[length:]
        if after[:length] == between[:length] and opening[len(opening) - len(rest) :] == rest:
            opened, ahead = after[length:], one[: places[0]]
            # Behind a template that opens nothing at all stands what it writes between any two turns.
            return opened if ahead[len(ahead) - len(opened) :] == opened else []
    raise ValueError(_ENDLESS)


def _check_beginning(
    view: Rendering, messages: Sequence[Message], whole_parts: Sequence[Part], ahead_parts: Sequence[Part]
) -> None:
    """Refuse a row in which the answer doesn't begin behind the question, or in which it is torn."""
    whole, ahead = _one_string(whole_parts), _one_string(ahead_parts)
    shared = _shared(whole, ahead)
    if shared == len(ahead):
        return
    before = _one_string(view.parts(messages[:-1], prompt=False))
    asked = messages[-2].content if len(messages) > 1 else None
    if isinstance(asked, str) and asked.strip() and ahead.startswith(before):
        found = before.rfind(asked.strip())
        if found >= 0 and shared < found + len(asked.strip()):
            raise ValueError(
                "the chat template writes the question otherwise once it is answered, so where the answer begins can't "
                "be told"
            )
    for said in messages[-1].texts():
        text = said.strip()
        torn = (whole.startswith(text, start) for start in range(max(shared - len(text) + 1, 0), shared))
        if any(torn):
            raise ValueError(
                "what the chat template opens an answer with ends inside the answer's text, so a row wouldn't begin as "
                "a prompt does; take it off the answer, or set the template's variables. It opens with "
                f"{spell(ahead_parts)[-20:]!r}"
            )


def _one_string(parts: Sequence[Part]) -> str:
    """Text with one character, from a private area, for each special token."""
    return "".join(
        part if isinstance(part, str) else chr(0x100000 + crc32(part.name.encode()) % 0xFFFD) for part in parts
    )


def _ends_with_eos(parts: Sequence[Part], tokenizer: Tokenizer) -> bool:
    special = [part for part in parts if isinstance(part, Special)]
    return bool(special) and tokenizer.special_id(special[-1].name) == tokenizer.eos_token_id


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of the longest beginning that two sequences share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))

"""The chat template that comes with a checkpoint: a Jinja program, run in a sandbox (extra ``hf``).

A template writes one string in which special tokens are spelt like text, and so is whatever a user writes. Here the
contents are not in that string: the template is rendered with a placeholder for each, the special tokens are read from
what remains, which is the template's own, and the contents are put back as text. A second rendering with the contents
in place must spell the same string, or the template is refused: it does more with a message than print it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from llada.data.chat.chat_template import ChatTemplate, Part, Special, encode_parts
from llada.data.chat.conversations import ASSISTANT, USER, Message
from llada.data.tokenizers.special_tokens import read_files, template_source
from llada.data.tokenizers.tokenizer import ROLES, Tokenizer

ROLE_NAMES = (USER, ASSISTANT, "system", "tool", "developer")
"""Roles that may stand in a message: a template may build the name of a special token from the role."""
_OPEN, _CLOSE, _SPACE = "\U0010fffe", "\U0010ffff", "\x1c"
_PLACEHOLDER = re.compile(f"({_SPACE}?){_OPEN}([0-9]+){_CLOSE}({_SPACE}?)")


@dataclass(frozen=True)
class JinjaTemplate(ChatTemplate):
    """A chat template in Jinja, as tokenizers of Hugging Face checkpoints have it.

    Args:
        source: the program. It sees ``messages``, ``add_generation_prompt`` and the spellings ``bos_token``,
            ``eos_token`` and so on.
        eos: whether EOS follows the answer and its ending in a training row, if the ending isn't EOS itself, as LLaDA
            has it.

    Raises:
        ImportError: without the package ``jinja2``, when it is first used.
    """

    source: str
    eos: bool = True

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """See `ChatTemplate`.

        Raises:
            ValueError: if the template fails, refuses the messages, or changes a content otherwise than by taking off
                white space around it; or if a role isn't one of `ROLE_NAMES`.
        """
        return encode_parts(_render(self.source, messages, tokenizer, prompt=True), tokenizer)

    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        """See `ChatTemplate`; the content, and what the template writes between it and the next message."""
        parts = _render(self.source, [Message(USER, "x"), message], tokenizer, prompt=False)
        content = max((i for i, part in enumerate(parts) if isinstance(part, _Content)), default=None)
        if content is None:
            raise ValueError("the chat template doesn't print the assistant's message, so there is nothing to learn")
        ending = _ending(self.source, tokenizer, parts[content + 1 :])
        if self.eos and tokenizer.eos_token_id is not None and not _is_eos(ending, tokenizer):
            ending = [*ending, Special("eos")]
        return encode_parts([parts[content], *ending], tokenizer)


def checkpoint_template(folder: str | Path, eos: bool = True) -> ChatTemplate:
    """The chat template of a checkpoint, from ``chat_template.jinja`` or ``tokenizer_config.json``.

    Args:
        folder: of the checkpoint or its tokenizer.
        eos: see `JinjaTemplate`.

    Raises:
        ValueError: if the checkpoint has none, as base models don't.
    """
    found = template_source(read_files(Path(folder)))
    if found is None:
        raise ValueError(
            f"{folder} has no chat template, and none is made up; a base model has learnt no turns. Give one, such as "
            "llada.data.plain_template or llada.data.llada_template"
        )
    return JinjaTemplate(found, eos)


class _Content(str):
    """Text of a message, as opposed to text of the template."""


def _render(source: str, messages: Sequence[Message], tokenizer: Tokenizer, prompt: bool) -> list[Part]:
    """What the template writes, in parts: contents, its own text, special tokens."""
    for message in messages:
        if message.role not in ROLE_NAMES:
            raise ValueError(f"a message has the role {message.role!r}; the template's may be {', '.join(ROLE_NAMES)}")
        if _OPEN in message.content or _CLOSE in message.content:
            raise ValueError("a message holds U+10FFFE or U+10FFFF, which are no characters; take them out")
    marks = [f"{_SPACE}{_OPEN}{index}{_CLOSE}{_SPACE}" for index in range(len(messages))]
    hollow = [Message(message.role, mark) for message, mark in zip(messages, marks, strict=True)]
    rendered = _run(source, hollow, tokenizer, prompt)
    parts = list(_split(rendered, messages, tokenizer))
    spelt = _run(source, messages, tokenizer, prompt)
    if "".join(part.name if isinstance(part, Special) else part for part in parts) != spelt:
        raise ValueError(
            "the chat template does more with a message than print it, so that its text can't be told from the "
            "template's; take what the template looks for out of the message, or give another template"
        )
    return parts


def _split(rendered: str, messages: Sequence[Message], tokenizer: Tokenizer) -> Iterator[Part]:
    end = 0
    for found in _PLACEHOLDER.finditer(rendered):
        yield from _own_parts(rendered[end : found.start()], tokenizer)
        content = messages[int(found[2])].content
        content = content if found[1] else content.lstrip()
        yield _Content(content if found[3] else content.rstrip())
        end = found.end()
    yield from _own_parts(rendered[end:], tokenizer)


def _own_parts(text: str, tokenizer: Tokenizer) -> Iterator[Part]:
    """Text of the template with its special tokens, the longest spelling first."""
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        if piece:
            yield Special(piece) if piece in tokenizer.special_tokens else piece


def _ending(source: str, tokenizer: Tokenizer, after: Sequence[Part]) -> list[Part]:
    """What follows an answer before anything else begins.

    Some templates open the next answer whatever ``add_generation_prompt`` says (LLaDA's does). Then the ending is the
    shortest beginning of ``after`` that, followed by what the template writes before its first question, leads over to
    a second question.
    """
    question, reply = Message(USER, "x"), Message(ASSISTANT, "x")
    honest = _render(source, [question], tokenizer, False) != _render(source, [question], tokenizer, True)
    if honest:
        return list(after)
    chat = _render(source, [question, reply, question], tokenizer, False)
    first, second, third = (i for i, part in enumerate(chat) if isinstance(part, _Content))
    opening, between = chat[:first], chat[second + 1 : third]
    for length in range(1, len(between) + 1):
        rest = between[length:]
        if list(after[:length]) == between[:length] and opening[len(opening) - len(rest) :] == rest:
            return between[:length]
    raise ValueError(
        "the chat template ignores add_generation_prompt, and where an answer ends can't be told from it; give a "
        "llada.data.MarkupTemplate for training"
    )


def _is_eos(ending: Sequence[Part], tokenizer: Tokenizer) -> bool:
    special = [part for part in ending if isinstance(part, Special)]
    return bool(special) and tokenizer.special_id(special[-1].name) == tokenizer.eos_token_id


def _run(source: str, messages: Sequence[Message], tokenizer: Tokenizer, prompt: bool) -> str:
    """Run the program.

    Raises:
        ValueError: if it is malformed, fails, or refuses the messages.
    """
    jinja2 = _import_jinja()
    names = {index: name for name, index in tokenizer.special_tokens.items()}
    roles = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    variables = {f"{role}_token": names[index] for role, index in roles.items() if index is not None}
    program = _compile(source)
    try:
        rendered: str = program.render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=prompt,
            tools=None,
            documents=None,
            **variables,
        )
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"the chat template failed: {error}") from error
    return rendered


def _import_jinja() -> Any:
    try:
        import jinja2.ext
        import jinja2.sandbox
    except ImportError as error:
        raise ImportError(
            "the chat template of a checkpoint needs the package jinja2: pip install llada[hf]"
        ) from error
    return jinja2


@lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    """The program, in a sandbox with what Hugging Face's templates rely on."""
    jinja2 = _import_jinja()

    class Generation(jinja2.ext.Extension):  # type: ignore[misc, name-defined]
        """The tags around an answer, ``{% generation %}``: they mean nothing here, and their content is printed."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    try:
        return environment.from_string(source)
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is malformed in line {error.lineno}: {error.message}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON as it stands; jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)

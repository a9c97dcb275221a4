"""How a conversation becomes tokens.

Special tokens are placed by name and text is encoded as text, so what a user writes can't end a turn or open another.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

from typing_extensions import override

from llada.data.chat.conversations import ASSISTANT, Message
from llada.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Special:
    """A special token in a template.

    Args:
        name: what it does or what it is called; see `Tokenizer.special_id`.
        optional: whether it is left out for tokenizers that have none.

    Examples:
        >>> from types import SimpleNamespace
        >>> from llada.data import MarkupTemplate, Message, Special
        >>> words = SimpleNamespace(special_id={"eot": 2}.get, encode_pieces=lambda pieces: pieces)
        >>> template = MarkupTemplate(answer_ending=(Special("eot"),))
        >>> template.answer(Message("assistant", "Hello <eot>"), words)  # what a text says is never a special token
        ['Hello <eot>', 2]
    """

    name: str
    optional: bool = False


Part = str | Special
Tools = list[dict[str, Any]] | None
"""Schemas of the tools that the assistant may call."""


class ChatRow(NamedTuple):
    """A conversation as a row of a training.

    Attributes:
        prompt: token ids that are given.
        answer: token ids that are learnt, with all that follows the answer in the row.
    """

    prompt: list[int]
    answer: list[int]


class ChatTemplate(ABC):
    """Turns messages into a prompt and an answer."""

    @abstractmethod
    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Tokens up to where the assistant's next answer begins.

        A template that can write tools takes a third argument ``tools``, here and in `row`.

        Args:
            messages: the turns so far.
            tokenizer: of the model.

        Raises:
            ValueError: if the tokenizer lacks a special token of the template, or the template can't write a message.
        """

    @abstractmethod
    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        """Tokens of an answer, with all that follows it in a row.

        Args:
            message: of the assistant.
            tokenizer: of the model.

        Raises:
            ValueError: as `prompt`.
        """

    def row(self, messages: Sequence[Message], tokenizer: Tokenizer) -> ChatRow:
        """A conversation whose last message is the answer that is learnt.

        Args:
            messages: the turns, the answer among them.
            tokenizer: of the model.

        Raises:
            ValueError: as `prompt`.
        """
        answer = self.answer(messages[-1], tokenizer)
        return ChatRow(self.prompt(messages[:-1], tokenizer), answer)


@dataclass(frozen=True)
class MarkupTemplate(ChatTemplate):
    """The same text and special tokens around every message.

    A row is ``begin``, then ``header content ending`` for each message, then ``end``. The answer is the last message's
    content, its ending and ``end``; everything before is the prompt.

    Args:
        begin: before the first message.
        header: before each message; "{role}" in it is replaced by the role.
        ending: after a message that isn't the assistant's.
        answer_ending: after a message of the assistant.
        end: after the last answer.
        strip: whether white space around the contents is taken off.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import MarkupTemplate, Message, SentencePieceTraining, Special
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(280).train(["user: hi", "assistant: hello"], folder)
        >>> template = MarkupTemplate(header=("{role}: ",), ending=("; ",), answer_ending=(Special("eos"),))
        >>> row = template.row([Message("user", "hi"), Message("assistant", "hello")], words)
        >>> words.decode(row.prompt), words.decode(row.answer)
        ('user: hi; assistant: ', 'hello')
        >>> row.answer[-1] == words.eos_token_id
        True
    """

    begin: tuple[Part, ...] = ()
    header: tuple[Part, ...] = ()
    ending: tuple[Part, ...] = ()
    answer_ending: tuple[Part, ...] = ()
    end: tuple[Part, ...] = ()
    strip: bool = False

    @override
    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        parts = list(self.begin)
        for message in messages:
            ending = self.answer_ending if message.role == ASSISTANT else self.ending
            parts += [*self._header(message.role), self._content(message), *ending]
        return encode_parts([*parts, *self._header(ASSISTANT)], tokenizer)

    @override
    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        return encode_parts([self._content(message), *self.answer_ending, *self.end], tokenizer)

    def _header(self, role: str) -> list[Part]:
        return [part.replace("{role}", role) if isinstance(part, str) else part for part in self.header]

    def _content(self, message: Message) -> str:
        beside = [name for name, value in message.fields.items() if value]
        if beside or not isinstance(message.content, str):
            what = f"the field {beside[0]!r}" if beside else "a content that isn't one text"
            raise ValueError(
                f"this template writes role and content alone, but a message has {what}; use the checkpoint's own "
                "template (llada.data.checkpoint_template), or leave it out with ignore_fields"
            )
        return message.content.strip() if self.strip else message.content


@dataclass(frozen=True)
class FixedBos(ChatTemplate):
    """Another template, whose rows begin with BOS, or don't, whatever it writes itself.

    Args:
        template: writes the conversation.
        bos: whether it begins with BOS.
    """

    template: ChatTemplate
    bos: bool

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> list[int]:
        """With tools, if the other template takes them."""
        return self._begun(make_prompt(self.template, messages, tokenizer, tools), tokenizer)

    @override
    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        return self.template.answer(message, tokenizer)

    def row(self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> ChatRow:
        """With tools, if the other template takes them."""
        row = make_row(self.template, messages, tokenizer, tools)
        return ChatRow(self._begun(row.prompt, tokenizer), row.answer)

    def _begun(self, ids: list[int], tokenizer: Tokenizer) -> list[int]:
        begin = tokenizer.bos_token_id
        bare = ids[1:] if ids[:1] == [begin] else ids
        return [tokenizer.special_id("bos"), *bare] if self.bos else bare


def llada_template() -> ChatTemplate:
    """The template of LLaDA-8B-Instruct.

    A row ends with EOS after the last end of turn, and with `EosInAnswer` padding goes on with EOS, as in LLaDA's
    training. The published template also puts an assistant header after the last answer; that belongs to the prompt of
    the next one only.

    Reference:
        https://huggingface.co/GSAI-ML/LLaDA-8B-Instruct, tokenizer_config.json.
    """
    return MarkupTemplate(
        begin=(Special("bos"),),
        header=(Special("<|start_header_id|>"), "{role}", Special("<|end_header_id|>"), "\n\n"),
        ending=(Special("eot"),),
        answer_ending=(Special("eot"),),
        end=(Special("eos"),),
        strip=True,
    )


def plain_template() -> ChatTemplate:
    """No roles: BOS, if the tokenizer has it, the prompt, a newline, the answer, EOS."""
    return MarkupTemplate(begin=(Special("bos", optional=True),), ending=("\n",), answer_ending=(Special("eos"),))


def encode_parts(parts: Sequence[Part], tokenizer: Tokenizer) -> list[int]:
    """Token ids of text and special tokens; neighbouring texts are encoded as one."""
    pieces: list[str | int] = []
    for part in parts:
        if isinstance(part, str):
            if pieces and isinstance(pieces[-1], str):
                pieces[-1] += part
            else:
                pieces.append(str(part))
        elif not part.optional or tokenizer.has_special(part.name):
            pieces.append(tokenizer.special_id(part.name))
    return tokenizer.encode_pieces(pieces)


def make_prompt(template: ChatTemplate, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools) -> list[int]:
    """`ChatTemplate.prompt` with tools, if there are any.

    Raises:
        ValueError: as `ChatTemplate.prompt`, or if there are tools and the template knows of none.
    """
    return template.prompt(messages, tokenizer, **_with_tools(template.prompt, tools))


def make_row(template: ChatTemplate, messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools) -> ChatRow:
    """`ChatTemplate.row` with tools, if there are any; errors as in `make_prompt`."""
    return template.row(messages, tokenizer, **_with_tools(template.row, tools))


def _with_tools(method: Callable[..., Any], tools: Tools) -> dict[str, Any]:
    if not tools:
        return {}
    if "tools" not in signature(method).parameters:
        raise ValueError(
            "there are tools, which this template doesn't write; use the checkpoint's own template "
            "(llada.data.checkpoint_template), or leave out the field 'tools'"
        )
    return {"tools": tools}

"""How a conversation becomes tokens.

Special tokens are placed by name and text is encoded as text, so what a user writes can't end a turn or open another.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from llada.data.chat.conversations import ASSISTANT, Message
from llada.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Special:
    """A special token in a template.

    Args:
        name: what it does or what it is called; see `Tokenizer.special_id`.
    """

    name: str


Part = str | Special


class ChatTemplate(ABC):
    """Turns messages into a prompt and an answer."""

    @abstractmethod
    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Tokens up to where the assistant's next answer begins.

        Args:
            messages: the turns so far.
            tokenizer: of the model.

        Raises:
            ValueError: if the tokenizer lacks a special token of the template.
        """

    @abstractmethod
    def answer(self, message: Message, tokenizer: Tokenizer) -> list[int]:
        """Tokens of an answer, with all that follows it in a row.

        Args:
            message: of the assistant.
            tokenizer: of the model.

        Raises:
            ValueError: if the tokenizer lacks a special token of the template.
        """


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
        return message.content.strip() if self.strip else message.content


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
    """No roles: BOS, the prompt, a newline, the answer, EOS. Needs no tokens but those of any tokenizer here."""
    return MarkupTemplate(begin=(Special("bos"),), ending=("\n",), answer_ending=(Special("eos"),))


def encode_parts(parts: Sequence[Part], tokenizer: Tokenizer) -> list[int]:
    """Token ids of text and special tokens; neighbouring texts are encoded as one."""
    ids: list[int] = []
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        ids += [*tokenizer.encode(text), tokenizer.special_id(part.name)]
        text = ""
    return ids + tokenizer.encode(text)

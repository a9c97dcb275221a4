"""What chatting and batch generation share: how answers are decoded, and as much of the history as fits."""

from dataclasses import replace

from llada.data import Message
from llada.data.chat.chat_template import FixedBos
from llada.data.chat.conversations import ASSISTANT
from llada.files.places import is_released
from llada.samplers import Sampler, low_confidence
from llada.text import TextModel

SYSTEM = "system"
BLOCK = 32


def answer_sampler(sampler: Sampler | None, checkpoint: str, text: TextModel, num_new_tokens: int) -> Sampler | None:
    """How answers are decoded: as the user chose, or as the model was saved to be sampled (None).

    Released checkpoints say nothing about it. They get what LLaDA's own chat does, one token per call in blocks of 32,
    and no block after the one with EOS. On a canvas decoded as a whole, the EOS that fills the end of trained answers
    comes out first and leaves room for short answers only. Models with blocks are decoded in their own ones.
    """
    if sampler is not None or not is_released(checkpoint):
        return sampler
    end = text.tokenizer.eos_token_id
    if getattr(text.model.backbone, "block_length", None) is not None:
        return text.model.sampler.stopping(end)
    return low_confidence(num_new_tokens, block_length=min(BLOCK, num_new_tokens), stop_token_ids=end)


def with_bos(text: TextModel, bos: bool | None) -> TextModel:
    """The model with texts and conversations that begin with BOS, or don't.

    Args:
        text: the model.
        bos: what the user chose; None for the rules of tokenizer and template.
    """
    if bos is None:
        return text
    if text.template is None and getattr(text.tokenizer, "chat_template", None) is None:
        return replace(text, bos=bos)
    return replace(text, bos=bos, template=FixedBos(text.chat_template, bos), variables={})


def context_length(text: TextModel, chosen: int | None) -> int | None:
    """Tokens that fit into a row, None for any number.

    Args:
        text: the model, which may have a limit of its own.
        chosen: what the user asked for; None for the model's own limit.

    Raises:
        ValueError: if the user asked for more than the model takes.
    """
    own = text.max_length
    if chosen is not None and (chosen < 1 or (own is not None and chosen > own)):
        raise ValueError(f"context must be 1 or more, and at most the model's {own} tokens; got {chosen}")
    return own if chosen is None else chosen


class History:
    """The messages of a conversation, and as many of the last ones as the context holds.

    Messages are kept as text, and the template writes them anew for every turn: so an answer is followed by the end of
    its turn whether or not the model wrote one, and the EOS that filled the rest of its canvas is gone.

    Args:
        system: instruction that stays in front of everything; empty for none.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.messages: list[Message] = []

    def whole(self) -> list[Message]:
        """All messages, the instruction first."""
        return [*([Message(SYSTEM, self.system)] if self.system else []), *self.messages]

    def prompt(self, text: TextModel, room: int | None) -> tuple[list[int], int]:
        """Tokens up to where the next answer begins, and how many of the oldest messages were left out to fit.

        Args:
            text: the model with its template.
            room: tokens that the prompt may have.

        Raises:
            ValueError: if not even the last message fits.
        """
        head = self.whole()[: len(self.whole()) - len(self.messages)]
        # A conversation begins with a question: whole turns are dropped, never an answer's question alone.
        starts = [i for i, message in enumerate(self.messages) if message.role != ASSISTANT]
        for start in starts:
            ids = text.encode_messages([*head, *self.messages[start:]])
            if room is None or len(ids) <= room:
                return ids, start
        raise ValueError(
            f"the message takes {len(ids)} tokens with all that belongs to it, but only {room} fit beside the answer; "
            "shorten it or the system prompt, or ask for a shorter answer with --num_new_tokens"
        )

"""What chatting and batch generation share: which template a model was trained with, and where an answer ends."""

import torch
from torch import Tensor

from llada.cli.released import is_released
from llada.cli.text import Loaded
from llada.data import ChatTemplate, Message, Tokenizer
from llada.data.chat.conversations import ASSISTANT
from llada.data.chat.jinja_template import JinjaTemplate
from llada.samplers import Sampler, low_confidence

SYSTEM = "system"
BLOCK = 32


def choose_template(template: ChatTemplate | None, tokenizer: Tokenizer) -> ChatTemplate:
    """The template that was asked for, or else the checkpoint's own.

    Args:
        template: what the user chose; None for the checkpoint's.
        tokenizer: of the checkpoint, which carries the template.

    Raises:
        ValueError: if there is neither.
    """
    if template is not None:
        return template
    source = getattr(tokenizer, "chat_template", None)
    if source is None:
        raise ValueError(
            "the checkpoint has no chat template, and none is made up: a base model has learnt no turns, and `llada "
            "sample` continues its texts. If it was trained on conversations, name its template: --template "
            "llada.data.llada_template or --template llada.data.plain_template"
        )
    return JinjaTemplate(source)


def answer_sampler(
    sampler: Sampler | None, checkpoint: str, tokenizer: Tokenizer, num_new_tokens: int
) -> Sampler | None:
    """How answers are decoded: as the user chose, or as the model was saved to be sampled (None).

    Released checkpoints say nothing about it. They get what LLaDA's own chat does, one token per call in blocks of 32,
    and no block after the one with EOS. On a canvas decoded as a whole, the EOS that fills the end of trained answers
    comes out first and leaves room for short answers only.
    """
    if sampler is not None or not is_released(checkpoint):
        return sampler
    return low_confidence(num_new_tokens, block_length=min(BLOCK, num_new_tokens), stop_token_ids=tokenizer.eos_token_id)


def stop_tokens(tokenizer: Tokenizer, template: ChatTemplate | None) -> frozenset[int]:
    """Tokens at which an answer ends: the end of a text, the end of a turn, and what the template ends answers with."""
    stops = {tokenizer.eos_token_id, tokenizer.eot_token_id}
    if template is not None:
        special = set(tokenizer.special_tokens.values())
        stops |= {token for token in template.answer(Message(ASSISTANT, "x"), tokenizer) if token in special}
    return frozenset(stops - {None})  # type: ignore[arg-type]


def until_stop(ids: list[int], stops: frozenset[int]) -> list[int]:
    """The tokens before the first one that ends the answer."""
    return ids[: next((index for index, token in enumerate(ids) if token in stops), len(ids))]


def context_length(loaded: Loaded, chosen: int | None) -> int | None:
    """Tokens that fit into a row, None for any number.

    Args:
        loaded: the model, which may have a limit of its own.
        chosen: by the user; None for the model's.

    Raises:
        ValueError: if more was chosen than the model takes.
    """
    own = getattr(loaded.model.backbone, "max_length", None)
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

    def prompt(self, template: ChatTemplate, tokenizer: Tokenizer, room: int | None) -> tuple[list[int], int]:
        """Tokens up to where the next answer begins, and how many of the oldest messages were left out to fit.

        Args:
            template: of the model.
            tokenizer: of the model.
            room: tokens that the prompt may have.

        Raises:
            ValueError: if not even the last message fits.
        """
        head = self.whole()[: len(self.whole()) - len(self.messages)]
        # A conversation begins with a question: whole turns are dropped, never an answer's question alone.
        starts = [i for i, message in enumerate(self.messages) if message.role != ASSISTANT]
        for start in starts:
            ids = template.prompt([*head, *self.messages[start:]], tokenizer)
            if room is None or len(ids) <= room:
                return ids, start
        raise ValueError(
            f"the message takes {len(ids)} tokens with all that belongs to it, but only {room} fit beside the answer; "
            "shorten it or the system prompt, or ask for a shorter answer with --num_new_tokens"
        )


def shown(tokenizer: Tokenizer, row: Tensor, stops: frozenset[int], mask: str) -> str:
    """An answer in the making, up to where it ends as far as is known, with its masks as ``mask``."""
    return tokenizer.decode(until_stop(row.tolist(), stops), show_mask=mask)


def one_canvas(loaded: Loaded, prompt: list[int], num_new_tokens: int) -> Tensor:
    """A prompt with masks behind it, (1, L)."""
    tail = [loaded.model.process.mask_token_id] * num_new_tokens
    return torch.tensor([[*prompt, *tail]], device=loaded.model.device)

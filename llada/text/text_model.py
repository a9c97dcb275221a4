"""A model with its tokenizer: texts become canvases, and filled canvases become texts.

    [BOS, prompt ids] + masks  ->  sampler  ->  ids up to the first stop token  ->  text

Everything that must agree wherever text is written, scored or shown is decided here: whether a text begins with BOS,
what a row is padded with, which tokens end an answer, and how the answer is read off the canvas.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llada.built import check_built
from llada.data import ChatTemplate, Message, Tokenizer
from llada.data.chat.chat_template import Tools, make_prompt
from llada.data.chat.conversations import ASSISTANT
from llada.data.chat.jinja_template import JinjaTemplate
from llada.module import DiffusionLM
from llada.rows import count_before
from llada.samplers import Canvas, Sample, Sampler, Step, canvas
from llada.text.gaps import encode_gaps
from llada.text.stream import stream_text


@dataclass(frozen=True)
class TextModel:
    """Encodes prompts, makes canvases of them, and reads answers off filled ones.

    Args:
        model: in evaluation mode.
        tokenizer: the one that the model was trained with.
        template: how conversations become tokens; None for the tokenizer's own, if it has one.
        sampler: how masks are filled; None for the model's own.
        bos: whether texts begin with BOS, if the tokenizer has one; None for the tokenizer's own rule, such as
            ``add_bos_token``. Chat templates decide for themselves.
        variables: what the tokenizer's own chat template, or a `JinjaTemplate`, sees besides, such as
            ``{"enable_thinking": False}``.
        stops: tokens that end an answer beside those that the tokenizer and the template know, such as the
            ``eos_token_id`` of a released checkpoint's files.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada import DiffusionLM
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.data import SentencePieceTraining
        >>> from llada.process import MaskingProcess
        >>> from llada.text import TextModel
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> model = DiffusionLM(BidirectionalTransformer(280, 8, 1, 2), MaskingProcess(words.mask_token_id)).eval()
        >>> text = TextModel(model, words)
        >>> canvas = text.canvas([text.encode("to be")], num_new_tokens=4)
        >>> words.decode(canvas.tokens[0].tolist(), show_mask="_")
        'to be____'
        >>> answer = text.generate(canvas, seed=0).tokens[0, -4:].tolist()  # of an untrained model
        >>> words.mask_token_id in answer
        False
    """

    model: DiffusionLM
    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    sampler: Sampler | None = None
    bos: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    stops: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.template is not None:
            check_built("template", self.template, ChatTemplate)
        if self.sampler is not None:
            check_built("sampler", self.sampler, Sampler)

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into a row; None for any number."""
        return getattr(self.model.backbone, "max_length", None)

    @property
    def decoding(self) -> Sampler:
        """The sampler that is used: the chosen one, or the model's own."""
        return self.model.sampler if self.sampler is None else self.sampler

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The template that was chosen, or else the tokenizer's own.

        Raises:
            ValueError: if there is neither.
        """
        if self.template is not None:
            return _with_variables(self.template, self.variables)
        source = getattr(self.tokenizer, "chat_template", None)
        if source is None:
            raise ValueError(
                "the checkpoint has no chat template, and none is made up: a base model has learnt no turns, and "
                "`llada sample` continues its texts. If it was trained on conversations, name its template: --template "
                "llada.data.llada_template or --template llada.data.plain_template"
            )
        tool_source = getattr(self.tokenizer, "tool_template", None)
        return JinjaTemplate(source, variables=self.variables, tool_source=tool_source)

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those that the tokenizer, the checkpoint's files and the chat template know."""
        ends = self.tokenizer.stop_token_ids | self.stops
        if self.template is not None or getattr(self.tokenizer, "chat_template", None) is not None:
            ends |= set(self._answer_ends())
        return frozenset(ends)

    def _answer_ends(self) -> Iterator[int]:
        """The special tokens behind an answer's text, with nothing but white space between them."""
        try:
            answer = self.chat_template.answer(Message(ASSISTANT, "x"), self.tokenizer)
        except ValueError:
            if self.template is not None:
                raise
            return  # plain texts need no template; a conversation will say what is wrong with this one
        special = set(self.tokenizer.special_tokens.values())
        for token in reversed(answer):
            if token in special:
                yield token
            elif not self.tokenizer.decode([token]).isspace():
                return

    def end_of_answer(self, in_chat: bool) -> list[int]:
        """Token ids that stand behind an answer in fine-tuning.

        Args:
            in_chat: those of the chat template, behind a turn; else, and where it has none, EOS.

        Raises:
            ValueError: if there is no template for a chat, or no end at all.
        """
        ends = [*self._answer_ends()][::-1] if in_chat else []
        if not ends and self.tokenizer.eos_token_id is None:
            raise ValueError("answers have no end: the tokenizer has no EOS")
        return ends or [self.tokenizer.eos_token_id]  # type: ignore[list-item]  # not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that begins a row."""
        return [*self._begin, *self.tokenizer.encode(text)]

    def encode_gaps(self, text: str) -> list[int]:
        """Token ids of a text with gaps such as ``[MASK:8]``, a mask token for each token to fill in.

        Raises:
            ValueError: if there is no gap.
        """
        return [*self._begin, *encode_gaps(text, self.tokenizer)]

    def encode_messages(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """Token ids of a conversation, up to where the next answer begins.

        Args:
            messages: the turns so far.
            tools: schemas of the tools that may be called.

        Raises:
            ValueError: if there is no chat template, or it refuses the messages.
        """
        return make_prompt(self.chat_template, messages, self.tokenizer, tools)

    @cached_property
    def _begin(self) -> list[int]:
        begin, wanted = self.tokenizer.bos_token_id, self.tokenizer.adds_bos if self.bos is None else self.bos
        return [begin] if wanted and begin is not None else []

    def context(self, ids: list[int]) -> list[int]:
        """A prompt as the model can use it: as it stands, but BOS or EOS if it is empty and the model needs one.

        Args:
            ids: token ids of the prompt.

        Raises:
            ValueError: if the model needs a token in front of an answer and the tokenizer has neither BOS nor EOS.
        """
        if ids or not self.model.needs_prompt:
            return ids
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [token]
        raise ValueError("an autoregressive model needs BOS or EOS in front of a text, and the tokenizer has neither")

    def canvas(self, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> Canvas:
        """Prompts with masks behind them, on the model's device.

        Args:
            prompts: token ids, one sequence for each row; may be empty or hold masks of their own.
            num_new_tokens: masks behind each prompt.

        Raises:
            ValueError: if there is no prompt.
        """
        mask, pad = self.model.process.mask_token_id, self.tokenizer.pad_token_id
        if mask is None:  # noise without masks: the tokenizer's own still says where gaps are
            mask = getattr(self.tokenizer, "mask_token_id", None)
        literal = mask is None  # what stands at an open position doesn't matter
        mask = 0 if mask is None else mask
        # Padding is hidden from attention, so any token but the mask will do.
        pad = int(mask == 0) if pad is None else pad
        return canvas(
            prompts, num_new_tokens, mask_token_id=mask, pad_token_id=pad, literal=literal, device=self.model.device
        )

    def to_write(self, made: Canvas) -> Tensor:
        """The positions of a canvas that are to be filled, (B, L) bool; all others are given or padding."""
        return ~made.given

    def steps(self, made: Canvas, seed: int | Tensor) -> Iterator[Step]:
        """Yield the canvas after every sampling step.

        Args:
            made: the canvas.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers.
        """
        return self.model.iterate(*_without_full_mask(made), sampler=self.sampler, seed=seed)

    def generate(self, made: Canvas, seed: int | Tensor) -> Sample:
        """Fill a canvas; arguments as in `steps`."""
        return self.model.generate(*_without_full_mask(made), sampler=self.sampler, seed=seed)

    def answer(self, ids: Sequence[int]) -> Sequence[int]:
        """The tokens before the first one that ends an answer."""
        return ids[: count_before(ids, self.stop_token_ids)]

    def decode(self, ids: Sequence[int], until: Iterable[str] = (), show_mask: str = "") -> str:
        """The text of an answer, up to where it ends.

        Args:
            ids: token ids of the answer.
            until: texts that end the answer as well; they aren't a part of it.
            show_mask: what stands for a mask token, such as "░".
        """
        text = self.tokenizer.decode(self.answer(ids), show_mask)
        return text[: min((text.find(end) for end in until if end in text), default=len(text))]

    def has_ended(self, ids: Sequence[int], until: Iterable[str] = ()) -> bool:
        """Whether an answer that is written from left to right has reached its end.

        Args:
            ids: token ids that have been written so far, without a gap.
            until: as in `decode`.
        """
        return not self.stop_token_ids.isdisjoint(ids) or self.decode(ids, until) != self.decode(ids)

    def stream(self, made: Canvas, steps: Iterable[Step], row: int = 0) -> Iterator[str]:
        """Yield the answer of a row piece by piece, as soon as each piece is final.

        Args:
            made: the canvas before the first step.
            steps: from `steps`, of a sampler whose ``is_final`` is true.
            row: which row of the batch.

        Raises:
            ValueError: if a step changes text that was given out.
        """
        return stream_text(steps, made.given, self.tokenizer.decode, row=row, stops=self.stop_token_ids)

    def seeds(self, values: Sequence[int]) -> Tensor:
        """Seeds of rows as a tensor on the model's device, (B,) int64."""
        return torch.tensor(values, device=self.model.device)


def _without_full_mask(made: Canvas) -> tuple[Any, ...]:
    """The parts of a canvas; no attention mask where nothing is padding, for backbones that know of none."""
    tokens, attention_mask, others = made[0], made[1], made[2:]
    return tokens, None if bool(attention_mask.all()) else attention_mask, *others


def _with_variables(template: ChatTemplate, variables: Mapping[str, Any]) -> ChatTemplate:
    if not variables:
        return template
    if not isinstance(template, JinjaTemplate):
        raise ValueError(
            f"the template {type(template).__name__} has no variables, so {', '.join(variables)} would be ignored; "
            "only templates in Jinja have some"
        )
    return replace(template, variables={**template.variables, **variables})

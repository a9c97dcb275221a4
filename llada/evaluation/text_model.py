"""A model and its tokenizer as evaluations see them: texts in, likelihoods and texts out.

Contexts and continuations become tokens as the Language Model Evaluation Harness has it, so that scores are comparable:
white space at the end of a context is moved to the continuation, both are encoded as one text, and that is cut after as
many tokens as the context has by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from llada.data import Tokenizer
from llada.evaluation.scoring import Scoring, scoring_of
from llada.module import DiffusionLM
from llada.samplers import Sampler, canvas

CHECK_EVERY = 8
"""Steps of left-to-right decoding between two looks for a stop."""


class Pair(NamedTuple):
    """A context and its continuation as token ids."""

    context: list[int]
    continuation: list[int]


class Question(NamedTuple):
    """What is to be continued.

    Attributes:
        ids: the tokens of the context.
        until: texts that end the answer; they aren't a part of it.
        num_new_tokens: of the canvas behind the context.
        seed: of this answer.
    """

    ids: list[int]
    until: tuple[str, ...]
    num_new_tokens: int
    seed: int


@dataclass(frozen=True)
class TextModel:
    """Scores and continues texts.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        scoring: of given answers; None for what fits the model, with its defaults.
        sampler: of new text; None for the model's own.
        num_new_tokens: of every answer; None for as many as are asked for.
        rows_per_call: answers that are written at once; changes speed and memory only.
        check_greedy: whether to find out if greedy decoding would give an answer, which for a diffusion model costs as
            many calls as the answer has tokens. If not, the finding is False.
        bos: whether contexts begin with BOS, if the tokenizer has one.
        seed: of masks and draws.

    Raises:
        ValueError: if a number isn't positive.
    """

    model: DiffusionLM
    tokenizer: Tokenizer
    scoring: Scoring | None = None
    sampler: Sampler | None = None
    num_new_tokens: int | None = None
    rows_per_call: int = 8
    check_greedy: bool = False
    bos: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("num_new_tokens", self.num_new_tokens), ("rows_per_call", self.rows_per_call)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")

    @cached_property
    def _scoring(self) -> Scoring:
        return scoring_of(self.model) if self.scoring is None else self.scoring

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into a row; None for any number."""
        return getattr(self.model.backbone, "max_length", None)

    @cached_property
    def _stops(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_token_id, self.tokenizer.eot_token_id} - {None})  # type: ignore[arg-type]

    @cached_property
    def _begin(self) -> list[int]:
        begin = self.tokenizer.bos_token_id
        return [begin] if self.bos and begin is not None else []

    def encode(self, text: str) -> list[int]:
        """Token ids of a context."""
        return [*self._begin, *self.tokenizer.encode(text)]

    def encode_pair(self, context: str, continuation: str, context_ids: list[int] | None = None) -> Pair:
        """Token ids of a context and its continuation.

        Args:
            context: may be empty.
            continuation: what is to be scored.
            context_ids: of a context that isn't plain text, such as a conversation; None: encode it.

        Raises:
            ValueError: if the continuation has no token of its own, or an empty context meets a model that needs one.
        """
        if context_ids is not None:
            pair = Pair(context_ids, self.tokenizer.encode(continuation))
        else:
            kept = context.rstrip()
            head, both = self.tokenizer.encode(kept), self.tokenizer.encode(context + continuation)
            pair = Pair([*self._begin, *head], both[len(head) :])
        if not pair.continuation:
            raise ValueError(f"the continuation {continuation!r} of {context[-40:]!r} has no token of its own")
        return pair if pair.context or not self._scoring.needs_prompt else Pair([self._prefix], pair.continuation)

    @cached_property
    def _prefix(self) -> int:
        """What stands in front of a text for a model that says nothing of a first token."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return token
        raise ValueError("an autoregressive model needs BOS or EOS in front of a text, and the tokenizer has neither")

    def log_likelihoods(self, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether greedy decoding gives it.

        Args:
            pairs: see `encode_pair`.
            seeds: one per pair; pairs to be compared should share theirs, and with it their masks.

        Raises:
            ValueError: if a pair is too long for the model.
        """
        for pair in pairs:
            self._check(len(pair.context) + len(pair.continuation))
        contexts, answers = [pair.context for pair in pairs], [pair.continuation for pair in pairs]
        values = self._scoring.likelihood(self.model, contexts, answers, torch.tensor(seeds) + self.seed)
        if not self.check_greedy:
            return [(value, False) for value in values.tolist()]
        return list(zip(values.tolist(), self._scoring.greedy(self.model, contexts, answers).tolist(), strict=True))

    def windows(self, text: str) -> list[Pair]:
        """A text in pieces that fit: each is scored once, after as much of what precedes it as there is room for."""
        ids = self.tokenizer.encode(text)
        start = self._begin or ([self._prefix] if self._scoring.needs_prompt else [])
        size = max(len(ids), 1) if self.max_length is None else self.max_length - 1
        pieces = []
        for first in range(0, len(ids), size):
            piece = ids[first : first + size]
            room = size + 1 - len(piece)
            pieces.append(Pair([*start, *ids[:first]][-room:], piece))
        return pieces

    def generate(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """Answer questions, those of about one length at once.

        Args:
            questions: their order and number don't change an answer, up to the rounding of the model.

        Yields:
            The number of a question and its answer, in the order in which they are done.

        Raises:
            ValueError: if a context and its answer are too long for the model.
        """
        for question in questions:
            self._check(len(question.ids) + question.num_new_tokens)
        order = sorted(range(len(questions)), key=lambda i: (questions[i].num_new_tokens, -len(questions[i].ids)))
        while order:
            size = questions[order[0]].num_new_tokens
            batch = [i for i in order[: self.rows_per_call] if questions[i].num_new_tokens == size]
            order = order[len(batch) :]
            yield from zip(batch, self._answers([questions[i] for i in batch], size), strict=True)

    def _answers(self, questions: list[Question], num_new_tokens: int) -> list[str]:
        mask, pad = self.model.process.mask_token_id, self.tokenizer.pad_token_id
        made = canvas(
            [question.ids for question in questions],
            num_new_tokens,
            mask_token_id=mask,
            pad_token_id=int(mask == 0) if pad is None else pad,
            device=self.model.device,
        )
        seeds = torch.tensor([question.seed + self.seed for question in questions], device=self.model.device)
        sampler = self.model.sampler if self.sampler is None else self.sampler
        # From left to right, what has been written stays: decoding may end with the last row's stop.
        final = sampler.left_to_right
        tokens = made.tokens
        for number, step in enumerate(self.model.iterate(*made, sampler=sampler, seed=seeds), start=1):
            tokens = step.tokens
            if final and number % CHECK_EVERY == 0 and all(map(self._ended, tokens[:, -num_new_tokens:], questions)):
                break
        rows = tokens[:, -num_new_tokens:].tolist()
        return [self._text(row, question.until) for row, question in zip(rows, questions, strict=True)]

    def _ended(self, row: torch.Tensor, question: Question) -> bool:
        ids = row.tolist()
        written = ids[: ids.index(self.model.process.mask_token_id)] if self.model.process.mask_token_id in ids else ids
        if not self._stops.isdisjoint(written):
            return True
        text = self.tokenizer.decode(written)
        return any(stop in text for stop in question.until)

    def _text(self, ids: list[int], until: tuple[str, ...]) -> str:
        end = next((index for index, token in enumerate(ids) if token in self._stops), len(ids))
        text = self.tokenizer.decode(ids[:end])
        return text[: min((text.find(stop) for stop in until if stop in text), default=len(text))]

    def _check(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"a row of {length} tokens doesn't fit into the model's {self.max_length}; take fewer examples per "
                "prompt (num_fewshot) or shorter answers (num_new_tokens)"
            )

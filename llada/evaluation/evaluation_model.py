"""A model as evaluations see it: texts in, likelihoods and texts out.

Contexts and continuations become tokens as the Language Model Evaluation Harness has it, so that scores are comparable:
white space at the end of a context is moved to the continuation, both are encoded as one text, and that is cut after as
many tokens as the context has by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from llada.metrics import ConditionalLikelihood
from llada.rows import count_before
from llada.text import TextModel

CHECK_EVERY = 8
"""Steps between two looks whether all answers of a batch have ended."""


class Pair(NamedTuple):
    """A context and its continuation as token ids."""

    context: list[int]
    continuation: list[int]


class Question(NamedTuple):
    """What is to be continued.

    Attributes:
        ids: the tokens of the context.
        until: texts that end the answer; they aren't a part of it.
        num_new_tokens: how many tokens to write behind the context.
        seed: random seed of this answer.
    """

    ids: list[int]
    until: tuple[str, ...]
    num_new_tokens: int
    seed: int


@dataclass(frozen=True)
class EvaluationModel:
    """Scores and continues texts.

    Args:
        text: model and tokenizer, with the chat template and the sampler that are to be used.
        estimator: how the likelihood of given answers is estimated; None for `ConditionalLikelihood` with its defaults.
            Autoregressive models are exact: only its rows per model call count.
        num_new_tokens: how many tokens to write per answer; None for as many as the question asks for.
        rows_per_call: answers that are written at once; changes speed and memory only.
        check_greedy: whether to find out if greedy decoding would give an answer, which for a diffusion model costs as
            many calls as the answer has tokens. If not, the finding is False.
        seed: random seed of the masks and of the drawn tokens.

    Raises:
        ValueError: if a number isn't positive.
    """

    text: TextModel
    estimator: ConditionalLikelihood | None = None
    num_new_tokens: int | None = None
    rows_per_call: int = 8
    check_greedy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("num_new_tokens", self.num_new_tokens), ("rows_per_call", self.rows_per_call)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")

    def encode_pair(self, context: str, continuation: str, context_ids: list[int] | None = None) -> Pair:
        """Token ids of a context and its continuation.

        Args:
            context: may be empty.
            continuation: what is to be scored.
            context_ids: token ids of a context that isn't plain text, such as a conversation; None: encode ``context``.

        Raises:
            ValueError: if the continuation has no token of its own, or an empty context meets a model that needs one.
        """
        tokenizer = self.text.tokenizer
        if context_ids is not None:
            pair = Pair(context_ids, tokenizer.encode(continuation))
        else:
            head, both = self.text.encode(context.rstrip()), tokenizer.encode(context + continuation)
            pair = Pair(head, both[len(head) - len(self.text.encode("")) :])
        if not pair.continuation:
            raise ValueError(f"the continuation {continuation!r} of {context[-40:]!r} has no token of its own")
        return Pair(self.text.context(pair.context), pair.continuation)

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
        model, seed = self.text.model, torch.tensor(seeds) + self.seed
        values = model.log_likelihood(contexts, answers, seed=seed, estimator=self.estimator).log_likelihood.tolist()
        greedy = [False] * len(pairs)
        if self.check_greedy:
            greedy = model.greedy_match(contexts, answers, estimator=self.estimator).tolist()
        return list(zip(values, greedy, strict=True))

    def windows(self, text: str) -> list[Pair]:
        """A text in pieces that fit: each is scored once, after as much of what precedes it as there is room for."""
        ids = self.text.tokenizer.encode(text)
        start = self.text.context(self.text.encode(""))
        size = max(len(ids), 1) if self.text.max_length is None else self.text.max_length - 1
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
        made = self.text.canvas([question.ids for question in questions], num_new_tokens)
        seeds = self.text.seeds([question.seed + self.seed for question in questions])
        final, tokens = self.text.decoding.is_final, made.tokens
        for number, step in enumerate(self.text.steps(made, seeds), start=1):
            tokens = step.tokens
            # Where nothing that is written changes any more, decoding may end with the last answer's end.
            if final and number % CHECK_EVERY == 0:
                answers = tokens[:, -num_new_tokens:].tolist(), step.open[:, -num_new_tokens:].tolist()
                rows = [ids[: count_before(waits, {True})] for ids, waits in zip(*answers, strict=True)]
                if all(self.text.has_ended(row, question.until) for row, question in zip(rows, questions, strict=True)):
                    break
        rows = tokens[:, -num_new_tokens:].tolist()
        return [self.text.decode(row, question.until) for row, question in zip(rows, questions, strict=True)]

    def _check(self, length: int) -> None:
        if self.text.max_length is not None and length > self.text.max_length:
            raise ValueError(
                f"a row of {length} tokens doesn't fit into the model's {self.text.max_length}; take fewer examples "
                "per prompt (num_fewshot) or shorter answers (num_new_tokens)"
            )

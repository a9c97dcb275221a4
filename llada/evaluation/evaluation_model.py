"""A model as evaluations see it: texts in, likelihoods and texts out.

Contexts and continuations become tokens as the Language Model Evaluation Harness has it, so that scores are comparable:
white space at the end of a context is moved to the continuation, both are encoded as one text, and that is cut after as
many tokens as the context has by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch

from llada.metrics import ConditionalLikelihood
from llada.rows import count_before
from llada.samplers import Sampler
from llada.text import Ranks, TextModel

CHECK_EVERY = 8
"""Steps between two looks whether all answers of a batch have ended."""


class EmptyContinuation(ValueError):
    """A continuation has no token of its own, so there is nothing to score."""


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
        sampler: how it is written; None for the model's own way.
    """

    ids: list[int]
    until: tuple[str, ...]
    num_new_tokens: int
    seed: int
    sampler: Sampler | None = None


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
        strict: whether a row that doesn't fit, or can't be answered, ends an evaluation, instead of being cut or left
            out and counted in the result.
        ranks: processes that share the rows, see `llada.text.launched`; each must be given the same ones.
        score_end: whether an answer that is scored has its end behind it, which is scored with it. A diffusion model
            reads the whole row: one that was fine-tuned on answers with an end (`llada.data.EosInAnswer`) has never
            seen a row that stops before it. Published scores are without.

    Raises:
        ValueError: if a number isn't positive, the answers alone don't fit into the model, or with ``score_end`` the
            tokenizer has no EOS.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada import DiffusionLM
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.data import SentencePieceTraining
        >>> from llada.process import MaskingProcess
        >>> from llada.evaluation import EvaluationModel
        >>> from llada.text import TextModel
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> model = DiffusionLM(BidirectionalTransformer(280, 8, 1, 2), MaskingProcess(words.mask_token_id)).eval()
        >>> judge = EvaluationModel(TextModel(model, words))
        >>> pairs = [judge.encode_pair("to be or not", ending) for ending in (" to be", " that")]
        >>> values = [value for value, _ in judge.log_likelihoods(pairs, seeds=[0, 0])]
        >>> all(value < 0.0 for value in values)
        True
    """

    text: TextModel
    estimator: ConditionalLikelihood | None = None
    num_new_tokens: int | None = None
    rows_per_call: int = 8
    check_greedy: bool = False
    seed: int = 0
    strict: bool = False
    ranks: Ranks = Ranks()  # noqa: RUF009 - frozen
    score_end: bool = False

    def __post_init__(self) -> None:
        for name, value in (("num_new_tokens", self.num_new_tokens), ("rows_per_call", self.rows_per_call)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")
        if self.num_new_tokens is not None:
            self._check(self.num_new_tokens)
        if self.score_end:
            self.text.end_of_answer(in_chat=False)

    def encode_pair(self, context: str, continuation: str, context_ids: list[int] | None = None) -> Pair:
        """Token ids of a context and its continuation.

        Args:
            context: may be empty.
            continuation: what is to be scored.
            context_ids: token ids of a context that isn't plain text, such as a conversation; None: encode ``context``.

        Raises:
            EmptyContinuation: if the continuation has no token of its own.
            ValueError: if an empty context meets a model that needs a token, and the tokenizer has none to give.
        """
        tokenizer = self.text.tokenizer
        if context_ids is not None:
            pair = Pair(context_ids, tokenizer.encode(continuation))
        else:
            head, both = self.text.encode(context.rstrip()), tokenizer.encode(context + continuation)
            pair = Pair(head, both[len(head) - len(self.text.encode("")) :])
        if not pair.continuation:
            raise EmptyContinuation(f"the continuation {continuation!r} of {context[-40:]!r} has no token of its own")
        end = self.text.end_of_answer(in_chat=context_ids is not None) if self.score_end else []
        return Pair(self.text.context(pair.context), [*pair.continuation, *end])

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
        shares = [range(first, len(pairs), self.ranks.size) for first in range(min(self.ranks.size, len(pairs)))]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)

        def score(share: range) -> list[tuple[float, bool]]:
            return self._scores([pairs[i] for i in share], [seeds[i] for i in share])

        for share, scores in zip(shares, self.ranks.share(shares, score), strict=True):
            found[share.start :: self.ranks.size] = scores
        return found

    def _scores(self, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[tuple[float, bool]]:
        contexts, answers = [pair.context for pair in pairs], [pair.continuation for pair in pairs]
        model, seed = self.text.model, torch.tensor(seeds) + self.seed
        values = model.log_likelihood(contexts, answers, seed=seed, estimator=self.estimator).log_likelihood.tolist()
        greedy = [False] * len(pairs)
        if self.check_greedy:
            greedy = model.greedy_match(contexts, answers, estimator=self.estimator).tolist()
        return list(zip(values, greedy, strict=True))

    def fit_pair(self, pair: Pair) -> list[Pair]:
        """A pair that fits: its context is cut from the left, and a continuation longer than a row comes in pieces."""
        size = self.text.max_length
        if size is None or len(pair.context) + len(pair.continuation) <= size:
            return [pair]
        if len(pair.continuation) < size:
            return [Pair(self._cut(pair.context, size - len(pair.continuation)), pair.continuation)]
        return self._pieces(pair.context, pair.continuation)

    def fit_question(self, question: Question) -> Question:
        """A question that fits: its answer gets the room that is left, or half of the row, and the rest is cut off.

        The answer is shortened first, to no less than half of the row; then the question is cut from the left.
        """
        size, wanted = self.text.max_length, question.num_new_tokens
        if size is None or len(question.ids) + wanted <= size:
            return question
        wanted = min(wanted, max(size - len(question.ids), size // 2))
        return question._replace(ids=self._cut(question.ids, size - wanted), num_new_tokens=wanted)

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """The last tokens, behind the BOS that the whole began with."""
        begin = ids[:1] if ids and ids[0] == self.text.tokenizer.bos_token_id and room > 1 else []
        return [*begin, *ids[len(ids) - room + len(begin) :]] if len(ids) > room else ids

    def windows(self, text: str) -> list[Pair]:
        """A text in pieces that fit: each is scored once, after as much of what precedes it as there is room for."""
        ids = self.text.tokenizer.encode(text)
        start = self.text.context(self.text.encode(""))
        return self._pieces(start, ids)

    def _pieces(self, start: list[int], ids: list[int]) -> list[Pair]:
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
        batches = []
        while order:
            size, sampler = questions[order[0]].num_new_tokens, questions[order[0]].sampler
            alike = (i for i in order if (questions[i].num_new_tokens, questions[i].sampler) == (size, sampler))
            batches.append(list(islice(alike, self.rows_per_call)))
            order = [i for i in order if i not in batches[-1]]
        for batch, answers in zip(batches, self.ranks.share(batches, partial(self._batch, questions)), strict=True):
            yield from zip(batch, answers, strict=True)

    def _batch(self, questions: Sequence[Question], batch: list[int]) -> list[str]:
        size, sampler = questions[batch[0]].num_new_tokens, questions[batch[0]].sampler
        text = self.text if sampler is None else replace(self.text, sampler=sampler)
        return self._answers(text, [questions[i] for i in batch], size)

    def _answers(self, text: TextModel, questions: list[Question], num_new_tokens: int) -> list[str]:
        made = text.canvas([question.ids for question in questions], num_new_tokens)
        seeds = text.seeds([question.seed + self.seed for question in questions])
        final, tokens = text.decoding.is_final, made.tokens
        begin = made.tokens.shape[1] - num_new_tokens  # lengths may change behind it
        for number, step in enumerate(text.steps(made, seeds), start=1):
            tokens = step.tokens
            # Where nothing that is written changes any more, decoding may end with the last answer's end.
            if final and number % CHECK_EVERY == 0:
                answers = tokens[:, begin:].tolist(), step.open[:, begin:].tolist()
                rows = [ids[: count_before(waits, {True})] for ids, waits in zip(*answers, strict=True)]
                if all(text.has_ended(row, question.until) for row, question in zip(rows, questions, strict=True)):
                    break
        rows = tokens[:, begin:].tolist()
        return [text.decode(row, question.until) for row, question in zip(rows, questions, strict=True)]

    def _check(self, length: int) -> None:
        if self.text.max_length is not None and length > self.text.max_length:
            raise ValueError(
                f"a row of {length} tokens doesn't fit into the model's {self.text.max_length}; take fewer examples "
                "per prompt (num_fewshot) or shorter answers (num_new_tokens)"
            )

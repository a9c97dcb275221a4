"""How likely an answer is and whether greedy decoding gives it, for diffusion and for autoregressive models alike."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llada.autoregressive import AutoregressiveLM
from llada.denoiser import as_denoiser
from llada.metrics import ConditionalLikelihood, NextTokenLikelihood, greedy_match
from llada.metrics.pairs import Tokens, pack
from llada.module import DiffusionLM
from llada.process import MaskingProcess


class Scoring(ABC):
    """What an evaluation asks of a model about given answers."""

    @property
    @abstractmethod
    def needs_prompt(self) -> bool:
        """Whether an answer needs something in front of it."""

    @abstractmethod
    def likelihood(
        self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens], seeds: Tensor
    ) -> Tensor:
        """Log-likelihoods of answers given prompts.

        Args:
            model: in evaluation mode.
            prompts: R sequences of token ids.
            answers: R sequences of token ids, not empty.
            seeds: (R,) int64; pairs of one seed, with answers of one length, get the same masks.

        Returns:
            (R,) float64, nats.
        """

    @abstractmethod
    def greedy(self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens]) -> Tensor:
        """Whether greedy decoding of as many tokens as an answer has gives the answer, (R,) bool."""


@dataclass(frozen=True)
class DiffusionScoring(Scoring):
    """Monte-Carlo bounds, and greedy decoding by confidence.

    Args:
        estimator: of the bound; its guidance and its rows per call hold for greedy decoding as well.
    """

    estimator: ConditionalLikelihood = field(default_factory=ConditionalLikelihood)

    @property
    def needs_prompt(self) -> bool:
        """See `Scoring`."""
        return False

    def likelihood(
        self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens], seeds: Tensor
    ) -> Tensor:
        """See `Scoring`."""
        found = self.estimator(model.backbone, model.process, prompts, answers, seed=seeds, device=model.device)
        return found.log_likelihood

    def greedy(self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens]) -> Tensor:
        """See `Scoring`."""
        return greedy_match(
            model.backbone,
            model.process,
            prompts,
            answers,
            guidance=self.estimator.guidance,
            rows_per_call=self.estimator.rows_per_call,
            device=model.device,
        )


@dataclass(frozen=True)
class NextTokenScoring(Scoring):
    """Exact likelihoods, and greedy decoding from left to right, each in one pass.

    Args:
        estimator: scores the pairs.
    """

    estimator: NextTokenLikelihood = field(default_factory=NextTokenLikelihood)

    @property
    def needs_prompt(self) -> bool:
        """See `Scoring`."""
        return True

    def likelihood(
        self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens], seeds: Tensor
    ) -> Tensor:
        """See `Scoring`."""
        return self.estimator(model.backbone, model.process, prompts, answers, device=model.device).log_likelihood

    def greedy(self, model: DiffusionLM, prompts: Sequence[Tokens], answers: Sequence[Tokens]) -> Tensor:
        """See `Scoring`."""
        return next_token_greedy_match(
            model.backbone,
            model.process,
            prompts,
            answers,
            rows_per_call=self.estimator.rows_per_call,
            device=model.device,
        )


@torch.no_grad()
def next_token_greedy_match(
    model: Any,
    process: MaskingProcess,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    *,
    rows_per_call: int = 32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Whether greedy decoding from left to right gives the answer.

    It does if every token of the answer is the likeliest one after those in front of it, which one pass over the answer
    tells.

    Args:
        model: causal and shifted, whatever `llada.denoiser.as_denoiser` takes.
        process: owner of the mask token, which is never written.
        prompts: R sequences of token ids, not empty.
        answers: R sequences of token ids, not empty.
        rows_per_call: rows of one model call.
        device: where the model is.

    Returns:
        (R,) bool.

    Raises:
        ValueError: if there are no pairs, their numbers differ, or an answer is empty.
    """
    pairs = pack(prompts, answers)
    matches = []
    for rows in torch.arange(len(pairs.order)).split(rows_per_call):
        tokens, answer, arguments = pairs.padded(rows, device)
        logits = as_denoiser(model).logits(tokens, answer, **arguments)
        logits[:, process.mask_token_id] = -torch.inf
        wrong = torch.zeros_like(answer)
        wrong[answer] = logits.argmax(-1) != tokens[answer]
        matches.append(~wrong.any(1).cpu())
    return torch.cat(matches)[pairs.order.argsort()]


def scoring_of(model: DiffusionLM) -> Scoring:
    """The scoring that fits a model, with its defaults."""
    return NextTokenScoring() if isinstance(model, AutoregressiveLM) else DiffusionScoring()

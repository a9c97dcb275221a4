"""What a trained model does: fill a canvas, and say how likely an answer is.

A mixin of `llada.module.DiffusionLM`. The decoding is in `llada.samplers`, the likelihood in `llada.metrics`; here
they meet the model's own parts, its device and its mode.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llada.metrics import (
    ConditionalLikelihood,
    LikelihoodEstimate,
    NextTokenLikelihood,
    greedy_match,
    next_token_greedy_match,
)
from llada.metrics.pairs import Tokens
from llada.objectives import Objective
from llada.process import Process
from llada.samplers import Sample, Sampler, Step


class Inference:
    """Decoding and likelihood of a module that holds a backbone, a process, a bound and a sampler."""

    backbone: nn.Module
    process: Process
    bound: Objective
    sampler: Sampler
    device: torch.device

    @torch.no_grad()
    def iterate(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        given: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        seed: int | Tensor = 0,
    ) -> Iterator[Step]:
        """Yield the canvas after every sampling step; arguments as in `generate`."""
        sampler = self.sampler if sampler is None else sampler
        arguments = self._on_device(attention_mask=attention_mask, given=given)
        with evaluating(self):
            yield from sampler.iterate(self.backbone, tokens.to(self.device), self.process, seed=seed, **arguments)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        given: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        seed: int | Tensor = 0,
    ) -> Sample:
        """Fill a canvas.

        Args:
            tokens: (B, L) int64; `llada.samplers.canvas` makes one from prompts.
            attention_mask: (B, L) bool, true for real tokens; needed where rows are padded.
            given: (B, L) bool, true for what stays as it is: prompts, and the padding. None: all but the mask tokens.
            sampler: instead of the module's own.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers.

        Returns:
            Tokens (B, L) and the model calls per row.
        """
        sampler = self.sampler if sampler is None else sampler
        arguments = self._on_device(attention_mask=attention_mask, given=given)
        with evaluating(self):
            return sampler(self.backbone, tokens.to(self.device), self.process, seed=seed, **arguments)

    @property
    def needs_prompt(self) -> bool:
        """Whether an answer can be scored only with at least one token in front of it, as in autoregressive models."""
        return self.bound.left_to_right

    def log_likelihood(
        self,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        seed: int | Tensor = 0,
        estimator: ConditionalLikelihood | None = None,
    ) -> LikelihoodEstimate:
        """Log-likelihoods of answers given prompts.

        A model whose bound is read from left to right gives the exact ones, by one pass over prompt and answer. Others
        give estimates of the bound, exact ones for short answers.

        Args:
            prompts: R sequences of token ids.
            answers: R sequences of token ids, not empty.
            seed: an int, from which pair i gets ``seed + i``, or (R,) int64; pairs of one seed, with answers of one
                length, get the same masks.
            estimator: how they are estimated; None for `ConditionalLikelihood` with its defaults. Where the value is
                exact, only its rows per model call count.

        Returns:
            Log-likelihoods (R,) float64 in nats, with their standard errors: 0 where the value is exact.

        Raises:
            ValueError: if there are no pairs, their numbers differ, or an answer is empty.
        """
        estimator = ConditionalLikelihood() if estimator is None else estimator
        with evaluating(self):
            if self.bound.left_to_right and not estimator.for_every_model:
                exact = NextTokenLikelihood(estimator.rows_per_call)
                return exact(self.backbone, self.process, prompts, answers, device=self.device)
            return estimator(self.backbone, self.process, prompts, answers, seed=seed, device=self.device)

    def greedy_match(
        self,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        estimator: ConditionalLikelihood | None = None,
    ) -> Tensor:
        """Whether greedy decoding of as many tokens as an answer has gives the answer, (R,) bool.

        Args:
            prompts: R sequences of token ids.
            answers: R sequences of token ids, not empty.
            estimator: its guidance and its rows per model call hold here as well; None for the defaults.

        Raises:
            ValueError: as in `log_likelihood`.
        """
        estimator = ConditionalLikelihood() if estimator is None else estimator
        options: dict[str, Any] = {"rows_per_call": estimator.rows_per_call, "device": self.device}
        with evaluating(self):
            if self.bound.left_to_right:
                return next_token_greedy_match(self.backbone, self.process, prompts, answers, **options)
            options["guidance"] = estimator.guidance
            return greedy_match(self.backbone, self.process, prompts, answers, **options)

    def _on_device(self, **arguments: Tensor | None) -> dict[str, Tensor]:
        """The masks (B, L) that were given, as bool on the model's device."""
        return {name: mask.bool().to(self.device) for name, mask in arguments.items() if mask is not None}


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode for as long as a context lasts; then every submodule has its own mode again."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training

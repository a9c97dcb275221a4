"""Ancestral sampling: the reverse process itself, for any noise.

    x_1 ~ prior,     x_s ~ p(x_s | x_t) = process.reverse(x_t, xhat(x_t), t, s)     for t = 1, 1 - 1/K, ..., 1/K,

with xhat the model's distribution of the clean token, drawn at every open position independently.

Shapes: B rows, L columns of the canvas, M open positions per row, V vocabulary.

Reference: Sahoo et al., arXiv 2406.07524, equation 7 (masks); Schiff et al., arXiv 2412.10193 (uniform noise).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import as_denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.layout import first_true
from llada.samplers.propose import Proposal, broken_rows, check_answers, inverse_cdf
from llada.samplers.sampler import Sampler, Step
from llada.samplers.state import State, token_probability


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """Goes back through the process in equal steps; it is how a `UniformProcess` generates.

    For masks the preset `ancestral` has the same law and runs the model only where a token is written.

    Args:
        steps: K, model calls.
        temperature: of xhat, above 0; 1 samples from the model.
        top_p: keep the smallest set of tokens with at least this much probability in xhat; None for all.
        top_k: keep this many tokens in xhat; None for all.
        suppress_tokens: ids that xhat never has.

    Raises:
        ValueError: if an option is out of its range.
    """

    steps: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.temperature > 0.0:
            raise ValueError(f"steps must be 1 or more, and temperature above 0; got {self.steps}, {self.temperature}")
        _ = self.proposal

    @cached_property
    def proposal(self) -> Proposal:
        """How the logits become xhat."""
        return Proposal(self.temperature, self.top_p, self.top_k, self.suppress_tokens)

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it may write a position several times; for masks, use the preset ancestral, which has the same law"

    @torch.no_grad()
    @override
    def iterate(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        denoiser, random = as_denoiser(model), RowRandom.from_seed(seed, len(tokens), tokens.device)
        state = State.begin(process, tokens, given, random, model_kwargs.get("attention_mask"))
        columns, valid = first_true(state.open, int(state.open.sum(1).max()) if len(tokens) else 0)
        state = replace(state, columns=columns, valid=valid)
        x, calls = state.tokens, state.calls
        for k in range(self.steps if columns.shape[1] else 0):
            t, s = (torch.full(calls.shape, 1.0 - n / self.steps, device=x.device).double() for n in (k, k + 1))
            logits = denoiser.logits(x, columns, **process.conditioning(t), **model_kwargs).float()
            logits = self.proposal.suppress(logits, state)
            if process.num_tokens is not None:
                logits[..., process.num_tokens :] = -torch.inf
            filtered = self.proposal.filter(logits)
            state = replace(state, broken=broken_rows(state, ~filtered.amax(-1).isfinite()))
            if k in (0, self.steps - 1):
                check_answers(state)
            clean = filtered.double().softmax(-1)
            before = x.gather(1, columns)
            law = process.reverse(before, clean, t, s)
            drawn = inverse_cdf(law.log(), random.fold_in(k).uniform_at(state.positions))
            now = torch.where(valid, drawn, before)
            changed = torch.zeros_like(state.open).scatter(1, columns, now != before)
            confidence = torch.full(x.shape, torch.nan, device=x.device)
            confidence.scatter_(1, columns, token_probability(logits, now).masked_fill(~valid, torch.nan))
            x, calls = x.scatter(1, columns, now), calls + valid.any(1)
            yield Step(x, changed, confidence, calls, state.open & process.is_masked(x))

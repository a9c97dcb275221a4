"""Ancestral sampling: the reverse process itself, for any noise.

    x_1 ~ prior,     x_s ~ p(x_s | x_t) = process.reverse(x_t, xhat(x_t), t, s)     for t = 1, 1 - 1/K, ..., 1/K

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

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.layout import first_true
from llada.samplers.propose import Proposal, inverse_cdf
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
        power: the times are ((K - k) / K)^power. With 2 the steps are short at the end, where random tokens of a
            `HybridProcess` vanish fastest; its error then falls as 1 / K, and otherwise more slowly.

    Raises:
        ValueError: if an option is out of its range.
    """

    steps: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.temperature > 0.0:
            raise ValueError(f"steps must be 1 or more, and temperature above 0; got {self.steps}, {self.temperature}")
        if not self.power > 0.0:
            raise ValueError(f"power, of the times, must be above 0; got {self.power}")
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
        denoiser, random = process.network(model), RowRandom.from_seed(seed, len(tokens), tokens.device)
        state = State.begin(process, tokens, given, random, model_kwargs.get("attention_mask"))
        columns, valid = first_true(state.open, int(state.open.sum(1).max()) if len(tokens) else 0)
        state = replace(state, columns=columns, valid=valid)
        x, calls = state.tokens, state.calls
        for k in range(self.steps if columns.shape[1] else 0):
            t, s = (torch.full_like(calls, self.time(n), dtype=torch.float64) for n in (k, k + 1))
            before = x.gather(1, columns)
            logits, clean = self.predict(denoiser, replace(state, tokens=x), t, model_kwargs)
            law = process.reverse(before, clean, t, s)
            drawn = inverse_cdf(law.log(), random.fold_in(k).uniform_at(state.positions))
            now = torch.where(valid, drawn, before)
            changed = torch.zeros_like(state.open).scatter(1, columns, now != before)
            confidence = torch.full(x.shape, torch.nan, device=x.device)
            confidence.scatter_(1, columns, token_probability(logits, now).float().masked_fill(~valid, torch.nan))
            x, calls = x.scatter(1, columns, now), calls + valid.any(1)
            yield Step(x, changed, confidence, calls, state.open & process.is_masked(x))

    def time(self, step: int) -> float:
        """When a step begins, and the one before it ends."""
        return float((1.0 - step / self.steps) ** self.power)

    def predict(
        self, denoiser: Denoiser, state: State, t: Tensor, model_kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """What the model says of the clean tokens at the candidates.

        Args:
            denoiser: as `Process.network` gives it.
            state: a canvas, and the columns of M candidates per row.
            t: (B,) float64, its time.
            model_kwargs: for the model.

        Returns:
            Logits (B, M, V) float32, and xhat after temperature and filters, (B, M, V) float64.
        """
        process, known = state.process, {**state.process.conditioning(t), **model_kwargs}
        logits = denoiser.clean_logits(state.tokens, state.columns, process.mixture(t[:, None]), **known)
        logits = self.proposal.suppress(logits if logits.dtype == torch.float64 else logits.float(), state)
        return logits, self.proposal.filter(logits).double().softmax(-1)

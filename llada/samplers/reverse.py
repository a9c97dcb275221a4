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
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
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
        power: the times are ((K - k) / K)^power. With 2 the steps are short at the end, where random tokens of a
            `HybridProcess` vanish fastest; its error then falls as 1 / K, and otherwise more slowly.
        greedy_tail: whether the last step takes the best token of xhat instead of drawing one, as Duo's "greedy" does:
            likelier text of less variety.

    Raises:
        ValueError: if an option is out of its range.
    """

    steps: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    power: float = 1.0
    greedy_tail: bool = False

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
        for k in range(self.steps if columns.shape[1] else 0):
            t, s = (torch.full_like(state.calls, self.time(n), dtype=torch.float64) for n in (k, k + 1))
            before = state.tokens.gather(1, columns)
            logits, clean = self.predict(denoiser, state, t, model_kwargs)
            state = replace(state, broken=broken_rows(state, ~clean.isfinite().all(-1)))
            if k in (0, self.steps - 1):
                check_answers(state)
            law = self.amend(process.reverse(before, clean, t, s), process, before, clean, t, s)
            drawn = inverse_cdf(law.log(), random.fold_in(k).uniform_at(state.positions))
            state, step = moved(state, torch.where(valid, drawn, before), logits)
            yield step
            if k + 1 < self.steps:
                for step in self.correct(denoiser, state, s, random.fold_in(k, 1), model_kwargs):
                    state = replace(state, tokens=step.tokens, calls=step.calls)
                    yield step

    def amend(self, law: Tensor, process: Process, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What a step draws from; here the reverse step, whose end may be greedy.

        Args:
            law: p(x_s | x_t) of M positions, (B, M, V) float64.
            process: the noise process.
            tokens: x_t there, (B, M) int64.
            clean: xhat there, (B, M, V) float64.
            t: (B,) float64, the time of ``tokens``.
            s: (B,) float64, the earlier time that is stepped to.
        """
        if not self.greedy_tail or bool((s > 0.0).any()):
            return law
        best = (clean if process.scatters else law).argmax(-1)
        return F.one_hot(best, law.shape[-1]).to(law)

    def correct(
        self, denoiser: Denoiser, state: State, s: Tensor, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Iterator[Step]:
        """What happens to a canvas between two steps; here nothing.

        Args:
            denoiser: as `Process.network` gives it.
            state: the canvas at time ``s``, with its open columns.
            s: (B,) float64.
            random: the rows' random streams.
            model_kwargs: for the model.
        """
        yield from ()

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
        logits = denoiser.clean_logits(state.tokens, state.columns, process.noise_law(t[:, None]), **known)
        logits = self.proposal.suppress(logits if logits.dtype == torch.float64 else logits.float(), state)
        return logits, self.proposal.filter(logits).double().softmax(-1)


def moved(state: State, now: Tensor, logits: Tensor) -> tuple[State, Step]:
    """The state with other tokens at its candidates, and what viewers see of the step.

    Args:
        state: before the step.
        now: (B, M) int64, the candidates' tokens after it.
        logits: (B, M, V), what the model said of them.
    """
    columns, valid = state.columns, state.valid
    changed = now != state.tokens.gather(1, columns)
    sure = token_probability(logits, now).float().masked_fill(~valid, torch.nan)
    confidence = torch.full(state.tokens.shape, torch.nan, device=sure.device).scatter_(1, columns, sure)
    tokens, calls = state.tokens.scatter(1, columns, now), state.calls + valid.any(1)
    after = replace(state, tokens=tokens, calls=calls)
    waits = state.open & state.process.is_masked(tokens)
    written = torch.zeros_like(state.open).scatter(1, columns, changed)
    return after, Step(tokens, written, confidence, calls, waits, rewrites=state.process.scatters)

"""Commit and renoise: keep what the network is sure of, and put fresh noise everywhere else (DiffusionGemma).

In each of at most N steps, with n of them left,

1. a token is drawn at every open position, at the temperature t_min + (t_max - t_min) n / N;
2. the positions are sorted by the entropy H of what they were drawn from, and the first k are kept, as many as
   H_1 + ... + H_k - H_k <= bound: what the kept tokens may tell about one another;
3. all others get a random token, and every position is judged again in the next step.

The text is the best token of every position in the last step. A row is finished once these are the same as before and
their mean entropy is small.

Reference: DiffusionGemma's released ``generate``; the entropy bound of step 2 is that of Ben-Hamu et al.,
arXiv 2505.24857.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.chain import ChainSampler, moved
from llada.samplers.guidance import Guidance
from llada.samplers.layout import Span, plan
from llada.samplers.propose import broken_rows, check_answers, inverse_cdf, suppress
from llada.samplers.sampler import Step
from llada.samplers.state import State


@dataclass(frozen=True)
class CommitAndRenoise(ChainSampler):
    """Decodes noise without masks by what the network says of each token, the token itself among what it sees.

    It asks for the full posterior, as plain cross-entropy teaches it; a network of the leave-one-out posterior is less
    sure of what it keeps.

    Args:
        steps: N, most model calls of a block.
        t_min: temperature that the steps tend to.
        t_max: temperature at the start.
        entropy_bound: nats; the larger, the more tokens a step keeps.
        stable_steps: calls in a row whose best tokens must agree with the last ones before a row is finished.
        stop_entropy: nats, the mean entropy of the positions below which it may finish; 0: it takes all steps.
        suppress_tokens: ids that are never written.
        self_conditioning: whether the network is also told the logits that the last step of the block drew from,
            (B, M, V), as the keyword ``previous``; DiffusionGemma learns to use them.
        guidance: by the prompt, of the logits.
        window: the whole canvas, or `Blocks` that are finished one after the other.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from llada.process import UniformProcess
        >>> from llada.samplers import CommitAndRenoise
        >>> model = lambda tokens: 9.0 * torch.eye(3)[tokens * 0 + 1]
        >>> canvas, given = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.bool)
        >>> CommitAndRenoise(steps=8)(model, canvas, UniformProcess(3), given=given).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stable_steps: int = 1
    stop_entropy: float = 0.005
    suppress_tokens: tuple[int, ...] = ()
    self_conditioning: bool = field(default=False, kw_only=True)
    guidance: Guidance = field(default_factory=Guidance, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.stable_steps < 0:
            raise ValueError(f"steps must be 1 or more, stable_steps 0; got {self.steps} and {self.stable_steps}")
        if not 0.0 < self.t_min <= self.t_max:
            raise ValueError(f"temperatures need 0 < t_min <= t_max; got {self.t_min} and {self.t_max}")
        if not (self.entropy_bound >= 0.0 and self.stop_entropy >= 0.0):
            raise ValueError(f"entropies must be 0 or more; got {self.entropy_bound} and {self.stop_entropy}")

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it draws every token several times"

    @override
    def check_process(self, process: Process) -> None:
        if process.num_tokens is None or process.mask_token_id is not None:
            raise ValueError(f"CommitAndRenoise is for noise without masks, not {process}; use AncestralSampler")

    @override
    def spans(self, state: State) -> list[Span]:
        steps = torch.full_like(state.calls, self.steps)
        return [span._replace(num_steps=steps, shares=(self.steps,)) for span in plan(self.window, None, state.open)]

    @override
    def entered(self, state: State, span: Span) -> State:
        state = super().entered(state, span)
        return replace(state, drawn=torch.full_like(state.columns, -1), stable=torch.zeros_like(state.calls))

    @override
    def advance(
        self, denoiser: Denoiser, state: State, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Generator[Step, None, State]:
        valid, before = state.valid, state.tokens.gather(1, state.columns)
        active = valid.any(1)
        if not bool(active.any()):
            return state
        logits = self._logits(denoiser, state, model_kwargs)
        check_answers(replace(state, broken=broken_rows(state, ~logits.amax(-1).isfinite())))
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1).masked_fill(~valid, 0.0)
        best = torch.where(valid, logits.argmax(-1), state.drawn)
        same = (best == state.drawn).all(1) & active
        stable = torch.where(same, state.stable + 1, 0)
        sure = entropy.sum(1) / valid.sum(1).clamp(min=1) < self.stop_entropy
        assert state.num_steps is not None
        over = (stable >= self.stable_steps) & sure & active
        num_steps = torch.where(over, state.step + 1, state.num_steps)
        state = replace(state, drawn=best, stable=stable, num_steps=num_steps)
        now = torch.where(state.is_last[:, None], best, self._renoised(state, logits, entropy, random))
        state, step = moved(state, torch.where(valid, now, before), logits)
        yield step
        return state

    def _logits(self, denoiser: Denoiser, state: State, model_kwargs: dict[str, Any]) -> Tensor:
        """What the candidates' tokens are drawn from, (B, M, V) float32."""
        process, left = state.process, (self.steps - state.step) / self.steps
        known = process.conditioning(torch.full_like(state.calls, left, dtype=torch.float64))
        if self.self_conditioning and state.step > 0:
            known["previous"] = state.logits
        guided = self.guidance(denoiser, state.given, None, model_kwargs.get("attention_mask"))
        logits = guided.logits(state.tokens, state.columns, **known, **model_kwargs).float()
        logits[..., process.num_tokens :] = -torch.inf
        return suppress(logits, self.suppress_tokens) / (self.t_min + (self.t_max - self.t_min) * left)

    def _renoised(self, state: State, logits: Tensor, entropy: Tensor, random: RowRandom) -> Tensor:
        """Drawn tokens where the network is sure, random ones elsewhere, (B, M) int64."""
        assert state.process.num_tokens is not None
        drawn = inverse_cdf(logits, random.uniform_at(state.positions))
        noise = (random.fold_in(1).uniform_at(state.positions) * state.process.num_tokens).long()
        kept = within_bound(entropy.masked_fill(~state.valid, torch.inf), self.entropy_bound)
        return torch.where(kept, drawn, noise)


def within_bound(entropy: Tensor, bound: float) -> Tensor:
    """The most certain positions of each row whose entropies, but for the largest, sum up to a bound at most.

    Args:
        entropy: (B, M), nats; infinite where there is nothing to keep.
        bound: nats.

    Returns:
        (B, M) bool; the most certain position is always kept.
    """
    ordered, index = entropy.sort(dim=1, stable=True)
    finite = ordered.isfinite()
    ordered = ordered.masked_fill(~finite, 0.0)
    return torch.zeros_like(finite).scatter(1, index, (ordered.cumsum(1) - ordered <= bound) & finite)

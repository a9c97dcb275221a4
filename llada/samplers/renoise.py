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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.process import Process
from llada.random import RowRandom
from llada.samplers.layout import first_true
from llada.samplers.propose import broken_rows, check_answers, inverse_cdf, suppress
from llada.samplers.reverse import moved
from llada.samplers.sampler import Sampler, Step
from llada.samplers.state import State


@dataclass(frozen=True)
class CommitAndRenoise(Sampler):
    """Decodes noise without masks by what the network says of each token, the token itself among what it sees.

    It asks for the full posterior, as plain cross-entropy teaches it; a network of the leave-one-out posterior is less
    sure of what it keeps.

    Args:
        steps: N, most model calls.
        t_min: temperature that the steps tend to.
        t_max: temperature at the start.
        entropy_bound: nats; the larger, the more tokens a step keeps.
        stable_steps: calls in a row whose best tokens must agree with the last ones before a row is finished.
        stop_entropy: nats, the mean entropy of the positions below which it may finish; 0: it takes all steps.
        suppress_tokens: ids that are never written.

    Raises:
        ValueError: if an option is out of its range.
    """

    steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stable_steps: int = 1
    stop_entropy: float = 0.005
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
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
        if process.num_tokens is None or process.mask_token_id is not None:
            raise ValueError(f"CommitAndRenoise is for noise without masks, not {process}; use AncestralSampler")
        denoiser, random = process.network(model), RowRandom.from_seed(seed, len(tokens), tokens.device)
        state = State.begin(process, tokens, given, random, model_kwargs.get("attention_mask"))
        columns, valid = first_true(state.open, int(state.open.sum(1).max()) if len(tokens) else 0)
        state, active = replace(state, columns=columns, valid=valid), valid.any(1)
        best, same = torch.full_like(columns, -1), torch.zeros_like(state.calls)
        noisy = state.tokens
        for k in range(self.steps):
            if not bool(active.any()):
                return
            left = (self.steps - k) / self.steps
            known = process.conditioning(torch.full_like(state.calls, left, dtype=torch.float64))
            logits = denoiser.logits(noisy, columns, **known, **model_kwargs).float()
            logits[..., process.num_tokens :] = -torch.inf
            logits = suppress(logits, self.suppress_tokens) / (self.t_min + (self.t_max - self.t_min) * left)
            check_answers(replace(state, broken=broken_rows(state, ~logits.amax(-1).isfinite())))
            entropy = torch.special.entr(logits.softmax(-1)).sum(-1).masked_fill(~valid, 0.0)
            stream, before = random.fold_in(k), best
            drawn = inverse_cdf(logits, stream.uniform_at(state.positions))
            noise = (stream.fold_in(1).uniform_at(state.positions) * process.num_tokens).long()
            kept = within_bound(entropy.masked_fill(~valid, torch.inf), self.entropy_bound)
            noisy = noisy.scatter(
                1, columns, torch.where(valid, torch.where(kept, drawn, noise), noisy.gather(1, columns))
            )
            best = torch.where(active[:, None], logits.argmax(-1), best)
            same = torch.where(((best == before) | ~valid).all(1), same + 1, 0)
            sure = entropy.sum(1) / valid.sum(1).clamp(min=1) < self.stop_entropy
            active_now = active & ~((same >= self.stable_steps) & sure) & (k + 1 < self.steps)
            shown = torch.where(active_now[:, None], noisy.gather(1, columns), best)
            shown = torch.where(valid & active[:, None], shown, state.tokens.gather(1, columns))
            after, step = moved(replace(state, valid=valid & active[:, None]), shown, logits)
            state, active = replace(after, valid=valid), active_now
            yield step


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

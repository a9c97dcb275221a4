"""Counts that follow from the number of masks and the step alone."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.amount.amount import Amount, best, take_best
from llada.samplers.state import State

MOST_STEPS = 1_000_000
"""More would run for days, and are a slip of the pen."""


def check_steps(steps: float | None) -> None:
    """Whether a number of steps makes sense.

    Raises:
        ValueError: if it doesn't.
    """
    if steps is not None and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
        raise ValueError(
            f"steps must be a whole number from 1 to {MOST_STEPS:,}, or None for one per mask; got {steps}"
        )


@dataclass(frozen=True)
class _Stepped(Amount):
    reads_drawn: ClassVar[bool] = False
    steps: int | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)


def _shares(state: State) -> Tensor:
    """LLaDA's quota of this step, (B,) int64."""
    if state.num_steps is None:
        return torch.ones_like(state.initial)
    steps = state.num_steps.clamp(min=1)
    return state.initial // steps + (state.step < state.initial % steps)


@dataclass(frozen=True)
class Quota(_Stepped):
    """LLaDA's rule: n masks over S steps are n // S each, and one more in each of the first n mod S.

    Args:
        steps: S for the whole canvas, shared among blocks by their masks; with as many steps as masks, or more, every
            step writes one token. None: one step per mask. Where LLaDA's released code accepts the numbers (blocks
            divide the answer, and the number of blocks the steps) the quotas are its own.

    Reference:
        arXiv 2502.09992, section 2.4; the released ``get_num_transfer_tokens``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Quota, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(Quota(steps=2))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([2])
    """

    pauses: ClassVar[bool] = False

    @override
    def __call__(self, state: State) -> Tensor:
        return take_best(state.scores, state.valid, _shares(state))

    @override
    def masks_left(self, initial: int, step: int, num_steps: int) -> int:
        if self.steps is None:
            return max(0, initial - step)
        return initial - initial // num_steps * step - min(step, initial % num_steps)


@dataclass(frozen=True)
class PerStep(Amount):
    """The same number of tokens in every step, until no mask is left.

    Args:
        count: tokens per step.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(2))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([2])
    """

    reads_drawn: ClassVar[bool] = False
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be 1 or more; got {self.count}")

    @override
    def __call__(self, state: State) -> Tensor:
        return take_best(state.scores, state.valid, torch.full_like(state.initial, self.count))

    @override
    def masks_left(self, initial: int, step: int, num_steps: int) -> int:
        return max(0, initial - step * self.count)


@dataclass(frozen=True)
class Binomial(_Stepped):
    """Every masked token is uncovered by an independent coin, whose chance the sampler's rates give.

    With `RandomOrder` this is ancestral sampling: t goes from 1 to 0 in equal steps, and a step from t to s uncovers
    with probability (alpha_s - alpha_t) / (1 - alpha_t).

    Args:
        steps: of the time grid; None for as many as there are masks.

    Reference:
        arXiv 2406.07524, equation 7.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Binomial, RandomOrder, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Binomial(steps=4), RandomOrder())
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    by_chance: ClassVar[bool] = True
    by_rates: ClassVar[bool] = True
    on_grid: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        coins = state.random.fold_in(1).uniform(state.scores.shape[1]) < state.unmask[:, None]
        return take_best(state.scores, state.valid, (coins & state.valid).sum(1))


@lru_cache
def _dream_shares(steps: int, t_min: float, device: torch.device) -> Tensor:
    """1 - s / t of step k of K steps, at [K, k]; (steps + 1, steps) float32, whose rounding decides counts."""
    table = torch.zeros(steps + 1, steps)
    for num_steps in range(1, steps + 1):
        grid = torch.linspace(1.0, t_min, num_steps + 1)
        table[num_steps, :num_steps] = 1.0 - grid[1:] / grid[:-1]
    return table.to(device)


@lru_cache
def _dream_masks_left(initial: int, num_steps: int, t_min: float) -> tuple[int, ...]:
    """Masks before each step of the grid and after the last."""
    count, left = torch.tensor(initial), [initial]
    for share in _dream_shares(num_steps, t_min, count.device)[num_steps, :-1]:
        count = count - (count.float() * share).long()
        left.append(int(count))
    return (*left, 0)


@dataclass(frozen=True)
class DreamFloor(_Stepped):
    """Dream's rule: of the masks of a row a step takes the integer part of n (1 - s / t), and the last takes all.

    Being cut to integers, it takes nothing in some steps, such as the first of as many as there are masks, and what is
    left, often two, in the last. The reference uses the batch's mean of n for every row, so rows with different numbers
    of masks disturb each other; here each row has its own n, which is the same where they agree.

    Args:
        steps: of the grid, at most 4096; None for one token in every step.
        t_min: the grid's last time (``eps``).

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487; the released ``generation_utils``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import DreamFloor, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(DreamFloor(steps=3))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([3])
    """

    t_min: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.steps > 4096:
            raise ValueError(f"steps of Dream's grid must be at most 4096; got {self.steps}; use None for one per mask")
        if not 0.0 < self.t_min < 1.0:
            raise ValueError(f"t_min must be in (0, 1); got {self.t_min}")

    @override
    def __call__(self, state: State) -> Tensor:
        if self.steps is None or state.num_steps is None:
            return best(state)
        table = _dream_shares(self.steps, self.t_min, state.initial.device)
        shares = table[state.num_steps, min(state.step, self.steps - 1)]
        count = (state.left.float() * shares).long()
        return take_best(state.scores, state.valid, torch.where(state.is_last, state.left, count))

    @override
    def masks_left(self, initial: int, step: int, num_steps: int) -> int:
        if self.steps is None:
            return max(0, initial - step)
        return _dream_masks_left(initial, num_steps, self.t_min)[step]


@dataclass(frozen=True)
class CosineQuota(_Stepped):
    """MaskGIT's rule: after k of K steps floor(n cos(pi k / 2 K)) of n masks are left.

    Every step takes at least one, and leaves at least one to the last step while it can.

    Args:
        steps: K for the whole canvas; blocks share them. None for one token in every step.

    Reference:
        Chang et al., "MaskGIT", arXiv 2202.04200; the released ``parallel_decode``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import CosineQuota, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(CosineQuota(steps=3))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([3])
    """

    pauses: ClassVar[bool] = False

    @override
    def __call__(self, state: State) -> Tensor:
        if state.num_steps is None:
            return best(state)
        kept = (state.initial * (math.pi / 2 * (1.0 - state.grid(1))).cos()).floor().long().clamp(min=1)
        kept = torch.minimum(kept, state.left - 1).masked_fill(state.is_last, 0)
        return take_best(state.scores, state.valid, state.left - kept)

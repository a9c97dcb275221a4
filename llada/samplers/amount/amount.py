"""How many positions a step writes: an amount looks at the candidates' scores and chooses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.order import Measure
from llada.samplers.part import Part
from llada.samplers.state import State

_FIX = {
    Measure.PROBABILITY: "use order=Confidence() or Margin(), or another amount such as Quota",
    Measure.NEGATIVE_ENTROPY: "use order=NegativeEntropy(), or another amount such as Threshold",
}


def take_best(scores: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """The best-scoring candidates of each row; of equal ones the leftmost.

    Args:
        scores: (B, M).
        valid: (B, M) bool, which of them are candidates.
        count: (B,) how many to take.

    Returns:
        (B, M) bool.
    """
    rank = ranks(scores, valid)
    return (rank < count[:, None]) & valid


def ranks(scores: Tensor, valid: Tensor) -> Tensor:
    """Place of each candidate when they are sorted from best to worst, (B, M) int64 from 0; the others come last."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def best(state: State) -> Tensor:
    """The best candidate of each row alone, (B, M) bool."""
    return take_best(state.scores, state.valid, torch.ones_like(state.columns[:, 0]))


class Amount(Part, ABC):
    """Chooses which candidates are written. A subclass needs `__call__`, and `steps` if it has a number of them."""

    needs: ClassVar[Measure] = Measure.RANK
    """What the scores must be."""
    pauses: ClassVar[bool] = True
    """With `steps`: whether a row may take nothing in one step and something in a later one, and so pass over a call
    that its neighbours need. What never does so says False, which saves a question where a cache counts calls."""
    by_rates: ClassVar[bool] = False
    """Whether it asks for ``state.unmask``, so that its counts follow the sampler's rates."""
    on_grid: ClassVar[bool] = False
    """Whether it runs on a time grid, which has as many steps as there are open positions where `steps` is None."""

    @property
    def steps(self) -> int | None:
        """Steps for the whole canvas, or None if it goes on until no position is open."""
        return None

    @property
    def looks_ahead(self) -> bool:
        """Whether it wants the model's answers at open positions behind the window, too: entries that aren't valid."""
        return False

    @abstractmethod
    def __call__(self, state: State) -> Tensor:
        """Choose.

        Args:
            state: the step; ``state.scores`` (B, M) and ``state.valid`` (B, M) are those of the candidates.

        Returns:
            (B, M) bool, a subset of the candidates. Without `steps` at least one where there is one; with `steps` all
            have been taken after the last of them.
        """

    def start(self) -> "Amount":
        """What one run uses. An amount that remembers earlier steps returns a fresh object that does."""
        return self

    def masks_left(self, initial: int, step: int, num_steps: int) -> int | None:
        """Open positions that are left in a window before a step, if that follows from their number alone.

        This is optional: a sampler that knows it needn't wait for the device.

        Args:
            initial: open positions of a row when the window was begun.
            step: index of the step, 0 to ``num_steps``.
            num_steps: the row's steps in the window; without `steps`, the open positions of the fullest row.
        """
        return None

    def most(self, initial: int, step: int, num_steps: int) -> int | None:
        """Tokens that a step takes at most in a row, if `masks_left` tells; arguments as there."""
        before, after = (self.masks_left(initial, k, num_steps) for k in (step, step + 1))
        return None if before is None or after is None else before - after

    @override
    def check(self, sampler: Any) -> None:
        """Whether the order's scores are what it `needs`.

        Raises:
            ValueError: if they aren't.
        """
        order = sampler.order
        if self.needs is not Measure.RANK and order.measure is not self.needs:
            raise ValueError(
                f"{type(self).__name__} works on scores that are {self.needs.value}, but {type(order).__name__} scores "
                f"aren't; {_FIX[self.needs]}. An order of your own says what its scores are by its attribute "
                f"measure = Measure.{self.needs.name}"
            )


def most_in_a_step(amount: Amount) -> int | None:
    """The most tokens that any step of an amount without `steps` takes in a row, however many masks it has; or None."""
    many = 2**62
    return amount.most(many, 0, many)


@dataclass(frozen=True)
class Threshold(Amount):
    """Every candidate at or above a confidence, and always the best one.

    Args:
        threshold: least probability. Above 1: one token per step.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.3.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Threshold, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(Threshold(0.9))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([3])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    threshold: float = 0.9

    @override
    def __call__(self, state: State) -> Tensor:
        return best(state) | (state.valid & (state.scores >= self.threshold))


@dataclass(frozen=True)
class Tied(Amount):
    """All candidates that share the best score: for orders that score groups, such as `llada.samplers.Comb`.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Comb, Tied, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> steps = UnmaskingSampler(Tied(), Comb(stride=2)).iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [step.tokens.tolist() for step in steps]
        [[[1, 2, 1, 2]], [[1, 1, 1, 1]]]
    """

    reads_drawn: ClassVar[bool] = False

    @override
    def __call__(self, state: State) -> Tensor:
        scores = state.scores.masked_fill(~state.valid, -torch.inf)
        return state.valid & (scores == scores.amax(1, keepdim=True))


@dataclass(frozen=True)
class Factor(Amount):
    """The more are taken together, the surer each must be: the n-th best passes if p >= 1 - factor / (n + 1).

    Taken are the candidates before the first that fails, and always the best one.

    Args:
        factor: f, above 0; more is bolder.
        last_passes: take the first that fails, too, if no candidate is behind it, as the released code does; its last
            two masks always go together.

    Reference:
        Wu et al., arXiv 2505.22618, section 3.3; the released ``get_transfer_index_dynamic``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Factor, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(Factor(1.0))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([2])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    factor: float = 1.0
    last_passes: bool = False

    def __post_init__(self) -> None:
        if not self.factor > 0.0:
            raise ValueError(f"factor must be above 0; got {self.factor}")

    @override
    def __call__(self, state: State) -> Tensor:
        rank = ranks(state.scores, state.valid)
        passes = (state.scores >= 1.0 - self.factor / (rank + 2.0)) | (rank == 0)
        if self.last_passes:
            passes = passes | (rank == state.valid.sum(1, keepdim=True) - 1)
        return _before_first_failure(passes, rank, state.valid)


@dataclass(frozen=True)
class EntropyBound(Amount):
    """As many of the most certain candidates as have entropies that sum, without the largest of them, to at most gamma.

    That sum bounds the error of writing them independently of one another.

    Args:
        gamma: nats, 0 or more; 0 takes one token per step, and those that are certain.

    Reference:
        Ben-Hamu et al., "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking", arXiv
        2505.24857, section 4.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import EntropyBound, NegativeEntropy, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(EntropyBound(gamma=0.1), NegativeEntropy())
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([2])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.NEGATIVE_ENTROPY
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not self.gamma >= 0.0:
            raise ValueError(f"gamma must be 0 or more; got {self.gamma}")

    @override
    def __call__(self, state: State) -> Tensor:
        rank = ranks(state.scores, state.valid)
        entropy = (-state.scores).masked_fill(~state.valid, 0.0)
        ordered = torch.zeros_like(entropy).scatter(1, rank, entropy)
        before = (ordered.cumsum(1) - ordered).gather(1, rank)  # entropies rise, so the largest is one's own
        return best(state) | (state.valid & (before <= self.gamma))


def _before_first_failure(passes: Tensor, rank: Tensor, valid: Tensor) -> Tensor:
    """Candidates that pass, as do all better ones."""
    failed = torch.zeros_like(rank).scatter(1, rank, (~(passes & valid)).long())
    return (failed.cumsum(1) == 0).gather(1, rank) & valid

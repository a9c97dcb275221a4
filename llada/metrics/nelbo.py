"""The bound over a data set: nats per token, perplexity and bits per byte, each with its standard error.

A batch gives one estimate of the bound per row. With sums a_b (nats) and sizes n_b (tokens) of B rows the value is the
ratio

    r = sum_b a_b / sum_b n_b,     se(r) = sqrt(B / (B - 1) sum_b (a_b - r n_b)^2) / sum_b n_b

(delta method for a ratio of means; NaN for a single row, which says nothing about the spread). Stratified noise levels
make rows negatively dependent, so the error is, if anything, smaller than reported.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

MOST_BINS = 1_000_000
"""Largest number of parts that noise levels are told apart by."""


class BoundEstimate(NamedTuple):
    """A bound and its standard error, () float64 tensors.

    Attributes:
        nll: nats per token.
        nll_se: its standard error.
        perplexity: exp(nll).
        perplexity_se: by the delta method.
        bits_per_byte: NaN where the bytes per token aren't known.
        bits_per_byte_se: its standard error.
    """

    nll: Tensor
    nll_se: Tensor
    perplexity: Tensor
    perplexity_se: Tensor
    bits_per_byte: Tensor
    bits_per_byte_se: Tensor


class _Sums(Metric):
    """Sums in float64, also inside a model that is cast to bfloat16: that moves them between devices only."""

    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> "_Sums":
        def move(value: Tensor) -> Tensor:
            moved = fn(value)
            return moved if moved.dtype == value.dtype else value.to(moved.device)

        super()._apply(move, exclude_state)
        return self

    def _add_sums(self, names: Sequence[str], *size: int) -> None:
        for name in names:
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")


class BoundMetric(_Sums):
    """Accumulates row estimates of the bound; synchronised over ranks.

    Args:
        bytes_per_token: average number of bytes that a token of the scored text stands for; None if unknown.
        kwargs: further arguments of `torchmetrics.Metric`.

    Examples:
        >>> import torch
        >>> from llada.metrics import BoundMetric
        >>> metric = BoundMetric(bytes_per_token=4.0)
        >>> metric.update(nelbo=torch.tensor([20.0, 44.0]), num_tokens=torch.tensor([10, 20]))
        >>> estimate = metric.compute()
        >>> round(float(estimate.nll), 3), round(float(estimate.bits_per_byte), 3)
        (2.133, 0.769)
    """

    nll: Tensor
    tokens: Tensor
    nll_squared: Tensor
    product: Tensor
    tokens_squared: Tensor
    rows: Tensor

    def __init__(self, bytes_per_token: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bytes_per_token = bytes_per_token
        self._add_sums(("nll", "tokens", "nll_squared", "product", "tokens_squared", "rows"))

    def update(self, nelbo: Tensor, num_tokens: Tensor) -> None:
        """Add rows.

        Args:
            nelbo: (B,) nats per row.
            num_tokens: (B,) maskable tokens per row.
        """
        a, n = nelbo.double(), num_tokens.double()
        self.nll += a.sum()
        self.tokens += n.sum()
        self.nll_squared += a.square().sum()
        self.product += (a * n).sum()
        self.tokens_squared += n.square().sum()
        self.rows += (n > 0).sum()

    def compute(self) -> BoundEstimate:
        """The bound over everything added so far; NaN if no token was."""
        ratio = self.nll / self.tokens
        spread = self.nll_squared - 2.0 * ratio * self.product + ratio.square() * self.tokens_squared
        error = (spread.clamp(min=0.0) * self.rows / (self.rows - 1.0)).sqrt() / self.tokens
        to_bits = math.nan if self.bytes_per_token is None else 1.0 / (math.log(2.0) * self.bytes_per_token)
        return BoundEstimate(ratio, error, ratio.exp(), ratio.exp() * error, ratio * to_bits, error * to_bits)


class NoiseLevelMetric(_Sums):
    """Mean cross-entropy of masked tokens by noise level, in nats; synchronised over ranks.

    Args:
        num_bins: equal parts of (0, 1].
        kwargs: further arguments of `torchmetrics.Metric`.

    Examples:
        >>> import torch
        >>> from llada.metrics import NoiseLevelMetric
        >>> metric = NoiseLevelMetric(num_bins=2)
        >>> metric.update(torch.tensor([0.2, 0.9]), torch.tensor([3.0, 40.0]), torch.tensor([2, 10]))
        >>> metric.compute()
        tensor([1.5000, 4.0000], dtype=torch.float64)
    """

    nll: Tensor
    masked: Tensor

    def __init__(self, num_bins: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= num_bins <= MOST_BINS:
            raise ValueError(f"num_bins must be from 1 to {MOST_BINS:,}; got {num_bins}")
        self.num_bins = num_bins
        self._add_sums(("nll", "masked"), num_bins)

    def update(self, t: Tensor, masked_nll: Tensor, num_masked: Tensor) -> None:
        """Add rows.

        Args:
            t: (B,) noise levels in (0, 1].
            masked_nll: (B,) sum over the row's masked tokens, nats.
            num_masked: (B,) masked tokens.
        """
        index = (t.double() * self.num_bins).ceil().long().clamp(1, self.num_bins) - 1
        self.nll.index_add_(0, index, masked_nll.double())
        self.masked.index_add_(0, index, num_masked.double())

    def compute(self) -> Tensor:
        """(num_bins,) float64, nats per masked token; NaN for levels that weren't seen."""
        return self.nll / self.masked

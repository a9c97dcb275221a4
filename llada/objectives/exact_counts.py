"""Exact counts: the bound without the variance of how many tokens are masked.

    -log p(x_0) <= E_{l ~ U{1..n}} [ (n / l) sum_{i in M} -log p_theta(x_0^i | x_M) ]

for a datum of n maskable tokens, with M uniform among the sets of l of them. It equals the continuous-time bound of
any schedule, since C(n, l) times the integral of t^(l-1) (1-t)^(n-l) over [0, 1] is 1/l. A datum is a row, a packed
segment, or a block; `masked_exactly` is the one place that draws such masks, and n / l their one weight.

Reference: arXiv 2502.09992, equation 6 and appendix A; Ou et al., "Your Absorbing Discrete Diffusion Secretly Models
the Conditional Distributions of Clean Data", arXiv 2406.03736.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import MASKS, TIMES, Design, Draw, conditioning, level_per_datum, segments_of
from llada.objectives.objective import Batch, model_inputs
from llada.process import Process, check_maskable
from llada.random import RowRandom
from llada.rows import exact_count_weight, group_sums


@dataclass(frozen=True)
class ExactMasks:
    """Masks of exact counts.

    Attributes:
        masked: (B, L) bool.
        count: (B, L) float64, l of each token's datum.
        size: (B, L) float64, n of each token's datum.
    """

    masked: Tensor
    count: Tensor
    size: Tensor

    @property
    def weight(self) -> Tensor:
        """N / l, (B, L) float64; of a datum without masks, in which it multiplies nothing, 1."""
        return torch.where(self.count > 0, exact_count_weight(self.count, self.size), 1.0)

    @property
    def share(self) -> Tensor:
        """L / n, (B, L) float64; of a datum without masks, which has no noise level, 1."""
        return 1.0 / self.weight


def masked_exactly(maskable: Tensor, groups: Tensor, count: Tensor, random: RowRandom) -> ExactMasks:
    """Mask exactly so many maskable tokens of each datum, every set of that size being equally likely.

    Args:
        maskable: (B, L) bool.
        groups: (B, L) int64, the datum of each token, not falling along a row.
        count: (B, L) float64, whole numbers: how many of the token's datum; all that are there where it has fewer.
        random: the rows' random streams.
    """
    # Sorted by datum, maskable tokens first, then by chance: a token's place behind its datum's first is its rank.
    chance = 0.5 * random.uniform(maskable.shape[1]) + 0.5 * ~maskable
    place = (groups + chance).argsort(1).argsort(1)
    groups = groups.contiguous()
    rank = place - torch.searchsorted(groups, groups)
    size = group_sums(maskable, groups)
    count = torch.minimum(count, size)
    return ExactMasks(maskable & (rank < count), count, size)


def complementary(maskable: Tensor, groups: Tensor, count: Tensor, random: RowRandom) -> tuple[ExactMasks, ExactMasks]:
    """Masks of exact counts l, and those of what they show and one token more, n + 1 - l; see `ComplementaryPairs`.

    Args:
        maskable: (B, L) bool.
        groups: (B, L) int64, the datum of each token, not falling along a row.
        count: (B, L) float64, l of the token's datum, 1 .. n.
        random: the rows' random streams.
    """
    first = masked_exactly(maskable, groups, count, random.fold_in(MASKS))
    once_more = masked_exactly(first.masked, groups, torch.ones_like(count), random.fold_in(MASKS, 1)).masked
    rest = (first.size + 1.0 - first.count).masked_fill(first.size == 0, 0.0)
    return first, ExactMasks((maskable & ~first.masked) | once_more, rest, first.size)


@dataclass(frozen=True)
class ExactCounts(Design):
    """Exactly l of the n maskable tokens of a row or packed segment are masked, l uniform in 1..n.

    Args:
        times: draws u in (0, 1]; the count is ceil(u n). Stratified numbers give stratified counts.

    Examples:
        >>> import torch
        >>> from llada.denoiser import as_denoiser
        >>> from llada.objectives import ExactCounts
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, row = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9)), {"tokens": torch.arange(8)[None]}
        >>> draw = ExactCounts()(model, MaskingProcess(9), row, random=RowRandom.from_seed(0, 1))
        >>> draw.tokens, draw.bound_weight
        (tensor([[9, 9, 2, 3, 4, 5, 6, 7]]), tensor([[4., 4., 4., 4., 4., 4., 4., 4.]], dtype=torch.float64))
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        check_masks(self, process)
        maskable, segments, groups, count = _counted(batch, self.times, random)
        masks = masked_exactly(maskable, groups, count, random.fold_in(MASKS))
        return counted_draw(process, batch, maskable, masks, segments)

    @override
    def bound_gap(self, process: Process) -> str | None:
        return exact_gap(process, self.times)


@dataclass(frozen=True)
class ComplementaryPairs(Design):
    """Every row twice, with masks that together cover it: what one copy hides, the other shows.

    The first mask is any set of l of the n maskable tokens, the second is its complement and one token more. So both
    counts are uniform in 1..n and each set of a size is equally likely: either copy alone is the estimate of
    `ExactCounts`, and their mean is antithetic. Every token is learned from in every step, one of them twice. A step
    costs as much as one of twice the rows.

    Args:
        times: draws u in (0, 1]; the first copy's count is ceil(u n), the second's n + 1 less that.

    Examples:
        >>> import torch
        >>> from llada.denoiser import as_denoiser
        >>> from llada.objectives import ComplementaryPairs
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, row = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9)), {"tokens": torch.arange(8)[None]}
        >>> ComplementaryPairs()(model, MaskingProcess(9), row, random=RowRandom.from_seed(0, 1)).tokens
        tensor([[9, 9, 2, 3, 4, 5, 6, 7],
                [0, 9, 9, 9, 9, 9, 9, 9]])
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        check_masks(self, process)
        maskable, segments, groups, count = _counted(batch, self.times, random)
        pair = complementary(maskable, groups, count, random)
        return stacked(*(counted_draw(process, batch, maskable, masks, segments) for masks in pair))

    @override
    def bound_gap(self, process: Process) -> str | None:
        return exact_gap(process, self.times)


def check_masks(design: Design, process: Process) -> None:
    """Refuse a process under which nobody can count the corrupted tokens.

    Raises:
        ValueError: if the process replaces tokens by random ones, or takes some away.
    """
    if process.scatters:
        raise ValueError(f"{type(design).__name__} counts masks, and {_SCATTERED}")
    if process.inserts:
        raise ValueError(
            f"{type(design).__name__} keeps the length of rows, and {type(process).__name__} doesn't; use "
            "InsertionNELBO as objective, or MaskingProcess"
        )


_SCATTERED = "this process draws random tokens, which can't be told from clean ones; use NELBO(IndependentMasks())"


def exact_gap(process: Process, times: TimeSampler) -> str | None:
    """Why counts that are drawn by these times give no bound; None if they give one."""
    if process.scatters:
        return f"it counts masks, and {_SCATTERED}"
    return None if times.covers_all else f"it never sees some counts: {times} doesn't cover (0, 1]"


def _counted(batch: Batch, times: TimeSampler, random: RowRandom) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The maskable tokens, the segments if there are any, the datum of each token, and its count l = ceil(u n)."""
    x_0 = batch["tokens"]
    maskable, segments = check_maskable(x_0, batch.get("maskable")), segments_of(batch)
    groups = torch.zeros_like(x_0) if segments is None else segments
    u = level_per_datum(times, random.fold_in(TIMES), segments)
    return maskable, segments, groups, (u * group_sums(maskable, groups)).ceil()


def counted_draw(
    process: Process,
    batch: Batch,
    maskable: Tensor,
    masks: ExactMasks,
    segments: Tensor | None,
    several: bool = False,
) -> Draw:
    """The draw of these masks; ``several``: a row may have several noise levels though it isn't packed."""
    share = masks.share if several or segments is not None else masks.share[:, :1]
    x_0, t = batch["tokens"], process.schedule.time_at(share)
    assert process.mask_token_id is not None
    return Draw(
        x_0=x_0,
        maskable=maskable,
        tokens=x_0.masked_fill(masks.masked, process.mask_token_id),
        scored=masks.masked,
        t=t,
        bound_weight=masks.weight,
        level=masks.masked.sum(1) / maskable.sum(1).clamp(min=1).double(),
        inputs={**({} if several else conditioning(process, t)), **model_inputs(batch)},
        segments=segments,
    )


def stacked(first: Draw, second: Draw) -> Draw:
    """All rows of the first draw, then all of the second."""

    def both(name: str) -> Tensor | None:
        parts = getattr(first, name), getattr(second, name)
        return None if parts[0] is None else torch.cat(parts)

    names = ("x_0", "maskable", "tokens", "scored", "t", "bound_weight", "level", "segments", "blocks")
    inputs = {name: torch.cat((value, second.inputs[name])) for name, value in first.inputs.items()}
    return Draw(**{name: both(name) for name in names}, inputs=inputs, copies=2)  # type: ignore[arg-type]

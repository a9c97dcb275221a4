"""Independent noise: a time per row, and every token corrupted by itself.

    -log p(x_0) <= E_{t ~ U(0, 1]} [ w(t) sum_{i scored} divergence_i(x_0, x_t) ],      x_t ~ q(x_t | x_0)

For masked diffusion w(t) = -alpha'(t) / (1 - alpha(t)), and the divergence is the cross-entropy of a masked token.

Reference: Sahoo et al., arXiv 2406.07524, equation 11; Nie et al., arXiv 2502.09992, equation 3 (alpha(t) = 1 - t, so
w(t) = 1/t).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.noise import NoiseSchedule, StratifiedTimes, TimeSampler
from llada.objectives.design import MASKS, TIMES, Design, Draw, conditioning, level_per_datum, segments_of
from llada.objectives.objective import Batch, model_inputs
from llada.process import Process, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class IndependentMasks(Design):
    """One noise level per row or packed segment, and independent noise at it.

    Args:
        times: how noise levels are drawn; over all of (0, 1] for a bound.
        per_segment: whether every segment of a packed row (``segment_ids`` in the batch) has a noise level of its own
            and counts as a datum, as if it weren't packed. The report of t is then a row's mean over its maskable
            tokens.

    Examples:
        >>> from llada.noise import UniformTimes
        >>> from llada.objectives import NELBO, IndependentMasks
        >>> from llada.process import MaskingProcess
        >>> mdlm = NELBO(IndependentMasks())
        >>> llada_pretraining = NELBO(IndependentMasks(UniformTimes(1e-3)))
        >>> mdlm.bound_gap(MaskingProcess(4)), llada_pretraining.bound_gap(MaskingProcess(4))
        (None, "it never sees some noise levels: UniformTimes(t_min=0.001, t_max=1.0) doesn't cover (0, 1]")
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)
    per_segment: bool = True

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        x_0 = batch["tokens"]
        maskable = check_maskable(x_0, batch.get("maskable"))
        segments = segments_of(batch) if self.per_segment else None
        t = self.move(level_per_datum(self.times, random.fold_in(TIMES), segments))
        noised = process.corrupt(x_0, t.expand(-1, x_0.shape[1]), maskable, random=random.fold_in(MASKS))
        level = t[:, 0] if t.shape[1] == 1 else (t * maskable).sum(1) / maskable.sum(1).clamp(min=1)
        return Draw(
            x_0=x_0,
            maskable=maskable,
            tokens=noised.tokens,
            scored=noised.scored,
            t=t,
            bound_weight=self.weight(process, t, noised.tokens, x_0),
            level=level,
            inputs={**conditioning(process, t), **model_inputs(batch)},
            segments=segments,
        )

    def move(self, t: Tensor) -> Tensor:
        """Times (of any shape, float64) as this design has them, on its grid; here all times, unchanged."""
        return t

    def weight(self, process: Process, t: Tensor, tokens: Tensor, x_0: Tensor) -> Tensor:
        """Weight of the bound, (B, L) or what broadcasts to it: that of continuous time.

        Args:
            process: the noise process.
            t: (B, L) or (B, 1) float64, the times.
            tokens: x_t, (B, L) int64.
            x_0: (B, L) int64.
        """
        return process.bound_weight(t, tokens, x_0)

    @override
    def bound_gap(self, process: Process) -> str | None:
        ends = process.schedule.mask_probability(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if not self.times.covers_all:
            return f"it never sees some noise levels: {self.times} doesn't cover (0, 1]"
        if ends[1] < 1.0 or (ends[0] > 0.0 and self.starts_at_residue):
            return (
                f"it never sees some noise levels: {process.schedule} corrupts between {ends[0]:.3g} and {ends[1]:.3g} "
                "of the tokens"
            )
        return None

    @property
    def starts_at_residue(self) -> bool:
        """Whether what the schedule masks at t = 0 already is left out."""
        return True


@dataclass(frozen=True)
class TimeGrid(IndependentMasks):
    """The bound of a diffusion that runs in T steps instead of continuously.

        -log p(x_0) <= E_{k ~ U{1..T}} [ w_k sum_{i masked} -log p_theta(x_0^i | x_t) ]
        w_k = T (alpha_s - alpha_t) / (1 - alpha_t)

    with t = k / T and s = (k - 1) / T. As T grows it tends to the continuous-time bound; for the linear schedule the
    weight is 1/t for any T. Its use is to train for just the T noise levels that a sampler of T steps will show the
    network.

    Args:
        num_steps: T.

    Raises:
        ValueError: if ``num_steps`` is less than 1.

    Reference:
        Sahoo et al., arXiv 2406.07524, equation 8 (the bound before its continuous-time limit); Austin et al.,
        "Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv 2107.03006.

    Examples:
        >>> from llada.objectives import NELBO, TimeGrid
        >>> from llada.process import MaskingProcess
        >>> d3pm = NELBO(TimeGrid(num_steps=1000))
        >>> d3pm.bound_gap(MaskingProcess(4)) is None
        True
    """

    num_steps: int = 1000

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be 1 or more; got {self.num_steps}")

    @override
    def move(self, t: Tensor) -> Tensor:
        """Times moved up to the end of their step: (floor(t T) + 1) / T."""
        return ((t * self.num_steps).floor() + 1).clamp(max=self.num_steps) / self.num_steps

    @override
    def weight(self, process: Process, t: Tensor, tokens: Tensor, x_0: Tensor) -> Tensor:
        if process.scatters:
            raise ValueError(f"the bound of T steps is known for masked diffusion only; got {process}")
        return step_weight(process.schedule, t, self.num_steps)

    @property
    @override
    def starts_at_residue(self) -> bool:
        return False  # the last step uncovers all that is masked


def step_weight(schedule: NoiseSchedule, t: Tensor, num_steps: int) -> Tensor:
    """T times the probability that a token masked at t is uncovered in the step from t to t - 1/T.

    Args:
        schedule: the curve alpha(t).
        t: times, of any shape, float64; the result has the same shape.
        num_steps: T.
    """
    return num_steps * schedule.unmask_probability(t, (t - 1 / num_steps).clamp(min=0.0))

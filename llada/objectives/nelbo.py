"""The continuous-time bound of masked diffusion, and the losses that differ from it by weight and normaliser.

    -log p(x_0) <= E_{t ~ U(0, 1]} [ w(t) sum_{i masked} -log p_theta(x_0^i | x_t) ]

with w(t) = -alpha'(t) / (1 - alpha(t)).

Reference: arXiv 2406.07524, equation 11; arXiv 2502.09992, equation 3 (where alpha(t) = 1 - t, so w(t) = 1/t).
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llada.noise import StratifiedTimes, TimeSampler, UniformTimes
from llada.objectives.normaliser import Normaliser, PerMasked, PerPosition, PerRow, PerToken
from llada.objectives.objective import MASKS, TIMES, Objective, ObjectiveOutput, score
from llada.objectives.segments import segment_numbers, segment_times
from llada.objectives.weight import BoundWeight, UnitWeight, Weight
from llada.process import MaskingProcess, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class MaskedNELBO(Objective):
    """One noise level per row or packed segment, independent masks, weighted cross-entropy of the masked tokens.

    Args:
        times: how noise levels are drawn.
        weight: of a masked token in the loss. Only `BoundWeight` with times over all of (0, 1] minimises the bound; the
            reported ``nelbo`` uses it in any case.
        normaliser: what the loss is divided by.
        per_segment: whether every segment of a packed row (``segment_ids`` among the model's keywords) has a noise
            level of its own and stands for a row in weight and normaliser, as if it weren't packed. The report of t is
            then a row's mean over its maskable tokens.
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)
    weight: Weight = field(default_factory=BoundWeight)
    normaliser: Normaliser = field(default_factory=PerToken)
    per_segment: bool = True

    def __call__(
        self,
        model: Any,
        process: MaskingProcess,
        x_0: Tensor,
        maskable: Tensor | None = None,
        *,
        random: RowRandom,
        **model_kwargs: Any,
    ) -> ObjectiveOutput:
        """See `Objective`."""
        maskable = check_maskable(x_0, maskable)
        segment_ids = model_kwargs.get("segment_ids")
        if segment_ids is not None and self.per_segment:
            return self._packed(model, process, x_0, maskable, random, segment_numbers(segment_ids), model_kwargs)
        t = self.times(random.fold_in(TIMES))
        noised = process.corrupt(x_0, t, maskable, random=random.fold_in(MASKS))
        return score(
            model,
            process,
            x_0,
            maskable,
            noised,
            weight=self.weight(process.schedule, t, noised.scored),
            bound_weight=BoundWeight()(process.schedule, t, noised.scored),
            normaliser=self.normaliser,
            t=t,
            **process.conditioning(t),
            **model_kwargs,
        )

    def _packed(
        self,
        model: Any,
        process: MaskingProcess,
        x_0: Tensor,
        maskable: Tensor,
        random: RowRandom,
        numbers: Tensor,
        model_kwargs: dict[str, Any],
    ) -> ObjectiveOutput:
        if process.time_conditioned:
            raise ValueError(
                "the backbone is told one noise level per row, but every packed segment has its own; use a process "
                "without time_conditioned, rows that aren't packed, or MaskedNELBO(per_segment=False)"
            )
        t = segment_times(self.times, random.fold_in(TIMES), numbers)
        noised = process.corrupt(x_0, t, maskable, random=random.fold_in(MASKS))
        return score(
            model,
            process,
            x_0,
            maskable,
            noised,
            weight=self.weight.for_segments(numbers)(process.schedule, t, noised.scored),
            bound_weight=BoundWeight()(process.schedule, t, noised.scored),
            normaliser=self.normaliser.for_segments(numbers),
            t=(t * maskable).sum(1) / maskable.sum(1).clamp(min=1),
            **model_kwargs,
        )


def llada_pretraining(eps: float = 1e-3) -> Objective:
    """LLaDA's pretraining loss: t ~ U(eps, 1], weight 1/t, divided by B * L.

    Use it with the linear schedule.

    Args:
        eps: lowest noise level.

    Reference:
        arXiv 2502.09992, algorithm 1; the released code draws p_mask = (1 - eps) t + eps.
    """
    return MaskedNELBO(UniformTimes(t_min=eps), BoundWeight(), PerPosition())


def llada_finetuning(eps: float = 1e-3) -> Objective:
    """LLaDA's fine-tuning loss: as pretraining, but each row is divided by the length of its answer, then by B.

    Use it with ``maskable`` = answer, its EOS padding included, and the linear schedule.

    Args:
        eps: lowest noise level.

    Reference:
        arXiv 2502.09992, algorithm 2.
    """
    return MaskedNELBO(UniformTimes(t_min=eps), BoundWeight(), PerRow())


def masked_mean(t_min: float = 0.0, t_max: float = 1.0) -> Objective:
    """The plain mean over masked tokens at stratified noise levels: learns fastest on a small budget; not a bound.

    Args:
        t_min: lowest noise level.
        t_max: highest noise level.
    """
    return MaskedNELBO(StratifiedTimes(t_min=t_min, t_max=t_max), UnitWeight(), PerMasked())

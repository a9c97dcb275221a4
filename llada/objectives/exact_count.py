"""The same bound with an exact number of masks: no variance from the count.

    -log p(x_0) <= E_{l ~ U{1..n}} [ (n / l) sum_{i in M} -log p_theta(x_0^i | x_M) ]

for a row with n maskable tokens, with M uniform among the sets of l of them. It equals the continuous-time
bound of any schedule, since C(n, l) times the integral of t^(l-1) (1-t)^(n-l) over [0, 1] is 1/l.

Reference: arXiv 2502.09992, equation 6 and appendix A; Ou et al., "Your Absorbing Discrete Diffusion Secretly Models
the Conditional Distributions of Clean Data", arXiv 2406.03736.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.normaliser import Normaliser, PerToken
from llada.objectives.objective import MASKS, TIMES, Objective, ObjectiveOutput, score
from llada.objectives.segments import segment_numbers
from llada.process import MaskingProcess, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class ExactCountNELBO(Objective):
    """Exactly l of a row's n maskable tokens are masked, l uniform in 1..n; each counts n / l.

    Args:
        times: draws u in (0, 1]; the count is ceil(u n). Stratified numbers give stratified counts.
        normaliser: what the loss is divided by.
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)
    normaliser: Normaliser = field(default_factory=PerToken)

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
        num_tokens = maskable.sum(1)
        count = (self.times(random.fold_in(TIMES)) * num_tokens).ceil().long()
        noised = process.corrupt_exactly(x_0, count, maskable, random=random.fold_in(MASKS))
        # A row without maskable tokens has no masks: its weight multiplies nothing.
        weight = num_tokens / count.clamp(min=1).double()
        segment_ids = model_kwargs.get("segment_ids")
        normaliser = self.normaliser
        if segment_ids is not None:  # the count is the row's, but a segment's terms have the segment's bound as mean
            normaliser = normaliser.for_segments(segment_numbers(segment_ids))
        share = count / num_tokens.clamp(min=1).double()
        conditioning = process.conditioning(process.schedule.time_at(share)) if process.time_conditioned else {}
        return score(
            model,
            process,
            x_0,
            maskable,
            noised,
            weight=weight,
            bound_weight=weight,
            normaliser=normaliser,
            t=share,
            **conditioning,
            **model_kwargs,
        )

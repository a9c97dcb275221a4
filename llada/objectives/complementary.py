"""The bound from pairs of complementary masks: what one copy of a row hides, the other shows.

    -log p(x_0) <= E [ (1/2) sum over l' in {l, n + 1 - l} of (n / l') sum_{i in M_l'} -log p_theta(x_0^i | x_M_l') ]

with l uniform in 1..n. The first mask M_l is any set of l of the n maskable tokens, the second is its complement and
one token more. So both counts are uniform in 1..n and each set of a size is equally likely: either copy alone is the
estimate of `ExactCountNELBO`, and their mean is antithetic. Every token is learned from in every step, one of them
twice.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llada.noise import LinearSchedule, StratifiedTimes, TimeSampler
from llada.objectives.normaliser import Normaliser, PerToken
from llada.objectives.objective import MASKS, TIMES, Objective, ObjectiveOutput, score
from llada.objectives.weight import BoundWeight, Weight
from llada.process import MaskingProcess, Noised, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class ComplementaryNELBO(Objective):
    """Every row twice, with masks that together cover it; a step costs as much as one of twice the rows.

    Args:
        times: draws u in (0, 1]; the first copy's count is ceil(u n), the second's n + 1 less that.
        weight: of a masked token in the loss, as for a linear schedule at t = share of masked tokens, whatever the
            process's own schedule. `BoundWeight` is n / l.
        normaliser: what the loss is divided by; it sees 2 B rows.
    """

    times: TimeSampler = field(default_factory=StratifiedTimes)
    weight: Weight = field(default_factory=BoundWeight)
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
        """See `Objective`; ``t``, ``masked_nll`` and ``num_masked`` are those of the first copy."""
        maskable = check_maskable(x_0, maskable)
        num_rows, num_tokens = len(x_0), maskable.sum(1)
        count = (self.times(random.fold_in(TIMES)) * num_tokens).ceil().long()
        noised = _pair(process, x_0, count, maskable, random)
        # A row without maskable tokens has no masks: its weight multiplies nothing.
        share = noised.scored.sum(1) / num_tokens.repeat(2).clamp(min=1).double()
        share = share.where(share > 0.0, 1.0)
        conditioning = process.conditioning(process.schedule.time_at(share)) if process.time_conditioned else {}
        output = score(
            model,
            process,
            x_0.repeat(2, 1),
            maskable.repeat(2, 1),
            noised,
            weight=self.weight(LinearSchedule(), share, noised.scored),
            bound_weight=1.0 / share,
            normaliser=self.normaliser,
            t=share,
            **conditioning,
            **{name: _twice(value) for name, value in model_kwargs.items()},
        )
        return ObjectiveOutput(
            numerator=output.numerator,
            denominator=output.denominator,
            nelbo=output.nelbo.view(2, num_rows).mean(0),
            num_tokens=num_tokens,
            t=output.t[:num_rows],
            masked_nll=output.masked_nll[:num_rows],
            num_masked=output.num_masked[:num_rows],
        )


def _pair(process: MaskingProcess, x_0: Tensor, count: Tensor, maskable: Tensor, random: RowRandom) -> Noised:
    """All first copies, then all second ones: (2 B, L)."""
    first = process.corrupt_exactly(x_0, count, maskable, random=random.fold_in(MASKS)).scored
    once_more = process.corrupt_exactly(x_0, torch.ones_like(count), first, random=random.fold_in(MASKS, 1)).scored
    masked = torch.cat([first, (maskable & ~first) | once_more])
    return Noised(x_0.repeat(2, 1).masked_fill(masked, process.mask_token_id), masked)


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) else value

"""The bound of a process in which tokens are absent, masked and clean, with the counts of gaps taken together.

    -log p(row) <= E_t [ w(t) sum over masks  -log p_theta(token)  +  v(t) sum over merged gaps  phi(G, g) ]
    phi(G, g) = g - G + G log(G / g)

w = b'/b and v = m'/m are how often a mask is uncovered and a missing token comes (`llada.process.insertion`). A merged
gap is all gaps between one token that isn't a mask and the next; G tokens are missing in it, and g is how many the
network expects: the sum of what it says of the gaps. phi(G, g) is the divergence of two Poisson laws of means G and g.

Why gaps merge: a mask that comes in front of another mask or behind it makes the same row, so it is one event, whose
rate is the sum of both. Published is the sum over single gaps; as phi is convex and homogeneous, that is never less,

    sum over k of phi(G_k, g_k)  >=  phi(sum G_k, sum g_k),

so the same network has a lower bound for nothing. Neither equals the entropy under the best network, for a text of two
tokens or more comes about in several ways; report it as a bound.

Reference: Kim et al., "Any-Order Flexible Length Masked Diffusion", arXiv 2509.01025; the merged sum is this library's.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.heads.cross_entropy import nll
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import MASKS, TIMES, Draw
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.objectives.weight import BoundWeight, Weight
from llada.process import InsertionProcess, Process, Thinned, check_maskable
from llada.process.insertion import gaps_of
from llada.random import RowRandom
from llada.rows import group_sums


@dataclass(frozen=True)
class InsertionNELBO(Objective):
    """The negative evidence lower bound of an `llada.process.InsertionProcess`, divided by the number of tokens.

    The first token of a row, such as BOS, always stays as it is: the first missing tokens are those behind it. So the
    bound is about the others given it, as that of a next-token model is. Logits are asked for at all tokens that are
    there, half of a row on average, as many as there are masks in masked diffusion.

    Args:
        merged: whether gaps with nothing but masks between them are taken together; False for the published bound.
        weight: of a row in the loss. Only `BoundWeight` minimises the bound; the reported ``nelbo`` has it in any case.
        times: how u in (0, 1] is drawn, of which the noise level is u^power; over all of (0, 1] for a bound.
        power: 1 or more. With 1 the noise levels are uniform, and the estimate of the bound has no finite variance,
            for its weight is 1/t; 2 draws more of them where the weight is large, and takes that back in the weight.

    Raises:
        ValueError: if ``power`` is less than 1.

    Examples:
        >>> import torch
        >>> from llada.objectives import InsertionNELBO
        >>> from llada.process import InsertionProcess
        >>> from llada.random import RowRandom
        >>> model, rows = lambda tokens: torch.zeros(*tokens.shape, 6), torch.arange(4)[None]
        >>> InsertionNELBO()(model, InsertionProcess(4), rows, random=RowRandom.from_seed(0, 1)).num_tokens
        tensor([3])
    """

    merged: bool = True
    weight: Weight = field(default_factory=BoundWeight)
    times: TimeSampler = field(default_factory=StratifiedTimes)
    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power >= 1.0:
            raise ValueError(f"power, of the noise levels, must be 1 or more; got {self.power}")

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        if not isinstance(process, InsertionProcess):
            raise ValueError(f"no token is ever absent under {process}; use InsertionProcess, or NELBO as objective")
        batch = columns(batch)
        if batch.get("segment_ids") is not None:
            raise ValueError(
                "rows close up where tokens are absent, which packed ones can't; use rows that aren't packed"
            )
        x_0, real = batch["tokens"], batch.get("attention_mask")
        real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real.bool()
        maskable = check_maskable(x_0, batch.get("maskable"))
        gaps, maskable = gaps_of(maskable, real), maskable & (real.cumsum(1) > 1)
        u = self.times(random.fold_in(TIMES))
        t, slope = u**self.power, self.power * u ** (self.power - 1.0)
        thinned = process.thin(x_0, t, maskable, gaps, real, random=random.fold_in(MASKS))
        return self.score(as_denoiser(model), process, thinned, t, slope, maskable.sum(1))

    def score(
        self,
        denoiser: Denoiser,
        process: InsertionProcess,
        thinned: Thinned,
        t: Tensor,
        slope: Tensor,
        num_tokens: Tensor,
    ) -> ObjectiveOutput:
        """The loss and the bound of rows whose tokens have gone already.

        Args:
            denoiser: the model.
            process: the noise process.
            thinned: the rows, (B, N).
            t: their times, (B,).
            slope: (B,), one over the density from which the times are drawn.
            num_tokens: (B,) int64, how many tokens could have gone.

        Raises:
            ValueError: if the weight isn't one number per row.
        """
        inputs = process.conditioning(t)
        if not bool(thinned.real.all()):
            inputs["attention_mask"] = thinned.real
        logits = denoiser.logits(thinned.tokens, thinned.real, **inputs)
        masked = thinned.masked
        terms = _placed(nll(logits[masked[thinned.real]], thinned.x_0[masked], process.suppressed), masked)
        times = t[:, None].expand(masked.shape)[thinned.real]
        counts = self._divergence(thinned, _placed(process.expected_missing(logits, times), thinned.real))
        tokens, missing = terms.sum(1), counts.sum(1)
        bound_weight = slope * process.bound_weight(t, thinned.tokens, thinned.x_0)
        insertion_weight = slope * process.insertion_weight(t)
        bound = bound_weight * tokens + insertion_weight * missing
        scale = self._scale(process, thinned, t, bound_weight, inputs)
        return ObjectiveOutput(
            numerator=(scale * bound).sum(),
            denominator=num_tokens.sum().double().clamp(min=1.0),
            nelbo=bound.detach(),
            num_tokens=num_tokens,
            t=t,
            scored_nll=tokens.detach(),
            num_scored=masked.sum(1),
            sums={"insertion_loss": (scale * insertion_weight * missing).sum().detach()},
        )

    def _divergence(self, thinned: Thinned, expected: Tensor) -> Tensor:
        """The phi of each merged gap, at the token in front of it, 0 elsewhere, (B, N) float64."""
        begins = ~thinned.masked if self.merged else torch.ones_like(thinned.masked)
        number = begins.cumsum(1) - 1
        number = number.clamp(min=0)  # padding in front
        expected, missing = (
            group_sums(values.masked_fill(~thinned.gaps, 0), number) for values in (expected, thinned.missing)
        )
        scored = begins & (group_sums(thinned.gaps, number) > 0)
        ratio = torch.where(missing > 0, missing / torch.where(scored, expected, 1.0), 1.0)
        return torch.where(scored, expected - missing + missing * ratio.log(), 0.0)

    def _scale(
        self, process: Process, thinned: Thinned, t: Tensor, bound_weight: Tensor, inputs: dict[str, Tensor]
    ) -> Tensor:
        """What a row counts in the loss, over what it counts in the bound, (B,) float64."""
        draw = Draw(
            x_0=thinned.x_0,
            maskable=thinned.gaps,
            tokens=thinned.tokens,
            scored=thinned.masked,
            t=t[:, None].double(),
            bound_weight=bound_weight[:, None],
            level=t,
            inputs=inputs,
        )
        weight = self.weight(process, draw)
        if weight.shape != (len(t), 1):
            raise ValueError(
                f"{type(self.weight).__name__} weighs every token by itself, and missing ones have no place; use "
                "BoundWeight, UnitWeight or ClippedWeight"
            )
        return weight[:, 0] / bound_weight

    @override
    def bound_gap(self, process: Process) -> str | None:
        if not isinstance(process, InsertionProcess):
            return f"no token is ever absent under {process}"
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        insertion, masks = process.insertion.mask_probability(ends), process.schedule.mask_probability(ends)
        if not self.times.covers_all:
            return f"it never sees some noise levels: {self.times} doesn't cover (0, 1]"
        if float(insertion[0]) > 0.0 or float(insertion[1]) < 1.0 or float(masks[0]) > 0.0:
            return (
                f"{process.insertion} takes between {float(insertion[0]):.3g} and {float(insertion[1]):.3g} of the "
                f"tokens away, and {process.schedule} masks {float(masks[0]):.3g} of them at t = 0"
            )
        return None


def _placed(values: Tensor, where: Tensor) -> Tensor:
    """The N chosen values at their places, 0 elsewhere: (N,) -> (B, L) float64, differentiable."""
    return torch.zeros(where.shape, dtype=torch.float64, device=where.device).masked_scatter(where, values.double())

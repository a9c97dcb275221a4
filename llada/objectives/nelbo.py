"""The bound of diffusion, and the losses that differ from it by design, weight and normaliser.

    loss = sum_i weight_i scale_i divergence_i / denominator,      nelbo of a row = sum_i w_i divergence_i

over the scored tokens of a corrupted batch. A `Design` draws the batch and knows the weight w that makes the sum a
bound on -log p(row); a `Weight` is what training uses instead; a `Normaliser` gives scale and denominator. The
divergence of a masked token is its cross-entropy, -log p_theta(x_0^i | x_t). Under a process that also draws random
tokens it is that of two jump processes, see `llada.heads.interpolated`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.heads.noise_law import NoiseLaw
from llada.noise import StratifiedTimes, UniformTimes
from llada.objectives.design import Design, Draw
from llada.objectives.exact_counts import ExactCounts
from llada.objectives.independent import IndependentMasks, TimeGrid
from llada.objectives.insertion import InsertionNELBO
from llada.objectives.normaliser import Normaliser, PerPosition, PerRow, PerScored, PerToken
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.objectives.weight import BoundWeight, UnitWeight, Weight
from llada.process import Process
from llada.random import RowRandom
from llada.rows import chosen, placed


class Judged(NamedTuple):
    """What a model says of a corrupted batch.

    Attributes:
        numerator: (), what is minimised, differentiable.
        terms: (N,) divergences of the scored tokens, without their weights, detached.
        sums: further numbers to log, see `ObjectiveOutput.sums`.
    """

    numerator: Tensor
    terms: Tensor
    sums: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class NELBO(Objective):
    """The negative evidence lower bound, or a loss of its kind.

    Args:
        design: which noise levels and positions the rows get.
        weight: of a scored token in the loss. Only `BoundWeight` minimises the bound; the reported ``nelbo`` has it in
            any case.
        normaliser: what the loss is divided by.

    Examples:
        >>> import math
        >>> import torch
        >>> from llada.objectives import NELBO
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> uniform, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.arange(4).expand(1000, 4)
        >>> output = NELBO()(uniform, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 1000))
        >>> round(float(output.loss), 2), round(math.log(4), 2)
        (1.4, 1.39)
    """

    design: Design = field(default_factory=IndependentMasks)
    weight: Weight = field(default_factory=BoundWeight)
    normaliser: Normaliser = field(default_factory=PerToken)

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        denoiser = process.network(model)
        draw = self.design(denoiser, process, columns(batch), random=random)
        scale, denominator = self.normaliser(draw)
        weights = chosen(self.weight(process, draw) * scale, draw.scored)
        numerator, terms, sums = self._judge(denoiser, process, draw, weights)
        divergence = placed(terms.double(), draw.scored)
        rows = len(draw.x_0) // draw.copies  # what is told of a row is told of its first copy
        return ObjectiveOutput(
            numerator=numerator,
            denominator=denominator,
            nelbo=(divergence * draw.bound_weight).sum(1).view(draw.copies, rows).mean(0),
            num_tokens=draw.maskable.sum(1)[:rows],
            t=draw.level[:rows],
            scored_nll=divergence.sum(1)[:rows],
            num_scored=draw.scored.sum(1)[:rows],
            sums=sums,
        )

    def _judge(self, denoiser: Denoiser, process: Process, draw: Draw, weights: Tensor) -> Judged:
        """What the model says of the N scored tokens, whose weights in the loss are (N,)."""
        seen = draw.tokens, draw.x_0, draw.scored, weights
        if process.scatters:
            law = law_of_draw(process, draw)
            return Judged(*denoiser.interpolated_nll(*seen, law, cross_entropy=False, posterior=False, **draw.inputs))
        return Judged(*denoiser.weighted_nll(*seen, suppressed=process.suppressed, **draw.inputs))

    @property
    @override
    def left_to_right(self) -> bool:
        return self.design.left_to_right

    @override
    def bound_gap(self, process: Process) -> str | None:
        if process.inserts:
            return "rows have no length beforehand under this process; use InsertionNELBO"
        return self.design.bound_gap(process)


def law_of_draw(process: Process, draw: Draw) -> NoiseLaw:
    """The laws that the divergences of the N scored tokens compare."""
    law = process.noise_law(draw.t)
    assert law is not None
    kept, scattered = (chosen(part, draw.scored) for part in law[:2])
    return law._replace(kept=kept, scattered=scattered)


def default_bound(process: Process) -> Objective:
    """The bound of a process with the least variance: exact counts where masks can be counted."""
    if process.inserts:
        return InsertionNELBO()
    return NELBO(IndependentMasks()) if process.scatters else NELBO(ExactCounts())


def llada_pretraining(eps: float = 1e-3) -> NELBO:
    """LLaDA's pretraining loss: t ~ U(eps, 1], weight 1/t, divided by B * L.

    Use it with the linear schedule.

    Args:
        eps: lowest noise level.

    Reference:
        arXiv 2502.09992, algorithm 1; the released code draws p_mask = (1 - eps) t + eps.
    """
    return NELBO(IndependentMasks(UniformTimes(t_min=eps)), BoundWeight(), PerPosition())


def llada_finetuning(eps: float = 1e-3) -> NELBO:
    """LLaDA's fine-tuning loss: as pretraining, but each row is divided by the length of its answer, then by B.

    Use it with ``maskable`` = answer, its EOS padding included, and the linear schedule.

    Args:
        eps: lowest noise level.

    Reference:
        arXiv 2502.09992, algorithm 2.
    """
    return NELBO(IndependentMasks(UniformTimes(t_min=eps)), BoundWeight(), PerRow())


def masked_mean(t_min: float = 0.0, t_max: float = 1.0) -> NELBO:
    """The plain mean over masked tokens at stratified noise levels: learns fastest on a small budget.

    The loss is no bound; the reported ``nelbo`` is one if the noise levels are all there.

    Args:
        t_min: lowest noise level.
        t_max: highest noise level.
    """
    return NELBO(IndependentMasks(StratifiedTimes(t_min=t_min, t_max=t_max)), UnitWeight(), PerScored())


def discrete_time(num_steps: int) -> NELBO:
    """The T-step bound as a loss, per token; see `llada.objectives.TimeGrid`.

    Args:
        num_steps: T.
    """
    return NELBO(TimeGrid(num_steps=num_steps))

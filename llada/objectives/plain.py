"""Plain cross-entropy over all maskable positions, under noise that also draws random tokens.

    loss = sum_i weight_i scale_i (-log p_theta(x_0^i | x_t)) / denominator

It learns fast and is what DiffusionGemma and others train on. What it teaches is the full posterior p(x_i | x_t), which
is not the xhat of bound and reverse step; see `llada.process.parameterisation`. The bound is reported beside it, from
the same pass: that of the leave-one-out posterior.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.objectives.design import Draw
from llada.objectives.nelbo import NELBO, Judged, law_of_draw
from llada.objectives.normaliser import Normaliser, PerScored
from llada.objectives.objective import Batch, ObjectiveOutput
from llada.objectives.weight import UnitWeight, Weight
from llada.process import LeaveOneOut, Process
from llada.random import RowRandom


@dataclass(frozen=True)
class PlainCrossEntropy(NELBO):
    """The weighted cross-entropy of all scored tokens, masked, random and kept ones alike.

    Args:
        design: which noise levels the rows get.
        weight: of a token.
        normaliser: what the loss is divided by.
        any_process: accept a process that takes the network's logits for those of xhat. Its bound is then loose, and
            its samples don't converge to the data however many steps they take.

    Raises:
        ValueError: if the process draws random tokens and isn't told that its network gives the full posterior.

    Examples:
        >>> import torch
        >>> from llada.objectives import PlainCrossEntropy
        >>> from llada.process import UniformProcess
        >>> from llada.random import RowRandom
        >>> uniform, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.tensor([[0, 1, 2, 3]])
        >>> PlainCrossEntropy()(uniform, UniformProcess(4, posterior=True), rows, random=RowRandom.from_seed(0, 1)).loss
        tensor(1.3863, dtype=torch.float64)
    """

    weight: Weight = field(default_factory=UnitWeight)
    normaliser: Normaliser = field(default_factory=PerScored)
    any_process: bool = False

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        if process.scatters and not self.any_process and not isinstance(process.network(model), LeaveOneOut):
            raise ValueError(
                f"plain cross-entropy teaches the full posterior, but {type(process).__name__} takes the network's "
                "logits for the leave-one-out posterior; give the process posterior=True, or set any_process=True "
                "for a loose bound and samples that never converge"
            )
        return super().__call__(model, process, batch, random=random)

    @override
    def _judge(self, denoiser: Denoiser, process: Process, draw: Draw, weights: Tensor) -> Judged:
        if not process.scatters:
            return super()._judge(denoiser, process, draw, weights)
        seen = draw.tokens, draw.x_0, draw.scored, weights
        law = law_of_draw(process, draw)
        return Judged(*denoiser.interpolated_nll(*seen, law, cross_entropy=True, posterior=False, **draw.inputs))

"""What a loss is divided by. The choices in use differ, and they change what the number means.

    loss = sum_i scale_i (weighted divergence of token i) / denominator

A datum is a row, or a packed segment of one, which counts as if it were a row of its own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.objectives.design import Draw
from llada.rows import group_sums


class Normaliser(ABC):
    """Gives every token a scale, and the batch a denominator."""

    @abstractmethod
    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Scale and denominator.

        Args:
            draw: the corrupted batch of N rows.

        Returns:
            scale () or (N, 1) or (N, L), and denominator () of 1 or more; float64 both.
        """


def _count(value: Tensor | int, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=like.device).clamp(min=1.0)


def _one(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=like.device)


@dataclass(frozen=True)
class PerPosition(Normaliser):
    """Divide by N * L, every position of every row: LLaDA's pretraining loss. A bound per token for full rows.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, ExactCounts, PerPosition
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> answers = torch.tensor([[True, True, True, True], [False, False, True, True]])
        >>> batch = {"tokens": torch.zeros(2, 4, dtype=torch.int64), "maskable": answers}
        >>> model, llada = lambda tokens: torch.zeros(*tokens.shape, 4), NELBO(ExactCounts(), normaliser=PerPosition())
        >>> output = llada(model, MaskingProcess(4), batch, random=RowRandom.from_seed(0, 2))
        >>> round(float(output.loss), 2)  # 6 tokens of log 4 each, over 8 positions
        1.04
    """

    @override
    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return _one(draw.x_0), _count(draw.x_0.numel(), draw.x_0)


@dataclass(frozen=True)
class PerToken(Normaliser):
    """Divide by the maskable tokens of the batch (MDLM, SMDM and d1 fine-tuning). A bound per token, always.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, ExactCounts, PerToken
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> answers = torch.tensor([[True, True, True, True], [False, False, True, True]])
        >>> batch = {"tokens": torch.arange(4).expand(2, 4), "maskable": answers}
        >>> sure = torch.tensor([0.0, 99.0])[:, None, None] * torch.eye(4)  # of the short answer alone
        >>> objective = NELBO(ExactCounts(), normaliser=PerToken())
        >>> output = objective(lambda tokens: sure, MaskingProcess(4), batch, random=RowRandom.from_seed(0, 2))
        >>> round(float(output.loss), 2)  # 4 of 6 tokens cost log 4
        0.92
    """

    @override
    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return _one(draw.x_0), _count(draw.maskable.sum(), draw.x_0)


@dataclass(frozen=True)
class PerRow(Normaliser):
    """Divide each datum by its own maskable tokens, then by the number of data: LLaDA's fine-tuning loss.

    Short answers count as long ones. Of packed segments those without a maskable token aren't counted.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, ExactCounts, PerRow
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> answers = torch.tensor([[True, True, True, True], [False, False, True, True]])
        >>> batch = {"tokens": torch.arange(4).expand(2, 4), "maskable": answers}
        >>> sure = torch.tensor([0.0, 99.0])[:, None, None] * torch.eye(4)  # of the short answer alone
        >>> objective = NELBO(ExactCounts(), normaliser=PerRow())
        >>> output = objective(lambda tokens: sure, MaskingProcess(4), batch, random=RowRandom.from_seed(0, 2))
        >>> round(float(output.loss), 2)  # 1 of 2 rows costs log 4
        0.69
    """

    @override
    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        if draw.segments is None:
            return 1.0 / draw.maskable.sum(1, keepdim=True).double().clamp(min=1.0), _count(len(draw.x_0), draw.x_0)
        scale = 1.0 / group_sums(draw.maskable, draw.segments).clamp(min=1.0)
        some = torch.zeros_like(draw.segments).scatter_add(1, draw.segments, draw.maskable.long()) > 0
        return scale, _count(some.sum(), draw.x_0)


@dataclass(frozen=True)
class PerScored(Normaliser):
    """Divide by the scored tokens of the batch, which are the masked ones: the plain mean of masked language models.

    Not a bound under any weight.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, PerScored, UnitWeight
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> masked_language_model = NELBO(weight=UnitWeight(), normaliser=PerScored())
        >>> model, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.zeros(8, 6, dtype=torch.int64)
        >>> output = masked_language_model(model, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 8))
        >>> round(float(output.loss), 2)  # log 4, however many are masked
        1.39
    """

    @override
    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return _one(draw.x_0), _count(draw.scored.sum(), draw.x_0)

"""The design of an autoregressive model, in the same terms as those of diffusion.

    -log p(x) = sum_i -log p(x_i | x_1, ..., x_{i-1})

A backbone that is causal and shifted answers for position i from tokens before i alone, so it is a denoiser to which
every token is visible and nothing is masked; see `llada.autoregressive`.
"""

from dataclasses import dataclass

import torch
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.objectives.design import Design, Draw, segments_of
from llada.objectives.objective import Batch, model_inputs
from llada.process import Process, check_maskable
from llada.random import RowRandom
from llada.rows import has_context


@dataclass(frozen=True)
class NextTokens(Design):
    """Every token is scored given those before it; the bound is exact, and nothing is left to chance.

    The first real token of a row, or of a packed segment, has nothing before it: it isn't scored, and ``num_tokens``
    leaves it out. Rows that begin with BOS lose nothing.

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, NextTokens
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> objective = NELBO(NextTokens())
        >>> objective(uniform, MaskingProcess(4), torch.tensor([[0, 1, 2]]), random=RowRandom.from_seed(0, 1)).loss
        tensor(1.3863, dtype=torch.float64)
        >>> objective.left_to_right
        True
    """

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        x_0, inputs = batch["tokens"], model_inputs(batch)
        scored = check_maskable(x_0, batch.get("maskable")) & has_context(x_0, **inputs)
        ones = torch.ones(len(x_0), 1, dtype=torch.float64, device=x_0.device)
        return Draw(
            x_0=x_0,
            maskable=scored,
            tokens=x_0,
            scored=scored,
            t=ones,
            bound_weight=ones,
            level=ones[:, 0],
            inputs=inputs,
            segments=segments_of(batch),
        )

    @property
    @override
    def left_to_right(self) -> bool:
        return True

    @override
    def bound_gap(self, process: Process) -> str | None:
        return None

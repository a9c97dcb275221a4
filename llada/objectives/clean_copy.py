"""Block diffusion that stays a next-token model: the clean copy of the row is scored, too.

    loss = ( sum_i weight_i scale_i divergence_i + c sum_i -log p_theta(x_i | x_1 .. x_{i-1}) ) / denominator

In a causal backbone the clean copy of a two-copy pass is the autoregressive model itself (see
`llada.backbones.two_copy`), so its likelihood comes from the same pass. A model that keeps it can verify its own
guesses from left to right (`llada.samplers.DraftAndVerify`).

Reference: Yu et al., I-DLM, arXiv 2604.11035, whose clean copy counts 0.2.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.objectives.blockwise import Blockwise
from llada.objectives.design import Design, Draw
from llada.objectives.nelbo import NELBO, Judged
from llada.process import Process
from llada.rows import has_context


@dataclass(frozen=True)
class CleanCopyLoss(NELBO):
    """`NELBO` of two copies, and the next-token loss of the clean one.

    The clean tokens are those that may be masked and have a token before them; each counts as much as ``clean_weight``
    tokens of the bound, and the sum is divided by the same denominator. ``clean_nll`` is logged beside the loss; its
    part of the loss is ``clean_weight`` times that.

    Args:
        design: of two copies: `Blockwise` or `ComplementaryBlocks`.
        weight: of a scored token in the loss; only `BoundWeight` minimises the bound.
        normaliser: what the loss is divided by.
        clean_weight: c, 0 or more.

    Raises:
        ValueError: if ``clean_weight`` is negative, or, in a call, the design has no clean copy, or the backbone isn't
            causal and shifted, so that a clean token would see itself.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.objectives import Blockwise, CleanCopyLoss
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model = BidirectionalTransformer(9, 8, 1, 1, block_length=4, causal=True, shift=True)
        >>> objective, rows = CleanCopyLoss(Blockwise(), clean_weight=0.2), torch.arange(8)[None]
        >>> objective(model, MaskingProcess(8), rows, random=RowRandom.from_seed(0, 1)).num_tokens
        tensor([8])
    """

    design: Design = field(default_factory=Blockwise)
    clean_weight: float = 0.2

    def __post_init__(self) -> None:
        if not self.clean_weight >= 0.0:
            raise ValueError(f"clean_weight must be 0 or more; got {self.clean_weight}")

    @override
    def _judge(self, denoiser: Denoiser, process: Process, draw: Draw, weights: Tensor) -> Judged:
        if "clean" not in draw.inputs:
            raise ValueError(
                f"{type(self.design).__name__} has no clean copy to score; use Blockwise() or ComplementaryBlocks()"
            )
        context = {name: value for name, value in draw.inputs.items() if name != "clean"}
        clean = draw.maskable & has_context(draw.x_0, **context)
        clean[len(clean) // draw.copies :] = False  # the copies of a row have the same clean one
        both = torch.cat([draw.scored, clean], 1)
        weight = torch.full(both.shape, self.clean_weight, dtype=weights.dtype, device=weights.device)
        weight[:, : clean.shape[1]].masked_scatter_(draw.scored, weights)
        numerator, terms = denoiser.weighted_nll(
            draw.tokens,
            draw.x_0.repeat(1, 2),
            both,
            weight[both],
            suppressed=process.suppressed,
            both_copies=True,
            **draw.inputs,
        )
        is_clean = torch.cat([torch.zeros_like(clean), clean], 1)[both]
        return Judged(numerator, terms[~is_clean], {"clean_nll": terms[is_clean].sum()})

"""Certainty forcing (dParallel, CAP): be surer, earlier, of what would be right anyway.

Decoding by confidence writes a token per call because a model that is right is often not sure yet. So it is trained on
answers that it would give - its own, or those of its teacher - as block-wise decoding sees them: the blocks before one
are there, the blocks behind it are masked, and of its own tokens a part is. To the cross-entropy comes the entropy of
those predictions that are right (`llada.heads.certainty`).

Shapes: B rows, L tokens of a row.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.heads.certainty import certainty_loss
from llada.heads.frame import framed
from llada.objectives.design import MASKS, TIMES, Design, Draw, conditioning
from llada.objectives.distillation import features
from llada.objectives.normaliser import Normaliser, PerScored
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns, model_inputs
from llada.process import Process, check_maskable
from llada.random import RowRandom
from llada.rows import block_of


@dataclass(frozen=True)
class PartialBlock(Design):
    """One block of each row is masked in part, in a second copy the other part; the blocks behind it are masked.

    Scored are the masked tokens of that block. Which one it is, is left to chance.

    Args:
        block_length: tokens per block, counted from the first maskable token of a row; the last may be shorter.
        share: probability that a token of the block is masked in the first copy.

    Raises:
        ValueError: if an option is out of its range.

    Reference:
        arXiv 2509.26488; the released ``forward_process_semi_ar``. Where the answer is a multiple of the block length,
        that also draws an empty block behind the last one, from which nothing is learnt.

    Examples:
        >>> import torch
        >>> from llada.denoiser import as_denoiser
        >>> from llada.objectives import PartialBlock
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, row = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9)), {"tokens": torch.arange(8)[None]}
        >>> PartialBlock(block_length=4)(model, MaskingProcess(9), row, random=RowRandom.from_seed(0, 1)).tokens
        tensor([[9, 1, 2, 3, 9, 9, 9, 9],
                [0, 9, 9, 9, 9, 9, 9, 9]])
    """

    block_length: int = 32
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.block_length < 1 or not 0.0 < self.share < 1.0:
            raise ValueError(
                f"block_length must be 1 or more and share in (0, 1); got {self.block_length} and {self.share}"
            )

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        if process.scatters or process.mask_token_id is None:
            raise ValueError(f"blocks are masked in masked diffusion only; got {process}")
        if batch.get("segment_ids") is not None:
            raise ValueError("packed rows have several answers; give rows of one answer each")
        x_0 = batch["tokens"]
        maskable = check_maskable(x_0, batch.get("maskable"))
        number = maskable.sum(1, keepdim=True)
        block = torch.where(maskable, block_of(maskable.cumsum(1) - 1, self.block_length), -1)
        chosen = (random.fold_in(TIMES).uniform(1) * (block.amax(1, keepdim=True) + 1)).long()
        part = random.fold_in(MASKS).uniform(x_0.shape[1]) < self.share
        scored = torch.cat([(block == chosen) & half for half in (part, ~part)])
        masked = scored | (block > chosen).repeat(2, 1)
        t = masked.sum(1, keepdim=True).double() / number.repeat(2, 1).clamp(min=1)
        x_0 = x_0.repeat(2, 1)
        inputs = {name: torch.cat([value, value]) for name, value in model_inputs(batch).items()}
        return Draw(
            x_0=x_0,
            maskable=maskable.repeat(2, 1),
            tokens=x_0.masked_fill(masked, process.mask_token_id),
            scored=scored,
            t=t,
            bound_weight=torch.ones_like(t),
            level=t[:, 0],
            inputs={**conditioning(process, t), **inputs},
            copies=2,
        )

    @override
    def bound_gap(self, process: Process) -> str | None:
        return "it scores one block of a row"


@dataclass(frozen=True)
class CertaintyForcing(Objective):
    """Cross-entropy, and the entropy of right predictions.

    Args:
        design: which positions are masked.
        certainty: weight of the entropy; dParallel: 2.
        temperature: of the law whose entropy it is; dParallel: 0.5.
        normaliser: what the sum is divided by. dParallel adds the means of both copies, which is twice `PerScored`
            where they hide equally many.

    Raises:
        ValueError: if a number is out of its range.

    Reference:
        Chen et al., "dParallel: Learnable Parallel Decoding for dLLMs", arXiv 2509.26488.

    Examples:
        >>> from llada.objectives import CertaintyForcing, PartialBlock
        >>> from llada.process import MaskingProcess
        >>> dparallel = CertaintyForcing(PartialBlock(block_length=32), certainty=2.0, temperature=0.5)
        >>> dparallel.bound_gap(MaskingProcess(4))  # why its loss is no bound
        'it scores one block of a row'
    """

    design: Design = field(default_factory=PartialBlock)
    certainty: float = 2.0
    temperature: float = 0.5
    normaliser: Normaliser = field(default_factory=PerScored)

    def __post_init__(self) -> None:
        if not self.certainty >= 0.0 or not self.temperature > 0.0:
            raise ValueError(
                f"certainty must be 0 or more, temperature above 0; got {self.certainty} and {self.temperature}"
            )

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        denoiser = as_denoiser(model)
        draw = self.design(denoiser, process, columns(batch), random=random)
        scale, denominator = self.normaliser(draw)
        hidden, head = features(denoiser, draw.tokens, draw.scored, draw.inputs)
        loss = partial(
            certainty_loss,
            labels=draw.x_0[draw.scored],
            weights=scale.expand(draw.x_0.shape)[draw.scored],
            suppressed=process.suppressed,
            certainty=self.certainty,
            temperature=self.temperature,
        )
        found = framed(loss, head)(head, hidden)
        nll = torch.zeros(draw.x_0.shape, dtype=torch.float64, device=draw.x_0.device)
        nll[draw.scored] = found.nll.double()
        rows = len(draw.x_0) // draw.copies
        return ObjectiveOutput(
            numerator=found.total,
            denominator=denominator,
            nelbo=(nll * draw.bound_weight).sum(1).view(draw.copies, rows).mean(0),
            num_tokens=draw.maskable.sum(1)[:rows],
            t=draw.level[:rows],
            scored_nll=nll.sum(1)[:rows],
            num_scored=draw.scored.sum(1)[:rows],
        )

    @override
    def bound_gap(self, process: Process) -> str | None:
        return self.design.bound_gap(process)

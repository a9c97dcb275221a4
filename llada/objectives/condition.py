"""Training that now and then goes without the condition, so that one network learns both laws of guidance.

A row's condition is what of it isn't maskable: a label that stands in front as a token, a prompt. With probability
``rate`` it is replaced by a token that stands for nothing. `llada.samplers.Guidance` puts the same token there.

Reference: Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598; for discrete noise Schiff et al.,
arXiv 2412.10193, section 3.1, with a rate of 0.1.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.objectives.design import Design, Draw, segments_of
from llada.objectives.independent import IndependentMasks
from llada.objectives.objective import Batch
from llada.process import Process, check_maskable
from llada.random import RowRandom

_DROPOUT = 3  # behind the tags of `llada.objectives.design`


@dataclass(frozen=True)
class ConditionDropout(Design):
    """Another design, in which some rows lose their condition; of packed rows, some segments theirs.

    Args:
        design: which noise levels and positions the rows get.
        rate: share of rows that are judged without their condition, in [0, 1].
        null_token_id: what stands there instead; None: the mask.

    Raises:
        ValueError: if ``rate`` isn't in [0, 1].

    Examples:
        >>> import torch
        >>> from llada.objectives import ConditionDropout, IndependentMasks
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> rows = torch.tensor([[1, 2, 3, 3]]).expand(4, 4)
        >>> batch = {"tokens": rows, "maskable": rows == 3}  # 1 2 is the prompt
        >>> design = ConditionDropout(IndependentMasks(), rate=0.5)
        >>> draw = design(None, MaskingProcess(4), batch, random=RowRandom.from_seed(0, 4))
        >>> draw.tokens[:, :2].tolist()  # two of four rows have lost their prompt
        [[4, 4], [1, 2], [4, 4], [1, 2]]
    """

    design: Design = field(default_factory=IndependentMasks)
    rate: float = 0.1
    null_token_id: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate must be in [0, 1]; got {self.rate}")

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        null = process.mask_token_id if self.null_token_id is None else self.null_token_id
        if null is None:
            raise ValueError(
                f"{type(process).__name__} has no mask that could stand for a missing condition; give "
                "ConditionDropout(null_token_id=...), an id behind the data tokens that the backbone has"
            )
        tokens = batch["tokens"].masked_fill(self._lost(batch, random.fold_in(_DROPOUT)), null)
        return self.design(model, process, {**batch, "tokens": tokens}, random=random)

    def _lost(self, batch: Batch, random: RowRandom) -> Tensor:
        """The tokens that are hidden, (B, L) bool."""
        tokens, real, segments = batch["tokens"], batch.get("attention_mask"), segments_of(batch)
        condition = ~check_maskable(tokens, batch.get("maskable"))
        if real is not None:
            condition = condition & real.bool()
        number = torch.zeros_like(tokens) if segments is None else segments
        return condition & (random.uniform_at(number) < self.rate)

    @property
    @override
    def left_to_right(self) -> bool:
        return self.design.left_to_right

    @override
    def bound_gap(self, process: Process) -> str | None:
        if self.rate > 0.0:
            return f"{self.rate:g} of the rows are judged without their condition"
        return self.design.bound_gap(process)

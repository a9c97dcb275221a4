"""Masks that stand for more than one token, or for none: what a network must see to learn how long a gap should be.

    text          the   old  boat  lay  EOS          (EOS behind a gap: nothing belongs there)
    masked        the   [M]  [M]   [M]  [M]
    merged        the   [M]        [M]  [M]
    labels        the   expand     lay  EOS

Neighbouring masks merge into one whose label is ``expand``; masks are added whose label is ``delete``. The columns that
merged away are gone, so the network reads rows of other lengths. The cross-entropy of such labels bounds no likelihood.

Reference: Wu et al., "DreamOn: Diffusion Language Models for Code Infilling Beyond Fixed-Size Canvas" (2025); the
released training code.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import MASKS, TIMES, Design, Draw, conditioning
from llada.objectives.nelbo import NELBO
from llada.objectives.normaliser import PerScored
from llada.objectives.objective import Batch
from llada.objectives.weight import Weight
from llada.process import Process, check_maskable
from llada.process.columns import Edit
from llada.random import RowRandom

_MASK, _CHANCE, _MERGE, _DELETE = range(4)


@dataclass(frozen=True)
class MergedMasks(Design):
    """Independent masks at one noise level per row, some of which are merged, and some of which are too many.

    Behind the last maskable token of a row come 0 to ``max_delete - 1`` tokens ``delete``, which are always masked. Of
    two masks beside each other the second then merges into the first with probability ``merge_prob`` in a share
    ``static`` of rows, and ``merge_prob`` (1 - share of masks) in the others; the first isn't ``delete``. A run may
    merge into one mask, which then expands several times.

    Args:
        expand_token_id: the label of a mask that stands for several tokens.
        delete_token_id: the label of a mask too many, such as EOS. Where the data has it among its maskable tokens, it
            is always masked.
        merge_prob: most probability of a merge, in [0, 1].
        static: share of rows whose merges don't depend on their noise, in [0, 1].
        max_delete: one more than most masks that are added; 0 for none.
        times: how noise levels are drawn.

    Raises:
        ValueError: if a number is out of its range, or the two tokens are one.

    Examples:
        >>> import torch
        >>> from llada.denoiser import as_denoiser
        >>> from llada.objectives import MergedMasks
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> design = MergedMasks(expand_token_id=7, delete_token_id=8, merge_prob=1.0, static=1.0, max_delete=0)
        >>> model, row = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 10)), {"tokens": torch.arange(6)[None]}
        >>> draw = design(model, MaskingProcess(9), row, random=RowRandom.from_seed(4, 1))
        >>> draw.tokens, draw.x_0
        (tensor([[0, 1, 9]]), tensor([[0, 1, 7]]))
    """

    expand_token_id: int
    delete_token_id: int
    merge_prob: float = 0.5
    static: float = 0.4
    max_delete: int = 64
    times: TimeSampler = field(default_factory=StratifiedTimes)

    def __post_init__(self) -> None:
        if not (0.0 <= self.merge_prob <= 1.0 and 0.0 <= self.static <= 1.0):
            raise ValueError(f"merge_prob and static must be in [0, 1]; got {self.merge_prob} and {self.static}")
        if self.max_delete < 0:
            raise ValueError(f"max_delete must be 0 or more; got {self.max_delete}")
        if self.expand_token_id == self.delete_token_id:
            raise ValueError(f"the tokens that expand and delete must differ; got {self.expand_token_id} for both")

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        mask = process.mask_token_id
        if mask is None or process.scatters:
            raise ValueError(f"masks are merged, and {type(process).__name__} has other noise; use MaskingProcess")
        if batch.get("segment_ids") is not None:
            raise ValueError("columns of packed rows can't be merged away; use rows that aren't packed")
        x_0, streams = batch["tokens"], random.fold_in(MASKS)
        maskable, real = check_maskable(x_0, batch.get("maskable")), batch.get("attention_mask")
        real = torch.ones_like(maskable) if real is None else real.bool()
        grown = Edit.of(real, insert=self._surplus(maskable, streams.fold_in(_DELETE)))
        x_0, maskable = grown(x_0, self.delete_token_id), grown(maskable, True, False)

        t = self.times(random.fold_in(TIMES))[:, None]
        noised = process.corrupt(x_0, t.expand(x_0.shape), maskable, random=streams.fold_in(_MASK))
        surplus = maskable & (x_0 == self.delete_token_id)
        masked = noised.scored | surplus
        first = self._merges(masked, surplus, maskable, streams)
        tokens, labels = x_0.masked_fill(masked, mask), x_0.masked_fill(first, self.expand_token_id)

        closed = Edit.of(grown.real, torch.nn.functional.pad(first, (1, 0))[:, :-1])
        tokens, labels = closed(tokens), closed(labels)
        inputs = conditioning(process, t)
        if not bool(closed.real.all()):
            inputs["attention_mask"] = closed.real
        return Draw(
            x_0=labels,
            maskable=closed(maskable, False),
            tokens=tokens,
            scored=closed(masked, False),
            t=t,
            bound_weight=process.bound_weight(t, tokens, labels),
            level=t[:, 0],
            inputs=inputs,
        )

    def _surplus(self, maskable: Tensor, random: RowRandom) -> Tensor:
        """How many tokens come in front of each column and behind the last, (B, L + 1) int64."""
        number = (random.uniform(1) * self.max_delete).long() * maskable.any(1, keepdim=True)
        behind = maskable.shape[1] - maskable.flip(1).int().argmax(1, keepdim=True)
        return number.new_zeros(len(maskable), maskable.shape[1] + 1).scatter(1, behind, number)

    def _merges(self, masked: Tensor, surplus: Tensor, maskable: Tensor, random: RowRandom) -> Tensor:
        """The masks into which the one to their right merges, (B, L) bool."""
        share = (masked & ~surplus).sum(1, keepdim=True) / maskable.sum(1, keepdim=True).clamp(min=1)
        static = random.fold_in(_CHANCE).uniform(1) < self.static
        chance = torch.where(static, self.merge_prob, self.merge_prob * (1.0 - share.double()))
        coins = random.fold_in(_MERGE).uniform(masked.shape[1]) < chance
        beside = torch.nn.functional.pad(masked, (0, 1))[:, 1:]
        return masked & ~surplus & beside & coins

    @override
    def bound_gap(self, process: Process) -> str | None:
        return "it also scores the labels of merged masks and of those too many, which aren't tokens of the text"


@dataclass(frozen=True)
class CleanWeight(Weight):
    """1 - t: what stands among many clean tokens counts more. Not a bound.

    Examples:
        >>> import torch
        >>> from llada.objectives import CleanWeight, IndependentMasks
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> process, rows = MaskingProcess(4), torch.zeros(2, 6, dtype=torch.int64)
        >>> draw = IndependentMasks()(None, process, {"tokens": rows}, random=RowRandom.from_seed(0, 2))
        >>> [round(t, 2) for t in draw.t[:, 0].tolist()]
        [0.06, 0.68]
        >>> [round(weight, 2) for weight in CleanWeight()(process, draw)[:, 0].tolist()]
        [0.94, 0.32]
    """

    @override
    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return 1.0 - draw.t


def dreamon(expand_token_id: int, delete_token_id: int, max_delete: int = 64) -> NELBO:
    """DreamOn's loss: the mean over masked tokens of (1 - t) times the cross-entropy of the labels.

    Args:
        expand_token_id: the label of a mask that stands for several tokens.
        delete_token_id: the label of a mask too many, such as EOS.
        max_delete: one more than most masks that are added to a row.
    """
    return NELBO(MergedMasks(expand_token_id, delete_token_id, max_delete=max_delete), CleanWeight(), PerScored())

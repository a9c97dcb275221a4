"""Rounds of editing: the model learns to mend what it writes itself.

    loss = first + weight / N  sum over rounds and tokens  -log p(label of the token | draft)

``first`` is an ordinary loss of masked diffusion. The first draft is what the model writes, greedily, into masks of a
random share of tokens; each further draft is what becomes of the one before if the model's word is obeyed, and the
labels (keep, replace, delete, insert) are worked out anew, see `llada.process.levenshtein`. Drafts are made without
gradient.

Reference: Levenshtein editing of LLaDA2.2, whose report calls it multi-turn forward.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.nelbo import NELBO
from llada.objectives.normaliser import PerToken
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns, model_inputs
from llada.process import Process, check_maskable
from llada.process.levenshtein import EditTokens, edit_labels, edited
from llada.random import RowRandom

_FIRST, _TIMES, _MASKS = range(3)


@dataclass(frozen=True)
class EditRounds(Objective):
    """A loss of masked diffusion, and the cross-entropy of edits of the model's own drafts.

    Args:
        delete_token_id: says that a token goes.
        insert_token_id: says that a mask comes in front of a token.
        rounds: drafts, each with one pass with a gradient and one without.
        weight: of the edits in the loss.
        block_length: drafts and texts are compared in blocks of so many maskable tokens, as a sampler edits them.
        first: the loss of masked diffusion, divided by the number of tokens; its bound is what is reported.
        times: the shares of masks from which the first draft is written.

    Raises:
        ValueError: if a number is out of its range, the two tokens are one, or ``first`` has another normaliser.

    Examples:
        >>> import torch
        >>> from llada.objectives import EditRounds
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> uniform, rows = lambda tokens: torch.zeros(*tokens.shape, 7), torch.arange(4)[None]
        >>> objective = EditRounds(delete_token_id=4, insert_token_id=5, block_length=4)
        >>> objective(uniform, MaskingProcess(6), rows, random=RowRandom.from_seed(0, 1)).num_tokens
        tensor([4])
    """

    delete_token_id: int
    insert_token_id: int
    rounds: int = 1
    weight: float = 1.0
    block_length: int = 32
    first: NELBO = field(default_factory=NELBO)
    times: TimeSampler = field(default_factory=StratifiedTimes)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.block_length < 1 or not self.weight >= 0.0:
            raise ValueError(
                "rounds and block_length must be 1 or more and weight 0 or more; "
                f"got {self.rounds}, {self.block_length} and {self.weight}"
            )
        if self.delete_token_id == self.insert_token_id:
            raise ValueError(f"the tokens that delete and insert must differ; got {self.delete_token_id} for both")
        if not isinstance(self.first.normaliser, PerToken):
            raise ValueError(
                f"edits are divided by the number of tokens, and {type(self.first.normaliser).__name__} divides the "
                "rest of the loss by something else; use NELBO(normaliser=PerToken())"
            )

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        names, batch = self._names(process), columns(batch)
        denoiser, inputs = as_denoiser(model), model_inputs(batch)
        x_0 = batch["tokens"]
        maskable = check_maskable(x_0, batch.get("maskable"))
        if "segment_ids" in inputs or bool((maskable.int().diff(dim=1) == 1).sum(1).gt(~maskable[:, 0]).any()):
            raise ValueError("tokens move within a row: its maskable tokens must be in one piece, and it not packed")
        first = self.first(denoiser, process, batch, random=random.fold_in(_FIRST))
        blocks = _Blocks(maskable, self.block_length)

        t = self.times(random.fold_in(_TIMES))[:, None].expand(x_0.shape)
        draft = process.corrupt(x_0, t, maskable, random=random.fold_in(_MASKS)).tokens
        written = draft == names.mask
        said = torch.where(written, _word(denoiser, draft, maskable, names.mask, inputs), draft)
        numerator = first.numerator
        for number in range(self.rounds):
            if number > 0:
                said = _word(denoiser, draft, maskable, names.mask, inputs)
            new, _ = edited(blocks.cut(draft), blocks.cut(said), blocks.real, names)
            draft = blocks.paste(new, draft)
            labels = blocks.paste(edit_labels(blocks.cut(draft), blocks.cut(x_0), blocks.real, names), x_0)
            weights = torch.full((int(maskable.sum()),), self.weight, dtype=torch.float64, device=x_0.device)
            total, _ = denoiser.weighted_nll(draft, labels, maskable, weights, suppressed=process.suppressed, **inputs)
            numerator = numerator + total
        return ObjectiveOutput(
            numerator=numerator,
            denominator=first.denominator,
            nelbo=first.nelbo,
            num_tokens=first.num_tokens,
            t=first.t,
            scored_nll=first.scored_nll,
            num_scored=first.num_scored,
        )

    def _names(self, process: Process) -> EditTokens:
        mask = process.mask_token_id
        if mask is None or process.scatters or process.time_conditioned:
            raise ValueError(
                f"drafts are written into masks, and have no noise level; {process} doesn't go with them, use "
                "MaskingProcess without time_conditioned"
            )
        return EditTokens(mask, self.delete_token_id, self.insert_token_id)

    @override
    def bound_gap(self, process: Process) -> str | None:
        return self.first.bound_gap(process)


@torch.no_grad()
def _word(denoiser: Denoiser, tokens: Tensor, where: Tensor, mask: int, inputs: dict[str, Tensor]) -> Tensor:
    """What the model says, greedily and never the mask, at some positions; the tokens elsewhere, (B, L) int64."""
    logits = denoiser.logits(tokens, where, **inputs)
    index = torch.tensor([mask], device=tokens.device)
    said = tokens.clone()
    said[where] = logits.index_fill(-1, index, -torch.inf).argmax(-1)
    return said


class _Blocks:
    """The maskable tokens of each row, cut into blocks.

    Args:
        maskable: (B, L) bool, in one piece in each row.
        size: tokens of a block.
    """

    def __init__(self, maskable: Tensor, size: int) -> None:
        self.size, self.start = size, maskable.int().argmax(1, keepdim=True)
        number = -(-int(maskable.sum(1).max()) // size)
        self.columns = self.start + torch.arange(number * size, device=maskable.device)
        inside = self.columns < self.start + maskable.sum(1, keepdim=True)
        self.columns = self.columns.clamp(max=maskable.shape[1] - 1)
        self.inside = inside
        self.real = inside.view(-1, size)

    def cut(self, values: Tensor) -> Tensor:
        """(B, L) -> (B * blocks, size)."""
        return values.gather(1, self.columns).view(-1, self.size)

    def paste(self, parts: Tensor, others: Tensor) -> Tensor:
        """(B * blocks, size) -> (B, L), with the ``others`` around the maskable tokens."""
        width = others.shape[1]
        wide = torch.nn.functional.pad(others, (0, 1))
        at = torch.where(self.inside, self.columns, width)  # what is no token goes to a column that is cut off
        return wide.scatter(1, at, parts.view(len(others), -1))[:, :width]

"""Editing by keeping, replacing, deleting and inserting, until the model is content with a block (LLaDA2.2).

In each step, of the positions of the block,
- masks are written whose token is surer than a bound, at least one of those that were there at first; when these are
  written, all masks are;
- written tokens are replaced where the model now wants another one, surer than another bound;
- ``delete`` takes a position away, ``insert`` puts a mask in front of one; masks fill the block up, and what is too
  much falls off its end.

Shapes: B rows, L columns of the canvas, M positions of the block in a row.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor
from typing_extensions import override

from llada.process.levenshtein import EditTokens, edited
from llada.random import RowRandom
from llada.samplers.amount.amount import take_best
from llada.samplers.editing import EditingSampler
from llada.samplers.layout import Span, first_true
from llada.samplers.run import Run
from llada.samplers.sampler import Step
from llada.samplers.state import State


@dataclass(frozen=True)
class LevenshteinSampler(EditingSampler):
    """Decodes block by block with the edits of `llada.process.levenshtein`.

    A row leaves a block when a step wants nothing. After ``max_edits`` steps without a mask of the first ones, and
    after as many more than the block has positions in any case, a last step writes all masks and edits no more lengths.
    Where a block has been seen before, the least sure of its changes becomes a token that wasn't tried there. Masks are
    never written back here, as the reference may.

    Args:
        threshold: least confidence of what is written into a mask.
        edit_threshold: a written token is replaced by another whose confidence is above this.
        max_edits: steps that a row may spend on a block after the masks that it had at first are written.
        draft: whether what stands at the open positions of the canvas is a draft to be edited, see `EditingSampler`;
            a block then may take as many steps as it has positions, and ``max_edits`` more.
        proposal: how a token is chosen; temperature 0.
        window: blocks.
        guidance: classifier-free guidance.
        cache: what is kept between steps; one that computes the whole block in each of them.
        adjustments: constraints and memories that edit the logits, applied in this order.
        delete_token_id: such as 156930 in LLaDA2.2's vocabulary.
        insert_token_id: such as 156931, which its configuration calls "split".

    Raises:
        ValueError: if the two tokens are one, anything is left to chance, or the parts don't fit together.

    Reference:
        LLaDA2.2's report, section 3.1; SGLang's ``JointThresholdInDel``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, LevenshteinSampler
        >>> model = lambda tokens: torch.eye(5)[tokens * 0 + 1]
        >>> sampler = LevenshteinSampler(window=Blocks(4), delete_token_id=2, insert_token_id=3)
        >>> sampler(model, torch.full((1, 8), 4), MaskingProcess(4)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    threshold: float = 0.5
    edit_threshold: float = 0.0
    delete_token_id: int = field(kw_only=True)
    insert_token_id: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delete_token_id == self.insert_token_id:
            raise ValueError(f"the tokens that delete and insert must differ; got {self.delete_token_id} for both")
        if self.proposal.temperature != 0.0:
            raise ValueError(
                "the edits are those of greedy decoding; use a proposal of temperature 0, not "
                f"{self.proposal.temperature}"
            )

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        columns, within = first_true(state.inside, span.stop - span.start)
        if bool((columns.diff(dim=1) != 1)[within[:, 1:]].any()):
            raise ValueError("tokens can't move across given ones: the open positions of a block must be in one piece")
        block = _Block(state, columns, within, self._active(state, within))
        for k in count():
            if not bool(block.active.any()):
                break
            state = self._at(run, state, k, (columns, within), block.active)
            state = run.propose(state, state.grid(), random=random.fold_in(k))
            said, written = self._choose_edits(state, block)
            state, step = self._obey(state, block, said, written)
            yield step
        return state

    def _choose_edits(self, state: State, block: "_Block") -> tuple[Tensor, Tensor]:
        """The token that is said of each position, and where it is obeyed; (B, M) each."""
        x, valid = state.tokens.gather(1, state.columns), state.valid
        mask = state.open.gather(1, state.columns) & valid
        first, p = mask & block.original, state.probability
        number = first.sum(1)
        block.updates = block.updates + 1
        block.edits = block.edits + (number == 0)
        last = block.updates > x.shape[1] + self.max_edits
        if not self.draft:
            last = last | ((number == 0) & (block.edits >= self.max_edits))
        need = 1 + mask.sum(1) - number  # so many that one of the first is among them
        sure = mask & (p > self.threshold)
        taken = torch.where((sure.sum(1) >= need)[:, None], sure, take_best(p, mask, need))
        taken = torch.where(((number == 0) | last)[:, None], mask, taken)
        if self.max_edits == 0:
            last = last | ~(first & ~taken).any(1)
            taken = torch.where(last[:, None], mask, taken)
        written = taken | (valid & ~mask & (p > self.edit_threshold) & (state.drawn != x))
        said = torch.where(last[:, None], self._without_lengths(state), state.drawn)
        said = block.untried(state, said, written, ~last)
        block.active = block.active & written.any(1) & ~last
        return said, written

    def _without_lengths(self, state: State) -> Tensor:
        """The likeliest token of each position that is text, (B, M) int64; the drawn one where that is."""
        names = torch.tensor([self.delete_token_id, self.insert_token_id], device=state.drawn.device)
        if int(names.max()) >= state.logits.shape[-1]:
            raise ValueError(
                f"token {int(names.max())} is outside of the model's vocabulary of {state.logits.shape[-1]}"
            )
        text = state.logits.index_fill(-1, names, -torch.inf).argmax(-1)
        return torch.where(torch.isin(state.drawn, names), text, state.drawn)

    def _obey(self, state: State, block: "_Block", said: Tensor, written: Tensor) -> tuple[State, Step]:
        """Write what is said, and move the rest of the block accordingly."""
        mask = state.process.mask_token_id
        assert mask is not None
        columns, names = state.columns, EditTokens(mask, self.delete_token_id, self.insert_token_id)
        x, still_open = state.tokens.gather(1, columns), state.open.gather(1, columns)
        new, source = edited(x, torch.where(written, said, x), state.valid, names)
        came, at = source >= 0, source.clamp(min=0)
        kept = written & (said != self.insert_token_id)  # what an insertion moves stays as it was
        now_open = torch.where(came, (still_open & ~kept).gather(1, at), state.valid)
        block.original = block.original.gather(1, at) & came & now_open
        tokens = state.tokens.scatter(1, columns, new)
        opened = state.open.scatter(1, columns, torch.where(state.valid, now_open, still_open))
        changed = (tokens != state.tokens) | (opened != state.open)
        shown = torch.full_like(state.confidence, torch.nan)
        sure = state.probability.gather(1, at).masked_fill(~came | ~state.valid, torch.nan)
        shown = shown.scatter(1, columns, sure)
        calls = state.calls + block.asked
        block.asked = block.active
        after = replace(state, tokens=tokens, open=opened, calls=calls)
        return after, Step(tokens, changed, shown, calls, opened)


class _Block:
    """What is remembered of the rows while a block is decoded.

    Args:
        state: before the first step of the window.
        columns: (B, M) int64, of the positions.
        within: (B, M) bool, which of them are in the block.
        active: (B,) bool, the rows that have a block.
    """

    def __init__(self, state: State, columns: Tensor, within: Tensor, active: Tensor) -> None:
        self.original = state.open.gather(1, columns) & within  # masks that were there at first
        self.active = self.asked = active  # rows that go on, and those that the call at hand is for
        self.updates = self.edits = torch.zeros_like(state.initial)
        rows = len(columns)
        self.seen: list[set[tuple[int, ...]]] = [set() for _ in range(rows)]
        self.tried: list[dict[int, set[int]]] = [{} for _ in range(rows)]

    def untried(self, state: State, said: Tensor, written: Tensor, free: Tensor) -> Tensor:
        """What is said, but another token at one position of the rows that have looked like this before.

        Args:
            state: the step.
            said: (B, M) int64.
            written: (B, M) bool, where it is obeyed.
            free: (B,) bool, rows in which this isn't the last step.
        """
        x = state.tokens.gather(1, state.columns)
        said, p = said.clone(), state.probability
        for row in (self.active & written.any(1)).nonzero()[:, 0].tolist():
            key, tried = tuple(x[row][state.valid[row]].tolist()), self.tried[row]
            changing = (written[row] & (said[row] != x[row])).nonzero()[:, 0]
            if key in self.seen[row] and bool(free[row]) and len(changing):
                at = int(changing[p[row, changing].argmin()])
                others = state.logits[row, at].clone()
                others[list(tried.get(at, ()))] = -torch.inf
                said[row, at] = others.argmax()
            self.seen[row].add(key)
            for at in written[row].nonzero()[:, 0].tolist():
                tried.setdefault(at, set()).add(int(said[row, at]))
        return said

"""Tokens of one step that a constraint must allow together.

Each of them was allowed by itself, given what was known before the step. So they are gone through from the surest to
the least sure, and each must be allowed given those before it; one that isn't is drawn again from what is. A token that
is kept or drawn again has exactly the constrained law given the surer ones: p(v) + p(not allowed) p(v) / p(allowed) =
p(v) / p(allowed).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llada.random import RowRandom
from llada.samplers.amount.amount import ranks
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.propose import Proposal
from llada.samplers.state import NOTHING, State


def agree(
    state: State,
    taken: Tensor,
    most: int | None,
    adjustments: Sequence[Adjustment],
    proposal: Proposal,
    random: RowRandom,
) -> State:
    """Draw tokens again until all that are taken hold together.

    Args:
        state: with the tokens that were drawn.
        taken: (B, M) bool, which of them the step writes.
        most: how many that is in a row at most, if it is known.
        adjustments: of the sampler; those that aren't joint have had their say.
        proposal: draws again.
        random: random streams of the rows.

    Returns:
        The state with other tokens drawn, and the logits from which they come. The surest of each row is never changed.
    """
    joint = [adjustment for adjustment in adjustments if adjustment.joint]
    most = int(taken.sum(1).max()) if joint and most is None else most
    if not joint or most is None or most < 2:
        return state
    order = ranks(state.probability, taken).argsort(dim=1)  # taken candidates, the surest first
    canvas, still_open, drawn, logits = state.tokens, state.open, state.drawn, state.logits.clone()
    broken = state.broken
    for rank in range(most):
        entry = order[:, rank : rank + 1]
        valid, column = taken.gather(1, entry), state.columns.gather(1, entry)
        one = replace(state, columns=column, valid=valid, tokens=canvas, open=still_open, broken=broken)
        index = entry[..., None].expand(-1, -1, logits.shape[-1])
        allowed = logits.gather(1, index)
        for adjustment in joint:
            allowed = adjustment(allowed, one)
        again = proposal(allowed, one, random=random.fold_in(rank))
        broken = again.broken
        now = drawn.gather(1, entry)
        fits = allowed.gather(-1, now[..., None]).squeeze(-1) > -torch.inf
        now = torch.where(fits | ~valid, now, again.drawn)
        logits.scatter_(1, index, torch.where(valid[..., None], again.logits, logits.gather(1, index)))
        drawn = drawn.scatter(1, entry, now)
        canvas = canvas.scatter(1, column, torch.where(valid, now, canvas.gather(1, column)))
        still_open = still_open.scatter(1, column, still_open.gather(1, column) & ~valid)
    return replace(state, drawn=drawn, logits=logits, broken=broken, top=NOTHING)

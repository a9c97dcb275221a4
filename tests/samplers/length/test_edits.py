"""Columns that come and go, against lists that are edited in plain Python; and what caches keep."""

import random

import pytest
import torch
from torch import Tensor

from examples.compositions import MASK, PROCESS, network
from llada.denoiser import as_denoiser
from llada.process import Edit
from llada.random import RowRandom
from llada.samplers import (
    DelayedCache,
    DualCache,
    ExactCache,
    IntervalCache,
    NoCache,
    PrefixCache,
    State,
    VicinityCache,
)
from llada.samplers.caches.policy import CachePolicy, OpenCache
from llada.samplers.guidance import Guidance
from llada.samplers.propose import Proposal
from llada.samplers.run import Run

ROWS, LENGTH = 5, 9


def drawn(dice: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """A mask of real tokens in one piece, deletions and insertions."""
    real, delete = torch.zeros(ROWS, LENGTH).bool(), torch.zeros(ROWS, LENGTH).bool()
    insert = torch.zeros(ROWS, LENGTH + 1).long()
    for row in range(ROWS):
        start, stop = sorted(dice.sample(range(LENGTH + 1), 2))
        real[row, start:stop] = True
        for column in range(LENGTH):
            delete[row, column] = dice.random() < 0.3
            insert[row, column] = dice.choice([0, 0, 0, 1, 3])
        insert[row, LENGTH] = dice.choice([0, 2])
    return real, delete, insert


def test_an_edit_is_that_of_a_list() -> None:
    dice = random.Random(0)
    for _ in range(60):
        real, delete, insert = drawn(dice)
        edit = Edit.of(real, delete, insert)
        moved = edit(torch.arange(LENGTH).expand(ROWS, -1), -7, -9)
        for row in range(ROWS):
            where = real[row].nonzero()[:, 0].tolist()
            start, stop = where[0], where[-1] + 1
            expected = list(range(start)) + [-7] * int(insert[row, :start].sum())
            for column in where:
                expected += [-7] * int(insert[row, column]) + [column] * (not delete[row, column])
            expected += [-7] * int(insert[row, stop:].sum())
            assert edit.real[row].tolist() == [start <= i < len(expected) for i in range(edit.real.shape[1])]
            assert moved[row].tolist() == expected + [-9] * (edit.real.shape[1] - len(expected))
            assert edit.inserted[row].tolist() == [token == -7 for token in moved[row].tolist()]
            same = [token == i for i, token in enumerate(moved[row].tolist())]
            assert int(edit.first[row]) == (same.index(False) if False in same else len(same))
        assert edit.real.any(0)[-1] or not edit.real.any(), "wider than the longest row"
        twice = edit.repeat(2, 2)
        assert torch.equal(twice.source[[0, 1, 2 * ROWS]], edit.source[[0, 0, 0]])


def test_what_is_no_edit() -> None:
    real = torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match="the number of inserted columns must be 0 or more; got -1"):
        Edit.of(real, insert=torch.full((2, 4), -1))
    with pytest.raises(ValueError, match=r"insert \(2, 4\)"):
        Edit.of(real, insert=torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="padding between its tokens"):
        Edit.of(torch.tensor([[True, False, True]]))


def asked(cache: OpenCache, tokens: Tensor, where: Tensor, mask: Tensor) -> Tensor:
    return cache.logits(tokens, where, attention_mask=mask)


def begun(policy: CachePolicy, model: torch.nn.Module, tokens: Tensor, mask: Tensor) -> Run:
    cache = policy.open(as_denoiser(model), torch.zeros(len(tokens)).long(), tokens.shape[1], {})
    return Run(cache, cache, (), Proposal(), {"attention_mask": mask}, Guidance())


TOKENS = torch.tensor([[0, 0, 4, 5, 6, 7, MASK, 9], [1, 2, 3, 4, MASK, MASK, 7, 8], [3, 3, 9, 1, 2, MASK, 6, 5]])
REAL = torch.tensor([[False, False, *[True] * 6], [True] * 8, [True] * 8])
DELETE = torch.zeros(3, 8).bool()
INSERT = torch.zeros(3, 9).long()
DELETE[1, 5], INSERT[1, 4], INSERT[0, 7], INSERT[0, 8] = True, 2, 1, 1


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("policy", [NoCache(), PrefixCache(), DualCache()], ids=str)
@pytest.mark.parametrize("begin", [4, 6])
def test_a_cache_computes_what_an_edit_has_touched(begin: int, policy: CachePolicy, shift: bool) -> None:
    """What it then says of the rows equals a cache on the new canvas that computes from the same columns on.

    So it is where an edit lies to the left of the next window.

    Nothing is written between, so the keys of the columns on the left are those of the old canvas: not what a full pass
    over the new one would give, except for the row that nothing has touched.
    """
    model = network((("shift", shift),))
    run = begun(policy, model, TOKENS, REAL)
    state = State.begin(PROCESS, TOKENS, None, RowRandom.from_seed(0, 3), REAL)
    run.cache.begin_windows([6, 4, 5], [8, 6, 6], [True] * 3)
    asked(run.cache, state.tokens, torch.tensor([[6], [4], [5]]), REAL)
    edit = Edit.of(REAL, DELETE, INSERT)
    state = state.moved(edit, 0)
    run = run.moved(edit, state)
    assert state.tokens.tolist()[1] == [1, 2, 3, 4, MASK, MASK, MASK, 7, 8, 0]
    assert state.open[0].tolist() == [False] * 6 + [True, True, False, True]
    run.cache.begin_windows([6, begin, 5], [9, 7, 6], [False] * 3)
    where = torch.tensor([[6, 7], [begin, 6], [5, 5]])
    found = asked(run.cache, state.tokens, where, edit.real)
    whole = model(state.tokens, attention_mask=edit.real).gather(1, where[..., None].expand(-1, -1, 24))
    same = [torch.allclose(a, b, atol=1e-9) for a, b in zip(found, whole, strict=True)]
    assert same == ([True] * 3 if isinstance(policy, NoCache) else [False, False, True])
    kept = by_hand(policy, model, edit, state)
    torch.testing.assert_close(found, kept.gather(1, where[..., None].expand(-1, -1, 24)))


def by_hand(policy: CachePolicy, model: torch.nn.Module, edit: Edit, state: State) -> Tensor:
    """Logits of the new canvas, row by row and without padding, where old keys stand in front of the first edit."""
    if isinstance(policy, NoCache):
        return model(state.tokens, attention_mask=edit.real)
    logits = torch.zeros(*state.tokens.shape, 24, dtype=torch.float64)
    for row, start in enumerate((6, 4, 5)):
        old, new = REAL[row].nonzero()[:, 0], edit.real[row].nonzero()[:, 0]
        store = model.new_cache(1, len(old))
        model.hidden(TOKENS[row][old][None], cache=store, region=slice(0, len(old)))
        grown = model.new_cache(1, len(new))
        begin = start - int(old[0]) - store.lead
        for mine, theirs in ((grown.keys, store.keys), (grown.values, store.values)):
            for layer in range(len(mine)):
                mine[layer][:, :, :begin] = theirs[layer][:, :, :begin]
        if row == 2 and isinstance(policy, DualCache):  # nothing has moved there, so that only the window is computed
            grown, stop = store, 6
        else:
            stop = len(new)
        part = state.tokens[row][new][None, begin:stop]
        hidden = model.hidden(part, cache=grown, region=slice(begin, stop))
        at = new[begin:stop] + store.lead
        inside = at < logits.shape[1]
        logits[row, at[inside]] = model.head(hidden)[0][inside]
    return logits


def test_a_cache_that_is_not_told_who_asks_warms_up_by_every_call() -> None:
    model = network(())
    cache = VicinityCache(None, 2, 0).open(as_denoiser(model), torch.zeros(1).long(), 8, {})
    cache.begin_windows([6], [8], [True])
    for call in range(4):
        tokens = torch.tensor([[call + 1, 2, 3, 4, 5, 6, MASK, MASK]])
        found, full = cache.logits(tokens, torch.tensor([[6, 7]])), model(tokens)[:, 6:]
        assert torch.allclose(found, full, atol=1e-9) == (call < 2)


def test_what_rows_share_is_computed_anew() -> None:
    model = network(())
    edit = Edit.of(REAL, DELETE, INSERT)
    state = State.begin(PROCESS, TOKENS, None, RowRandom.from_seed(0, 3), REAL).moved(edit, 0)
    where = torch.tensor([[6, 7], [4, 6], [5, 5]])
    whole = model(state.tokens, attention_mask=edit.real).gather(1, where[..., None].expand(-1, -1, 24))
    for policy in (DelayedCache(None), IntervalCache(9, 9, 0.3)):
        run = begun(policy, model, TOKENS, REAL)
        run.cache.begin_step(TOKENS == MASK, 2)
        asked(run.cache, TOKENS, torch.tensor([[6], [4], [5]]), REAL)
        moved = run.moved(edit, state)
        moved.cache.begin_step(state.open, 4)
        torch.testing.assert_close(asked(moved.cache, state.tokens, where, edit.real), whole)


def test_an_exact_cache_forgets_from_the_edited_block_on() -> None:
    model = network((("block_length", 4),))
    tokens = torch.tensor([[5, 6, 7, 8, 1, 2, 3, 4, MASK, MASK, MASK, MASK]])
    real = torch.ones_like(tokens).bool()
    run = begun(ExactCache(), model, tokens, real)
    run.cache.begin_window(8, 12)
    asked(run.cache, tokens, torch.tensor([[8, 9]]), real)
    delete = torch.zeros_like(real)
    delete[0, 5] = True
    edit = Edit.of(real, delete, torch.tensor([[0] * 12 + [1]]))
    state = State.begin(PROCESS, tokens, None, RowRandom.from_seed(0, 1)).moved(edit, 0)
    run = run.moved(edit, state)
    run.cache.begin_window(8, 12)
    where = torch.tensor([[8, 11]])
    found = asked(run.cache, state.tokens, where, edit.real)
    torch.testing.assert_close(found, model(state.tokens)[:, [8, 11]])


def test_a_cache_that_cannot_follow_says_so() -> None:
    class Own(OpenCache):
        def begin_window(self, start: int, stop: int) -> None:
            return

        def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: object) -> Tensor:
            return tokens.double()

    with pytest.raises(ValueError, match="Own can't follow a canvas whose columns move"):
        Own().move(Edit.of(REAL))
    with pytest.raises(ValueError, match="Own wants all rows to be in one window"):
        Own().begin_windows([0], [1], [True])

"""What holds for every sampler, over random canvases."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import (
    BacktrackingSampler,
    Blocks,
    CosineQuota,
    EditingSampler,
    PlanningSampler,
    Quota,
    Sampler,
    SpeculativeSampler,
    Step,
    UnmaskingSampler,
    VerifyingSampler,
    WholeCanvas,
    Window,
)
from llada.samplers.layout import share_steps
from tests.helpers import ALL_SAMPLERS

VOCABULARY, MASK, LENGTH = 12, 11, 12
PROCESS = MaskingProcess(MASK)


@cache
def model() -> BidirectionalTransformer:
    torch.manual_seed(0)
    made = BidirectionalTransformer(VOCABULARY, width=16, num_layers=2, num_heads=2).double().eval()
    for parameter in made.parameters():  # far from the initialisation, so that what is visible matters
        parameter.data.mul_(2.5)
    return made


ROW = st.lists(st.integers(0, VOCABULARY - 1) | st.just(MASK), min_size=1, max_size=LENGTH)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of 1 to 12 tokens, made longer by masks to a multiple of 4, and padded on the left."""
    rows = [row + [MASK] * (-len(row) % 4) for row in rows]
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, mask


@st.composite
def canvases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """One to three rows, about half of which are masks, at any place."""
    return padded(draw(st.lists(ROW, min_size=1, max_size=3)))


def row(seed: int) -> list[int]:
    """As `ROW`."""
    draw = torch.Generator().manual_seed(seed)
    length, share = int(torch.randint(1, LENGTH + 1, (), generator=draw)), float(torch.rand((), generator=draw))
    tokens = torch.randint(VOCABULARY - 1, (length,), generator=draw)
    return tokens.where(torch.rand(length, generator=draw) < share, MASK).tolist()


EDGES = [[MASK], [3] * 8, [MASK] * 12, [*range(4), *[MASK] * 8], [*[MASK] * 8, *range(4)], [MASK, 5] * 6]
"""Rows without a mask, of nothing else, with all of them on one side, and in turn."""
WIDE = [padded([*EDGES, *map(row, range(4))]), padded([row(6)])]
"""Many rows side by side, which cost hardly more than one."""


def most_calls(sampler: Sampler, masks: int) -> int:
    """What a sampler promises: its steps, and no more calls than masks where a step that writes nothing is free."""
    if isinstance(sampler, EditingSampler):
        return masks + (LENGTH // 4) * sampler.max_edits
    if isinstance(sampler, SpeculativeSampler):
        return masks
    if isinstance(sampler, PlanningSampler):
        return masks if sampler.steps is None else sampler.steps  # a step may take back as many as it writes
    if isinstance(sampler, BacktrackingSampler | VerifyingSampler):
        return masks  # a step takes fewer back than are written
    assert isinstance(sampler, UnmaskingSampler)
    if sampler.amount.steps is None:  # on a grid of coins, a step may find nothing to write
        return masks
    known = sampler.amount.most(1, 0, 1) is not None  # empty steps are known to be empty, and skipped
    blind = sampler.order.blind and not sampler.rates.remasks
    return min(sampler.amount.steps, masks) if known or blind else sampler.amount.steps


def run(sampler: Sampler, tokens: Tensor, mask: Tensor, seed: int | Tensor = 3) -> list[Step]:
    return list(sampler.iterate(model(), tokens, PROCESS, seed=seed, attention_mask=mask))


@pytest.mark.parametrize("name", ALL_SAMPLERS)
@pytest.mark.parametrize("made", WIDE, ids=lambda made: f"{len(made[0])} rows")
def test_masks_are_filled_and_nothing_else_changes(name: str, made: tuple[Tensor, Tensor]) -> None:
    sampler = ALL_SAMPLERS[name]
    tokens, mask = made
    before, fillable = tokens.clone(), PROCESS.is_masked(tokens)
    steps = run(sampler, tokens, mask)
    assert torch.equal(tokens, before)  # the input isn't edited
    calls = torch.zeros(len(tokens), dtype=torch.int64)
    previous = tokens
    for step in steps:
        assert torch.equal(step.tokens[~fillable], tokens[~fillable])
        assert not (step.changed & ~fillable).any()
        assert torch.equal(step.tokens[~step.changed], previous[~step.changed])
        assert ((step.calls - calls >= 0) & (step.calls - calls <= 1)).all()
        known = step.confidence[~step.confidence.isnan()]
        assert ((known >= 0) & (known <= 1 + 1e-6)).all()
        calls, previous = step.calls, step.tokens
    sample = sampler(model(), tokens, PROCESS, seed=3, attention_mask=mask)
    assert torch.equal(sample.tokens, previous)
    assert not PROCESS.is_masked(sample.tokens).any()
    assert torch.equal(sample.calls, calls)
    assert torch.equal(sample.generated, fillable.sum(1))
    for count, masks in zip(calls.tolist(), fillable.sum(1).tolist(), strict=True):
        assert count <= most_calls(sampler, masks)
        assert (count > 0) == (masks > 0)


@pytest.mark.parametrize("name", ALL_SAMPLERS)
def test_the_same_seed_gives_the_same_row_in_any_batch(name: str) -> None:
    sampler = ALL_SAMPLERS[name]
    tokens, mask = WIDE[0]
    seeds = torch.arange(len(tokens)) * 7 + 1
    together = sampler(model(), tokens, PROCESS, seed=seeds, attention_mask=mask)
    order = torch.arange(len(tokens)).flip(0)
    turned = sampler(model(), tokens[order], PROCESS, seed=seeds[order], attention_mask=mask[order])
    assert torch.equal(turned.tokens[order], together.tokens)
    edges = range(len(EDGES))
    for rows in (*([row] for row in edges), list(range(len(edges), len(tokens)))):  # alone, or fewer side by side
        begin = int(mask[rows].int().argmax(1).min())
        valid = None if len(rows) == 1 else mask[rows, begin:]
        fewer = sampler(model(), tokens[rows, begin:], PROCESS, seed=seeds[rows], attention_mask=valid)
        assert torch.equal(fewer.tokens, together.tokens[rows, begin:])
        assert torch.equal(fewer.calls, together.calls[rows])


@pytest.mark.parametrize("steps", [3, 5, 8, 20, None])
@pytest.mark.parametrize("window", [WholeCanvas(), Blocks(4), Blocks(5)], ids=str)
@settings(max_examples=6)
@given(canvases())
def test_quota_sums(window: Window, steps: int | None, made: tuple[Tensor, Tensor]) -> None:
    """Every block writes, in each of its steps, n // S tokens and one more in the first n mod S."""
    tokens, mask = made
    written = [step.changed for step in run(UnmaskingSampler(Quota(steps), window=window), tokens, mask)]
    for row in range(len(tokens)):
        masked = PROCESS.is_masked(tokens[row])
        spans = window.spans(int(masked.int().argmax()), tokens.shape[1])
        numbers = [int(masked[start:stop].sum()) for start, stop in spans]
        expected: list[int] = []
        for count, share in zip(numbers, share_steps(steps, numbers), strict=True):
            expected += [count // share + (k < count % share) for k in range(share)]
        counts = [int(changed[row].sum()) for changed in written]
        assert [c for c in counts if c] == [c for c in expected if c]
        assert sum(counts) == int(masked.sum())


@pytest.mark.parametrize("kind", [Quota, CosineQuota])
@settings(max_examples=16, deadline=None, derandomize=True)
@given(canvases(), st.sampled_from([0, 0, 3, None]), st.integers(1, 9) | st.none())
def test_as_many_steps_as_masks_write_one_each(
    kind: type[Quota] | type[CosineQuota], made: tuple[Tensor, Tensor], enough: int | None, size: int | None
) -> None:
    """Over lengths, blocks that don't divide them, and gaps anywhere."""
    tokens, mask = made
    masks = PROCESS.is_masked(tokens).sum(1)
    steps = None if enough is None else max(1, int(masks.max()) + enough)
    window = WholeCanvas() if size is None else Blocks(size)
    sampler = UnmaskingSampler(kind(steps), window=window)
    counts = torch.stack([torch.zeros_like(masks), *(step.changed.sum(1) for step in run(sampler, tokens, mask))])
    assert int(counts.max()) <= 1
    assert torch.equal(counts.sum(0), masks)


@pytest.mark.parametrize("name", ALL_SAMPLERS)
def test_no_row_and_no_mask_are_no_work(name: str) -> None:
    sampler = ALL_SAMPLERS[name]
    full = torch.arange(8)[None]
    sample = sampler(model(), full, PROCESS)
    assert torch.equal(sample.tokens, full)
    assert sample.tokens is not full
    assert sample.calls.tolist() == [0]
    assert sample.tokens_per_call.tolist() == [0.0]


@pytest.mark.parametrize("name", [n for n, s in ALL_SAMPLERS.items() if "cache" not in n])
def test_a_bare_callable_is_a_model(name: str) -> None:
    torch.manual_seed(1)
    table = torch.randn(VOCABULARY, VOCABULARY)

    def bare(tokens: Tensor, attention_mask: Tensor | None = None, shadow: Tensor | None = None) -> Tensor:
        return table[tokens.roll(1, 1)]

    tokens = torch.full((2, LENGTH), MASK)
    tokens[:, 0] = torch.tensor([1, 4])
    sample = ALL_SAMPLERS[name](bare, tokens, PROCESS)
    assert not PROCESS.is_masked(sample.tokens).any()
    assert sample.tokens[:, 0].tolist() == [1, 4]

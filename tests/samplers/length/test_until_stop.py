"""Masks that are appended until a text has ended, against the same sampler on the longest canvas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.compositions import MASK, PROCESS, network
from llada.samplers import (
    AllowLists,
    Blocks,
    Credit,
    DelayedCache,
    DualCache,
    EditingSampler,
    ExactCache,
    Guidance,
    IntervalCache,
    NextToken,
    NoCache,
    PerStep,
    PrefixCache,
    Proposal,
    Quota,
    Sampler,
    SpeculativeSampler,
    Stability,
    Threshold,
    UnmaskingSampler,
    UntilStop,
    VicinityCache,
    WholeCanvas,
    canvas,
)

STOPS = tuple(range(2, 23, 2))
ODD = (5, 11, 7, 13)
PROMPTS = [[1, 7, 3, 9, 5, 6, 2, 8], [4, 3, 9, 1], []]
DRAWN = Proposal(temperature=1.0)


def made(masks: int, prompts: list[list[int]] = PROMPTS) -> tuple[Tensor, Tensor]:
    return canvas(prompts, masks, mask_token_id=MASK, pad_token_id=0)[:2]


def causal(block_length: int = 4) -> Any:
    return network((("block_length", block_length),))


BLOCKWISE: dict[str, Sampler] = {
    "drawn": UnmaskingSampler(PerStep(2), window=Blocks(4, from_start=True), proposal=DRAWN),
    "quota": UnmaskingSampler(Quota(9), window=Blocks(4, from_start=True), proposal=DRAWN),
    "exact cache": UnmaskingSampler(
        Threshold(0.2), window=Blocks(4, from_start=True), proposal=DRAWN, cache=ExactCache()
    ),
    "editing": EditingSampler(0.3, 0.2, 2, proposal=DRAWN, window=Blocks(4, from_start=True), cache=ExactCache()),
    "guided": UnmaskingSampler(
        PerStep(2), window=Blocks(4, from_start=True), guidance=Guidance(0.5), cache=ExactCache(), proposal=DRAWN
    ),
    "smaller blocks": UnmaskingSampler(PerStep(1), window=Blocks(2), proposal=DRAWN),
}


@pytest.mark.parametrize(("name", "first"), [*((name, 4) for name in BLOCKWISE), ("drawn", 8), ("editing", 6)])
def test_a_block_causal_model_writes_what_it_would_on_the_longest_canvas(name: str, first: int) -> None:
    sampler, model, early = BLOCKWISE[name], causal(), 0
    for seed in (0, 1, 2):
        short, mask = made(first)
        grown = UntilStop(sampler, STOPS, 16)(model, short, PROCESS, seed=seed, attention_mask=mask)
        long, long_mask = made(16)
        whole = sampler.stopping(STOPS)(model, long, PROCESS, seed=seed, attention_mask=long_mask)
        width = grown.tokens.shape[1]
        assert torch.equal(grown.tokens, whole.tokens[:, :width])
        assert torch.equal(grown.calls, whole.calls)
        assert bool((whole.tokens[:, width:] == STOPS[0]).all())
        assert torch.equal(grown.given[:, :8], ~mask[:, :8] | (short[:, :8] != MASK))
        assert not grown.given[:, 8:].any()
        assert torch.equal(grown.attention_mask, long_mask[:, :width])
        early += width < long.shape[1]
    assert early, "nothing ended early: the test is blind"


def test_the_longest_canvas_ends_where_it_must() -> None:
    never = UnmaskingSampler(PerStep(3), window=Blocks(4))
    for most, length in ((3, 12), (9, 17), (10, 18), (13, 21)):
        short, mask = made(4)
        sample = UntilStop(never, 12, most)(causal(), short, PROCESS, attention_mask=mask)
        assert sample.tokens.shape[1] == length
        assert not (sample.tokens == MASK).any()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_from_left_to_right_it_is_the_longest_canvas_too(temperature: float, cached: bool) -> None:
    model = network((("causal", True), ("shift", True)))
    sampler = NextToken(temperature, cached=cached)
    short, mask = made(3, PROMPTS[:2])
    long, long_mask = made(20, PROMPTS[:2])
    grown = UntilStop(sampler, STOPS, 16)(model, short, PROCESS, seed=4, attention_mask=mask)
    whole = sampler.stopping(STOPS)(model, long, PROCESS, seed=4, attention_mask=long_mask)
    assert torch.equal(grown.tokens, whole.tokens[:, : grown.tokens.shape[1]])
    assert torch.equal(grown.calls, whole.calls)
    assert grown.tokens.shape[1] < whole.tokens.shape[1]


def by_hand(sampler: UnmaskingSampler, model: Any, prompt: list[int], most: int, ahead: int, seed: int) -> list[int]:
    """Block after block, each on a canvas of its own."""
    row, size = list(prompt), 4
    while len(row) - len(prompt) < most:
        length = min(len(row) + size * (1 + ahead), len(prompt) + most)
        tokens = torch.tensor([[*row, *[MASK] * (length - len(row))]])
        given = torch.ones_like(tokens).bool()
        given[:, len(row) : len(row) + size] = False
        row += sampler(model, tokens, PROCESS, given=given, seed=seed).tokens[0, len(row) : len(row) + size].tolist()
        if not set(ODD).isdisjoint(row[len(prompt) :]):
            break
    return row


CACHES = [
    NoCache(),
    PrefixCache(),
    DualCache(),
    VicinityCache(warm_up=1, radius=2),  # a run warms up once, and by hand each block is a run
    PrefixCache(refresh=2),
    DelayedCache(3),
    IntervalCache(1, 1, 1.0),
]


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_other_models_see_as_many_masks_as_at_first(cache: Any) -> None:
    """Every cache makes a full pass when a window is opened, so that one which is opened anew is as good."""
    for ahead in (0, 1):
        model = network((("shift", bool(ahead)),))
        sampler = UnmaskingSampler(PerStep(1), window=Blocks(4), cache=cache)
        short, mask = made(4 * (1 + ahead))
        grown = UntilStop(sampler, ODD, 16)(model, short, PROCESS, attention_mask=mask)
        for row, prompt in enumerate(PROMPTS):
            text = grown.tokens[row][mask[row].logical_not().sum() :].tolist()
            alone = by_hand(sampler, model, prompt, 16, ahead, 0)
            assert text[: len(alone)] == alone
            assert set(text[len(alone) :]) <= {ODD[0]}


def test_what_cannot_grow_says_so() -> None:
    for sampler, reason in (
        (UnmaskingSampler(), "WholeCanvas can't follow"),
        (SpeculativeSampler(window=Blocks(4)), "SpeculativeSampler with Blocks can't follow"),
        (UnmaskingSampler(PerStep(1), window=Blocks(4), adjustments=(Credit(),)), "Credit looks at"),
        (UnmaskingSampler(PerStep(1), window=Blocks(4), adjustments=(AllowLists({9: [1]}),)), "AllowLists looks at"),
        (UnmaskingSampler(Stability(), window=Blocks(4)), "Stability looks at"),
    ):
        with pytest.raises(ValueError, match=reason):
            UntilStop(sampler, 2, 8)
    blocks = UnmaskingSampler(PerStep(1), window=Blocks(4))
    with pytest.raises(ValueError, match="a token that ends it"):
        UntilStop(blocks, None, 8)
    with pytest.raises(ValueError, match="max_new_tokens must be 1 or more; got 0"):
        UntilStop(blocks, 2, 0)
    with pytest.raises(ValueError, match="no early stop"):
        UnmaskingSampler(window=WholeCanvas()).stopping(2)
    tokens, mask = made(4)
    tokens[0, -1] = 3
    with pytest.raises(ValueError, match="every row must end with at least one mask"):
        UntilStop(blocks, 2, 8)(causal(), tokens, PROCESS, attention_mask=mask)
    tokens, mask = made(4)
    with pytest.raises(ValueError, match="rows of up to 38 tokens, and the model takes 20; ask for at most 12"):
        UntilStop(blocks, 2, 30)(network((("max_length", 20),)), tokens, PROCESS, attention_mask=mask)
    with pytest.raises(ValueError, match="its canvas grows"):
        UntilStop(blocks, 2, 8).likelihood(causal(), tokens, PROCESS)


def test_columns_of_other_arguments_are_not_made_up() -> None:
    tokens, mask = made(4)
    sampler = UntilStop(UnmaskingSampler(PerStep(1), window=Blocks(4)), 12, 12)

    def model(tokens: Tensor, attention_mask: Tensor, segment_ids: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 24)

    with pytest.raises(ValueError, match="nothing is known of segment_ids"):
        sampler(model, tokens, PROCESS, attention_mask=mask, segment_ids=tokens)


def test_it_is_a_sampler_like_the_one_inside() -> None:
    final = UntilStop(NextToken(), 2, 8)
    assert final.is_final
    assert final.left_to_right
    editing = UntilStop(EditingSampler(), 2, 8)
    assert not editing.is_final
    inner = UnmaskingSampler(PerStep(1), window=Blocks(4))
    assert replace(UntilStop(inner, 2, 8), max_new_tokens=9).sampler == inner

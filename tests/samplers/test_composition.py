"""Guidance, constraints and caches mean the same in every sampler, and early stops give the same text."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import (
    Adjustment,
    AllowLists,
    Blocks,
    Confidence,
    Credit,
    DelayedCache,
    Demote,
    DualCache,
    EditingSampler,
    ExactCache,
    Guidance,
    IntervalCache,
    NegativeEntropy,
    PerStep,
    PrefixCache,
    Proposal,
    Sliding,
    SpeculativeSampler,
    State,
    Threshold,
    UnmaskingSampler,
    VicinityCache,
    WholeCanvas,
    canvas,
)

PROCESS = MaskingProcess(mask_token_id=31)
PROMPTS = [[3, 9, 4, 1, 22, 8], [5, 6, 7], [12, 13, 31, 2, 9]]
WORDS = AllowLists({7: (4, 5), 9: (6,), 12: (1, 2, 3)})
COMPOSED: dict[str, dict[str, Any]] = {
    "guided": {"guidance": Guidance(1.5)},
    "words": {"adjustments": (WORDS,)},
    "words in blocks, guided": {"adjustments": (WORDS,), "guidance": Guidance(0.7), "window": Blocks(5)},
    "forbidden and demoted": {"proposal": Proposal(suppress_tokens=(4, 9, 17)), "order": Demote(Confidence(), (3, 22))},
    "entropy": {"order": NegativeEntropy(), "guidance": Guidance(1.0), "window": Blocks(8, stop_token_ids=17)},
    "dual": {"cache": DualCache(), "window": Blocks(8)},
    "dual, fresh": {"cache": DualCache(refresh=1), "window": Blocks(5)},
    "prefix, guided, words": {
        "cache": PrefixCache(),
        "window": Blocks(4, stop_token_ids=17),
        "guidance": Guidance(1.0),
        "adjustments": (WORDS,),
    },
    "vicinity": {"cache": VicinityCache(warm_up=1, radius=3), "window": Blocks(6)},
}


def build(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(3)
    model = BidirectionalTransformer(32, width=32, num_layers=2, num_heads=2, **options).double().eval()
    for parameter in model.parameters():  # far from the initialisation, where what is visible matters little
        parameter.data.mul_(2.5)
    return model


def batch() -> tuple[Tensor, Tensor]:
    return canvas(PROMPTS, 16, mask_token_id=31, pad_token_id=0)[:2]


@pytest.mark.parametrize("guesses", [1, 4])
@pytest.mark.parametrize("name", COMPOSED)
def test_speculation_is_step_by_step_decoding_of_the_same_parts(name: str, guesses: int) -> None:
    tokens, mask = batch()
    plain = UnmaskingSampler(PerStep(1), **COMPOSED[name])(build(), tokens, PROCESS, attention_mask=mask)
    fast = SpeculativeSampler(guesses, **COMPOSED[name])(build(), tokens, PROCESS, attention_mask=mask)
    assert torch.equal(fast.tokens, plain.tokens)
    assert (fast.calls <= plain.calls).all()
    assert (fast.calls < plain.calls).any()


@pytest.mark.parametrize("shift", [False, True])
def test_speculation_with_the_exact_cache(shift: bool) -> None:
    model, window = build(block_length=4, shift=shift), Blocks(4, from_start=True)
    tokens, mask, _ = canvas([[1] * 8, [2, 3, 4, 5]], 16, mask_token_id=31, pad_token_id=0)
    plain = UnmaskingSampler(PerStep(1), window=window)(model, tokens, PROCESS, attention_mask=mask)
    for cache in (ExactCache(), DualCache(refresh=1)):
        fast = SpeculativeSampler(3, window=window, cache=cache)(model, tokens, PROCESS, attention_mask=mask)
        assert torch.equal(fast.tokens, plain.tokens)
        assert (fast.calls < plain.calls).all()


def test_a_cached_call_runs_its_block_only() -> None:
    model, seen = build(), []
    tokens, mask = batch()
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    SpeculativeSampler(3, window=Blocks(8), cache=DualCache())(model, tokens, PROCESS, attention_mask=mask)
    assert {shape[0] for shape in seen} == {12}  # four states of three rows
    assert sorted(shape[1] for shape in seen)[-3:] == [22, 22, 22]  # a full pass for each window, of which one is begun
    assert {shape[1] for shape in seen} == {8, 22}


@pytest.mark.parametrize("name", [n for n in COMPOSED if "demoted" not in n and n != "entropy"])
def test_editing_that_edits_nothing_is_the_threshold_rule(name: str) -> None:
    tokens, mask = batch()
    parts = {"window": WholeCanvas(), **COMPOSED[name]}
    plain = UnmaskingSampler(Threshold(0.5), **parts)(build(), tokens, PROCESS, attention_mask=mask)
    edited = EditingSampler(0.5, 1.1, max_edits=0, **parts)(build(), tokens, PROCESS, attention_mask=mask)
    assert torch.equal(plain.tokens, edited.tokens)
    assert torch.equal(plain.calls, edited.calls)


@pytest.mark.parametrize(
    ("cache", "same"),
    [
        (DualCache(refresh=1), True),
        (PrefixCache(refresh=1), True),
        (IntervalCache(1, 1), True),
        (DualCache(), False),
        (IntervalCache(), False),
    ],
    ids=str,
)
def test_editing_with_a_cache(cache: DualCache, same: bool) -> None:
    tokens, mask = batch()
    sampler = EditingSampler(0.5, 0.3, window=Blocks(8), adjustments=(WORDS,), max_edits=6)
    plain = list(sampler.iterate(build(), tokens, PROCESS, attention_mask=mask))
    steps = list(replace(sampler, cache=cache).iterate(build(), tokens, PROCESS, attention_mask=mask))
    written = torch.zeros_like(tokens)
    for step in plain:
        written += step.changed
    assert written.max() > 1  # something was edited
    assert torch.equal(steps[-1].tokens, plain[-1].tokens) == same
    for row, padding in enumerate((0, 3, 1)):
        assert steps[-1].tokens[row, padding + 9] == 6
        assert steps[-1].tokens[row, padding + 7] in (4, 5)


def test_editing_a_block_causal_model_with_the_exact_cache() -> None:
    model, tokens = build(block_length=4), canvas([[1] * 8], 16, mask_token_id=31, pad_token_id=0).tokens
    sampler = EditingSampler(0.5, 0.3, window=Blocks(4, from_start=True), max_edits=6)
    plain = sampler(model, tokens, PROCESS)
    cached = replace(sampler, cache=ExactCache())(model, tokens, PROCESS)
    assert torch.equal(plain.tokens, cached.tokens)
    assert torch.equal(plain.calls, cached.calls)


def test_a_sliding_window_stops_early_with_the_same_text() -> None:
    tokens, mask = batch()
    fillable, saved = PROCESS.is_masked(tokens), 0
    sampler = UnmaskingSampler(PerStep(2), window=Sliding(5), proposal=Proposal(2.0))
    full = sampler(build(), tokens, PROCESS, attention_mask=mask, seed=1)
    for stop in full.tokens[fillable].unique().tolist():
        short = replace(sampler, window=Sliding(5, stop_token_ids=stop))
        early = short(build(), tokens, PROCESS, attention_mask=mask, seed=1)
        written = (full.tokens == stop) & fillable
        until = torch.where(written.any(1), written.int().argmax(1), tokens.shape[1])[:, None]
        differs = early.tokens != full.tokens
        assert not (differs & (torch.arange(tokens.shape[1]) <= until)).any()
        assert (early.tokens[differs] == stop).all()
        assert ((early.calls < full.calls) | ~differs.any(1)).all()
        saved += int((full.calls - early.calls).sum())
    assert saved > 0


def test_a_stop_saves_calls_in_a_sliding_window() -> None:
    """The model writes its column's number; the row ends with the first stop token that has nothing open before it."""
    tokens, logits = torch.full((1, 12), 31), torch.eye(32)[:12]

    def model(x: Tensor) -> Tensor:
        return logits[None].expand(len(x), -1, -1) * 9.0

    sample = UnmaskingSampler(PerStep(2), window=Sliding(4, stop_token_ids=5))(model, tokens, PROCESS)
    assert sample.tokens.tolist() == [[0, 1, 2, 3, 4, *[5] * 7]]
    assert sample.calls.tolist() == [3]


@dataclass(frozen=True)
class Counting(Adjustment):
    """Remembers how often it was called."""

    def __call__(self, logits: Tensor, state: State) -> Tensor:
        return logits


class Joint(Counting):
    joint = True


def test_what_cannot_be_composed_is_refused_with_the_fix() -> None:
    for policy in (DelayedCache(), IntervalCache(), DualCache(refresh=3), VicinityCache()):
        with pytest.raises(ValueError, match=r"several steps at once; use NoCache\(\)"):
            SpeculativeSampler(cache=policy)
    with pytest.raises(ValueError, match=r"Credit remembers every step.*PerStep\(1\)"):
        SpeculativeSampler(adjustments=(Credit(),))
    with pytest.raises(ValueError, match=r"DelayedCache keeps the keys of written.*use NoCache\(\), DualCache\(\)"):
        EditingSampler(cache=DelayedCache())
    with pytest.raises(ValueError, match=r"Joint allows a token by what stands at other places.*UnmaskingSampler"):
        EditingSampler(adjustments=(Joint(),))
    for sampler in (EditingSampler, SpeculativeSampler):
        with pytest.raises(ValueError, match="from_start=True"):
            sampler(cache=ExactCache(), window=Blocks(4))
        with pytest.raises(ValueError, match="forbidden by the proposal"):
            sampler(proposal=Proposal(suppress_tokens=(6,)), adjustments=(WORDS,))

"""Limits in which two ways of decoding must agree, step by step and in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.noise import CosineSchedule
from llada.process import MaskingProcess
from llada.samplers import (
    Amount,
    Ancestral,
    Binomial,
    Blocks,
    CappedRemasking,
    Confidence,
    DreamFloor,
    EntropyBound,
    Factor,
    FirstHitting,
    Guidance,
    Hierarchy,
    LeftToRight,
    NegativeEntropy,
    PerStep,
    Proposal,
    Quota,
    RandomOrder,
    RescaledRemasking,
    Sampler,
    Sliding,
    Stability,
    Stochastic,
    TauLeaping,
    Threshold,
    UnmaskingSampler,
    canvas,
)

PROCESS = MaskingProcess(mask_token_id=31)
PROMPTS = [[3, 9, 4, 1, 22, 8], [5, 6, 7], [12, 13, 31, 2, 9]]
DRAWN = Proposal(temperature=0.9)


def model(scale: float = 2.5) -> BidirectionalTransformer:
    """Far from the initialisation, where what is visible matters little."""
    torch.manual_seed(3)
    made = BidirectionalTransformer(32, width=32, num_layers=2, num_heads=2).double().eval()
    for parameter in made.parameters():
        parameter.data.mul_(scale)
    return made


def history(sampler: Sampler, process: MaskingProcess = PROCESS, scale: float = 2.5) -> list[Tensor]:
    """The canvases, without those that repeat: a step of a remasking sampler may do nothing."""
    tokens, mask, _ = canvas(PROMPTS, 12, mask_token_id=31, pad_token_id=0)
    steps = sampler.iterate(model(scale), tokens, process, seed=4, attention_mask=mask)
    return [step.tokens for step in steps if step.changed.any()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


BASE = UnmaskingSampler(Quota(9), proposal=DRAWN)
RANDOM = UnmaskingSampler(Binomial(9), order=RandomOrder(), proposal=DRAWN)
SURE: list[Amount] = [
    PerStep(1),
    Threshold(1.01),
    Hierarchy(1.01, 1.01),
    Stability(1.01),
    Factor(1e-6),  # ever so little: the second best must be certain
]


def test_one_block_is_the_whole_canvas() -> None:
    assert same(history(BASE), history(replace(BASE, window=Blocks(18))))
    assert same(history(BASE), history(replace(BASE, window=Blocks(1000))))
    assert not same(history(BASE), history(replace(BASE, window=Blocks(9))))


@pytest.mark.parametrize("window", [Blocks(18), Blocks(6)], ids=str)
def test_guidance_of_zero_is_none(window: Blocks) -> None:
    plain = replace(BASE, window=window)
    assert same(history(plain), history(replace(plain, guidance=Guidance(0.0))))
    tiny = replace(plain, guidance=Guidance(1e-12))  # through the other branch
    assert same(history(plain), history(tiny))
    assert not same(history(plain), history(replace(plain, guidance=Guidance(4.0))))


def test_a_bar_that_none_can_reach_is_one_token_per_step() -> None:
    one = history(UnmaskingSampler(PerStep(1), proposal=DRAWN))
    assert len(one) == 13  # the fullest row has a mask in its prompt
    for amount in SURE:
        assert same(one, history(UnmaskingSampler(amount, proposal=DRAWN))), amount
    by_entropy = UnmaskingSampler(PerStep(1), order=NegativeEntropy(), proposal=DRAWN)
    assert same(history(by_entropy), history(replace(by_entropy, amount=EntropyBound(0.0))))


def test_a_bar_that_all_reach_is_one_step() -> None:
    for amount in (Threshold(0.0), Hierarchy(0.0, 0.0), Factor(1e6), Quota(1), DreamFloor(1)):
        assert len(history(UnmaskingSampler(amount, proposal=DRAWN))) == 1, amount
    everything = UnmaskingSampler(EntropyBound(1e6), order=NegativeEntropy(), proposal=DRAWN)
    assert same(history(everything), history(UnmaskingSampler(Quota(1), proposal=DRAWN)))


@pytest.mark.parametrize("process", [PROCESS, MaskingProcess(31, CosineSchedule())], ids=["linear", "cosine"])
@pytest.mark.parametrize("rates", [CappedRemasking(0.0), RescaledRemasking(0.0)], ids=str)
def test_remasking_with_sigma_0_is_ancestral(rates: CappedRemasking, process: MaskingProcess) -> None:
    assert same(history(RANDOM, process), history(replace(RANDOM, rates=rates), process))
    assert not same(history(RANDOM, process), history(replace(RANDOM, rates=CappedRemasking(0.5)), process))


def test_tau_leaping_is_ancestral_under_the_linear_schedule_only() -> None:
    cosine = MaskingProcess(31, CosineSchedule())
    leaping = replace(RANDOM, rates=TauLeaping())
    assert same(history(RANDOM), history(leaping))
    assert not same(history(RANDOM, cosine), history(leaping, cosine))


def test_the_times_of_the_jumps_change_nothing_for_a_model_that_is_not_told() -> None:
    one = UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN)
    assert same(history(one), history(replace(one, rates=FirstHitting())))


def test_a_block_of_one_token_is_left_to_right() -> None:
    blocks = history(UnmaskingSampler(PerStep(1), window=Blocks(1)))
    assert torch.equal(blocks[-1], history(UnmaskingSampler(PerStep(1), order=LeftToRight()))[-1])
    assert torch.equal(blocks[-1], history(UnmaskingSampler(PerStep(1), window=Sliding(1)))[-1])


def test_a_wide_window_is_the_whole_canvas() -> None:
    assert same(
        history(UnmaskingSampler(Threshold(0.3))), history(UnmaskingSampler(Threshold(0.3), window=Sliding(99)))
    )
    assert not same(
        history(UnmaskingSampler(Threshold(0.3))), history(UnmaskingSampler(Threshold(0.3), window=Sliding(3)))
    )


def test_a_cold_draw_of_the_order_is_the_order() -> None:
    greedy = UnmaskingSampler(Quota(9))
    cold, hot = (replace(greedy, order=Stochastic(Confidence(), t)) for t in (1e-9, 10.0))
    mild = history(greedy, scale=1.0)  # no two confidences are rounded to 1
    assert same(mild, history(cold, scale=1.0))
    assert not same(mild, history(hot, scale=1.0))


def test_a_cold_draw_of_tokens_is_the_most_likely_one() -> None:
    greedy = UnmaskingSampler(Quota(9))
    assert same(history(greedy), history(replace(greedy, proposal=Proposal(temperature=1e-4))))
    assert same(history(greedy), history(replace(greedy, proposal=Proposal(temperature=3.0, top_k=1))))
    assert same(history(greedy), history(replace(greedy, proposal=Proposal(temperature=3.0, top_p=1e-9))))


def test_steps_that_uncover_nothing_are_free() -> None:
    """MDLM's cache: the model is only called where something is written, at most once per mask."""
    tokens = canvas([[1, 2]], 6, mask_token_id=31, pad_token_id=0).tokens
    sample = UnmaskingSampler(Binomial(1000), order=RandomOrder(), proposal=DRAWN)(model(), tokens, PROCESS)
    assert sample.calls.tolist() == [6]


@pytest.mark.parametrize("t_min", [0.0, 1e-3])
def test_the_last_step_takes_all(t_min: float) -> None:
    sampler = replace(RANDOM, amount=Binomial(1), rates=Ancestral(t_min))
    assert len(history(sampler)) == 1

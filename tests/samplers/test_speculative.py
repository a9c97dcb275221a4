"""Speculative decoding is step-by-step decoding, with fewer calls."""

from functools import cache

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.denoiser import BackboneDenoiser
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from llada.samplers import (
    AnnealedConfidence,
    Blocks,
    Comb,
    Confidence,
    Demote,
    LeftToRight,
    Margin,
    NegativeEntropy,
    Order,
    PerStep,
    Proposal,
    RandomOrder,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Step,
    Stochastic,
    UnmaskingSampler,
    WholeCanvas,
    Window,
    canvas,
)
from tests.golden_models import arrays, tiny_llada, values

MASK, SMALL_MASK = 380, 23
PROMPTS = [[3, 9, 4, 1, 22, 8], [5, 6, 7], [12, 13, SMALL_MASK, 2, 9]]
WINDOWS: list[Window] = [
    WholeCanvas(),
    Blocks(8),
    Blocks(5),
    Blocks(4, stop_token_ids=17),
    Blocks(4, stop_token_ids=21),
]


@cache
def model() -> BidirectionalTransformer:
    return tiny_llada(torch.float64)


@cache
def small() -> BidirectionalTransformer:
    """Far from its initialisation, so that some guesses are right and some aren't."""
    torch.manual_seed(1)
    made = BidirectionalTransformer(24, width=16, num_layers=2, num_heads=2).double().eval()
    for parameter in made.parameters():
        parameter.data.mul_(3.0)
    return made


def steps_of(sampler: Sampler) -> list[Step]:
    tokens, mask, _ = canvas(PROMPTS, 16, mask_token_id=SMALL_MASK, pad_token_id=0)
    return list(sampler.iterate(small(), tokens, MaskingProcess(SMALL_MASK), attention_mask=mask))


@cache
def single_steps(window: Window, order: Order) -> list[Step]:
    return steps_of(UnmaskingSampler(PerStep(1), order, window=window))


ORDERS: list[Order] = [Confidence(), Margin(), NegativeEntropy()]
PAIRS = [
    (guesses, window, ORDERS[(first + second) % 3])  # every pair of a number, a window and an order
    for first, guesses in enumerate((1, 4, 40))
    for second, window in enumerate(WINDOWS)
]


@pytest.mark.parametrize(("guesses", "window", "order"), PAIRS, ids=str)
def test_the_result_is_that_of_single_steps(guesses: int, window: Window, order: Order) -> None:
    expected = single_steps(window, order)
    steps = steps_of(SpeculativeSampler(guesses, order, window=window))
    assert torch.equal(steps[-1].tokens, expected[-1].tokens)
    assert (steps[-1].calls <= expected[-1].calls).all()
    for row in range(len(PROMPTS)):  # every canvas on the way is one of the others, in the same sequence
        way = [tuple(step.tokens[row].tolist()) for step in expected]
        places = [way.index(tuple(step.tokens[row].tolist())) for step in steps]
        assert places == sorted(places)


def test_calls_are_saved() -> None:
    golden = arrays("llada-tiny", "generate")
    case = next(name for name, c in values("llada-tiny", "generate")["cases"].items() if "seeded" not in name)
    prompt = golden[f"{case}.prompt"]
    tokens = torch.cat((prompt, torch.full((len(prompt), 24), MASK)), 1)
    sample = SpeculativeSampler(6)(model(), tokens, MaskingProcess(MASK))
    assert (sample.calls < 24).all()
    assert (sample.tokens_per_call > 1.0).all()


def test_a_guess_may_end_the_text() -> None:
    """The stop token is guessed with the rest of its block, so that the call that settles it could write behind it."""
    torch.manual_seed(0)
    table, tokens, process = torch.randn(16, 10), torch.full((1, 16), 9), MaskingProcess(9)
    told = int(table[2, :9].argmax())
    window = Blocks(4, stop_token_ids=told)

    def never_changing(x: Tensor) -> Tensor:
        return table.expand(len(x), -1, -1)

    expected = UnmaskingSampler(PerStep(1), window=window)(never_changing, tokens, process).tokens
    assert expected[0, 3:].tolist() == [int(table[3, :9].argmax()), *[told] * 12]
    for guesses in (1, 3, 5, 9):
        sample = SpeculativeSampler(guesses, window=window)(never_changing, tokens, process)
        assert torch.equal(sample.tokens, expected)


def test_a_model_that_never_changes_its_mind_is_followed_all_the_way() -> None:
    """One call for the first token and the guesses, then guesses + 1 tokens per call."""
    torch.manual_seed(0)
    table = torch.randn(16, 10)
    tokens = torch.full((2, 16), 9)
    sample = SpeculativeSampler(4)(lambda x: table.expand(len(x), -1, -1), tokens, MaskingProcess(9))
    assert sample.calls.tolist() == [4, 4]  # 1 + 5 + 5 + 5
    assert torch.equal(sample.tokens, table[:, :9].argmax(1).expand(2, -1))


def test_a_time_conditioned_model_is_told_the_time_of_each_state() -> None:
    torch.manual_seed(0)
    table = torch.randn(12, 10)
    process = MaskingProcess(9, LinearSchedule(eps=1e-3), time_conditioned=True)

    def model(tokens: Tensor, sigma: Tensor) -> Tensor:
        return table * torch.cos(7 * sigma[:, None, None]) + table.flip(1) * torch.sin(3 * sigma[:, None, None])

    tokens = torch.full((1, 12), 9)
    for window in (WholeCanvas(), Blocks(4)):
        expected = UnmaskingSampler(PerStep(1), window=window)(model, tokens, process)
        assert torch.equal(SpeculativeSampler(3, window=window)(model, tokens, process).tokens, expected.tokens)


def test_what_leaves_something_to_chance_is_refused() -> None:
    drawn = Stochastic(Confidence(), 1.0)
    for options in (
        {"proposal": Proposal(0.5)},
        {"order": drawn},
        {"order": Demote(drawn, (2,))},
        {"order": Demote(RandomOrder(), (2,))},
        {"order": AnnealedConfidence()},
        {"order": Comb(Stochastic(Confidence(), 1.0), 2)},
    ):
        with pytest.raises(ValueError, match=r"temperature 0.*PerStep\(1\)"):
            SpeculativeSampler(**options)
    with pytest.raises(ValueError, match="no guesses; use order=Confidence"):
        SpeculativeSampler(order=LeftToRight())
    with pytest.raises(ValueError, match="fixed window"):
        SpeculativeSampler(window=Sliding(4))
    with pytest.raises(ValueError, match="1 or more"):
        SpeculativeSampler(guesses=0)


def test_a_denoiser_is_taken_too() -> None:
    tokens = torch.full((1, 4), MASK)
    one, other = (
        SpeculativeSampler()(m, tokens, MaskingProcess(MASK)).tokens for m in (model(), BackboneDenoiser(model()))
    )
    assert torch.equal(one, other)

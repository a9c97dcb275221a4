"""What can't be decoded is refused with a sentence; no token is ever made up for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess, UniformProcess
from llada.samplers import (
    PRESETS,
    AllowLists,
    AncestralSampler,
    Blocks,
    CommitAndRenoise,
    Confidence,
    Daedal,
    DreamOn,
    EditingSampler,
    GibbsSampler,
    Guidance,
    LeftToRight,
    LevenshteinSampler,
    NextToken,
    PerStep,
    PlanningSampler,
    Proposal,
    PsiSampler,
    Quota,
    RandomOrder,
    ResizingSampler,
    Sampler,
    SpeculativeSampler,
    Stochastic,
    Threshold,
    UnmaskingSampler,
    UntilStop,
    canvas,
)

MASK, V = 6, 7
PROCESS = MaskingProcess(MASK)
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(0))
DRAWN = Proposal(1.0, top_p=0.9)
SAMPLERS: dict[str, Sampler] = {
    "quota": UnmaskingSampler(Quota(3)),
    "drawn, in blocks": UnmaskingSampler(Quota(), proposal=DRAWN, window=Blocks(3, stop_token_ids=5)),
    "threshold": UnmaskingSampler(Threshold(0.9)),
    "random order": UnmaskingSampler(PerStep(2), RandomOrder(), proposal=DRAWN),
    "editing": EditingSampler(window=Blocks(3)),
    "speculative": SpeculativeSampler(2),
    "next token": NextToken(1.0, cached=False),
    "next token, with a stop": NextToken(0.0, stop_token_ids=5, cached=False),
    "reverse process": AncestralSampler(4),
    "psi": PsiSampler(4),
    "planning": PlanningSampler(),
    "until a stop": UntilStop(UnmaskingSampler(window=Blocks(3)), 5, 9),
    "expanding": ResizingSampler(UnmaskingSampler(Threshold(0.9), window=Blocks(3)), Daedal(), 5, 9),
    "expand and delete": ResizingSampler(UnmaskingSampler(PerStep(1), window=Blocks(3)), DreamOn(4, 3), 5, 9),
    "insert and delete": LevenshteinSampler(window=Blocks(3), delete_token_id=4, insert_token_id=5),
}
WITHOUT_MASKS: dict[str, Sampler] = {
    "reverse process": AncestralSampler(4),
    "psi": PsiSampler(4),
    "corrected": GibbsSampler(4, corrections=2),
    "commit and renoise": CommitAndRenoise(4),
}


def spoilt(value: float, after: int = 0, where: int | slice = slice(None)) -> Callable[..., Tensor]:
    """A model whose answers go wrong in the second row, at some positions, at first or after some calls."""
    calls = 0

    def model(tokens: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        logits = TABLE[tokens.roll(1, 1)].clone()
        if calls > after:
            rows = len(tokens) // 2
            logits[rows:, where, 0 if value != -torch.inf else slice(None)] = value
        return logits

    return model


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_answer_that_is_none_is_refused(name: str, value: float) -> None:
    tokens = torch.full((2, 6), MASK)
    tokens[:, 0] = 1
    for after in (0, 1):
        with pytest.raises(ValueError, match=r"row 1 can't be decoded: .* NaN or infinite, or no token is left"):
            SAMPLERS[name](spoilt(value, after), tokens, PROCESS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", WITHOUT_MASKS)
def test_so_is_it_under_noise_without_masks(name: str, value: float) -> None:
    tokens, given = torch.ones(2, 6, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.bool)
    given[:, 0] = True
    for after in (0, 1):
        with pytest.raises(ValueError, match=r"row 1 can't be decoded: .* NaN or infinite, or no token is left"):
            WITHOUT_MASKS[name](spoilt(value, after), tokens, UniformProcess(MASK), given=given)


def test_no_token_is_shown_where_there_is_no_answer() -> None:
    tokens = torch.full((2, 6), MASK)
    shown: list[Tensor] = []
    steps = UnmaskingSampler(PerStep(1), LeftToRight()).iterate(spoilt(torch.nan, where=4), tokens, PROCESS)
    with pytest.raises(ValueError, match="row 1 can't be decoded"):
        shown.extend(step.tokens for step in steps)
    assert len(shown) == 6
    assert (shown[-1][1] == MASK).tolist() == [False] * 4 + [True, False]


def test_no_token_that_is_left_is_refused() -> None:
    tokens = torch.full((1, 4), MASK)
    plain = spoilt(0.0, after=99)
    nothing = UnmaskingSampler(proposal=Proposal(suppress_tokens=tuple(range(V - 1))))
    with pytest.raises(ValueError, match="no token is left to be written"):
        nothing(plain, tokens, PROCESS)
    words = UnmaskingSampler(proposal=Proposal(1.0, suppress_tokens=(2,)), adjustments=(AllowLists({1: (2, 3)}),))
    assert words(plain, tokens, PROCESS).tokens[0, 1] == 3


def test_numbers_that_are_none_are_refused() -> None:
    nan = float("nan")
    makers: list[tuple[str, Callable[[], Any]]] = [
        ("threshold of Threshold must be a number", lambda: UnmaskingSampler(Threshold(nan))),
        ("scale of Guidance must be a number", lambda: UnmaskingSampler(guidance=Guidance(nan))),
        ("edit_threshold of EditingSampler must be a number", lambda: EditingSampler(edit_threshold=nan)),
        ("temperature must be above 0; got nan", lambda: UnmaskingSampler(order=Stochastic(Confidence(), nan))),
        ("max_divergence of Stability must be a number", lambda: PRESETS["klass"](max_divergence=nan)),
    ]
    makers += [
        ("temperature must be 0 .* or from 1e-6 to 1e6", lambda t=t: Proposal(t))
        for t in (-1.0, 1e-40, float("inf"), nan)
    ]
    for message, make in makers:
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_wrong_canvas_is_refused(name: str) -> None:
    right = torch.full((2, 6), MASK)
    for wrong in (right.int(), right[0], right[:0], right[:, :0], right.float()):
        with pytest.raises(ValueError, match=r"the canvas must be \(B, L\) int64 .* got"):
            SAMPLERS[name](spoilt(0.0), wrong, PROCESS)
        with pytest.raises(ValueError, match=r"the canvas must be"):
            list(SAMPLERS[name].iterate(spoilt(0.0), wrong, PROCESS))
    with pytest.raises(ValueError, match=r"attention_mask must have the canvas's shape \(2, 6\); got \(2, 5\)"):
        SAMPLERS[name](spoilt(0.0), right, PROCESS, attention_mask=torch.ones(2, 5).bool())


def test_a_canvas_without_masks_is_checked_too() -> None:
    tokens, mask, given = canvas([[1, 2], [3]], 3, mask_token_id=MASK, pad_token_id=0)

    def model(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.full((*tokens.shape, V), torch.nan)

    with pytest.raises(ValueError, match="row 0 can't be decoded"):
        AncestralSampler(2)(model, tokens, UniformProcess(V), given=given, attention_mask=mask)

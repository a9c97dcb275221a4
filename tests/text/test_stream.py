"""Text that is given out piece by piece, of runs whose every step is known."""

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import (
    PRESETS,
    Blocks,
    EditingSampler,
    LeftToRight,
    NextToken,
    PerStep,
    Quota,
    SpeculativeSampler,
    Step,
    UnmaskingSampler,
)
from llada.text import stream_text

MASK = 5
PROCESS = MaskingProcess(MASK)
BYTES = [b"a", b"b", b"\xc3", b"\xa9", b""]  # the third and the fourth together are one character
STOP = 4


def decode(ids: list[int]) -> str:
    return b"".join(BYTES[token] for token in ids).decode("utf-8", errors="replace")


def step(*row: int) -> Step:
    tokens = torch.tensor([[9, 9, *row], [9, 9, *row]])
    return Step(tokens, tokens > 9, torch.full(tokens.shape, torch.nan), tokens[:, 0] * 0, tokens == MASK)


CANVAS = step(*[MASK] * 5).tokens


def pieces(*steps: Step, **options: frozenset[int]) -> list[str]:
    return list(stream_text(steps, CANVAS != MASK, decode, row=1, **options))


def test_what_stands_left_of_the_first_mask_is_given_out_once() -> None:
    first, second = step(MASK, 1, MASK, MASK, 0), step(0, 1, MASK, 1, 0)
    assert pieces(first, second, second, step(0, 1, 0, 1, 0)) == ["ab", "aba"]
    assert pieces() == []
    assert list(stream_text([step(0)], step(0).tokens != MASK, decode)) == []


def test_a_character_is_given_out_when_it_is_whole() -> None:
    assert pieces(step(0, 2, MASK, MASK, MASK), step(0, 2, 3, MASK, MASK), step(0, 2, 3, 2, 1)) == ["a", "é", "\ufffdb"]


def test_nothing_is_asked_for_after_a_stop_token() -> None:
    def steps() -> object:
        yield step(MASK, STOP, MASK, MASK, MASK)
        yield step(0, STOP, MASK, MASK, MASK)
        raise AssertionError("a step too many")

    assert list(stream_text(steps(), CANVAS != MASK, decode, stops=frozenset({STOP}))) == ["a"]
    assert pieces(step(0, STOP, 1, MASK, MASK), step(0, STOP, 1, 1, 1)) == ["ab", "bb"]  # no stop was named


def test_text_that_was_given_out_and_changes_is_an_error() -> None:
    for later in (step(1, 0, MASK, MASK, MASK), step(MASK, 0, MASK, MASK, MASK)):
        with pytest.raises(ValueError, match=r"turned 'a' into .* after it was given out"):
            pieces(step(0, MASK, MASK, MASK, MASK), later)


def test_pieces_join_to_the_text_of_the_sample() -> None:
    def model(tokens: Tensor) -> Tensor:
        return torch.randn(11, 6, generator=torch.Generator().manual_seed(3)).expand(len(tokens), -1, -1)

    tokens = torch.full((2, 11), MASK)
    tokens[:, 0] = 0
    for sampler, least in (
        (UnmaskingSampler(PerStep(1), LeftToRight()), 7),
        (UnmaskingSampler(Quota(10), window=Blocks(2)), 5),
        (SpeculativeSampler(3, window=Blocks(5)), 2),
    ):
        found = list(stream_text(sampler.iterate(model, tokens, PROCESS), tokens != MASK, decode))
        assert "".join(found) == decode(sampler(model, tokens, PROCESS).tokens[0, 1:].tolist())
        assert len(found) >= least


def test_which_samplers_never_take_back() -> None:
    assert UnmaskingSampler().is_final
    assert NextToken().is_final
    assert not EditingSampler().is_final
    assert not any(preset().is_final for name, preset in PRESETS.items() if name.startswith("remdm"))

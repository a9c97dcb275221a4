"""Masks that ask for more or fewer, by a model that knows the text."""

from typing import Any

import pytest
import torch
from torch import Tensor

from examples.compositions import MASK, PROCESS, network
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from llada.samplers import (
    Blocks,
    DreamOn,
    PerStep,
    PrefixCache,
    Proposal,
    ResizingSampler,
    Threshold,
    UnmaskingSampler,
    canvas,
)

EXPAND, EOS, PAD = 21, 22, 0
BEFORE, AFTER = [1, 2, 3], [4, 5]
TEXTS = {1: [10, 11, 12, 13, 14, 15, 16], 2: [10], 3: [], 6: [12, 12, 13]}


class Author(torch.nn.Module):
    """Knows which text belongs between a first token and the last two; says of each mask what it should become.

    The masks of a gap share the tokens that are missing there: one each, the last gets the rest, by expanding; those
    for which nothing is left are deleted.
    """

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask.bool()
        wanted = tokens.clone()
        for row in range(len(tokens)):
            where = real[row].nonzero()[:, 0].tolist()
            inside = where[3:-2]
            text, done = TEXTS[int(tokens[row, where[0]])], 0
            for n, column in enumerate(inside):
                if tokens[row, column] != MASK:
                    done += 1
                    continue
                masks = next((i for i, c in enumerate(inside[n:]) if tokens[row, c] != MASK), len(inside) - n)
                known = len(inside) - n - masks
                left = len(text) - done - known - 0
                wanted[row, column] = EOS if left < masks else EXPAND if left > masks else text[done]
                done += 1
        return 9.0 * torch.nn.functional.one_hot(wanted, 24).double()


def gaps(masks: int, firsts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    rows = [[first, 2, 3, *[MASK] * masks, *AFTER] for first in firsts]
    return canvas(rows, 0, mask_token_id=MASK, pad_token_id=PAD)


@pytest.mark.parametrize("masks", [1, 3, 7, 12])
def test_a_gap_gets_the_length_of_its_text(masks: int) -> None:
    tokens, mask, given = gaps(masks, list(TEXTS))
    sampler = ResizingSampler(UnmaskingSampler(PerStep(1)), DreamOn(EXPAND), EOS, 16)
    sample = sampler(Author(), tokens, PROCESS, given=given, attention_mask=mask)
    for row, (first, text) in enumerate(TEXTS.items()):
        assert sample.tokens[row][sample.attention_mask[row]].tolist() == [first, 2, 3, *text, 4, 5]
        assert sample.generated[row] == len(text)
    for step in sampler.iterate(Author(), tokens, PROCESS, given=given, attention_mask=mask):
        assert not (step.tokens == EXPAND).any()  # nobody ever sees one


@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_rows_keep_to_their_room_end_and_are_what_they_are_alone(threshold: float) -> None:
    """A network that means nothing expands and deletes as it likes."""
    cache: Any = PrefixCache()
    inner = UnmaskingSampler(Threshold(threshold), window=Blocks(6), proposal=Proposal(3.0), cache=cache)
    sampler = ResizingSampler(inner, DreamOn(EXPAND, 20, expand_steps=9), EOS, 10)
    rows = [[1, *[MASK] * 5, 4, 5, MASK, 7], [3, 9, MASK, MASK], [2, *[MASK] * 9]]
    tokens, mask, given = canvas(rows, 0, mask_token_id=MASK, pad_token_id=PAD)
    lengths = set()
    for seed in range(3):
        together = sampler(network(()), tokens, PROCESS, given=given, seed=10 * seed, attention_mask=mask)
        assert not (together.tokens == EXPAND).any()
        assert not (together.tokens == MASK).any()
        assert together.generated.max() <= 10
        for row, prompt in enumerate(rows):
            kept = [token for token in prompt if token != MASK]
            alone = sampler(network(()), torch.tensor([prompt]), PROCESS, seed=10 * seed + row)
            assert alone.tokens[0][~alone.given[0]].tolist() == together.tokens[row][~together.given[row]].tolist()
            assert alone.tokens[0][alone.given[0]].tolist() == kept
            assert alone.calls[0] == together.calls[row]
            lengths.add(int(alone.generated[0]))
    assert len(lengths) > 2


def test_a_model_that_keeps_the_length_is_told_the_times_of_plain_decoding() -> None:
    told: list[list[float]] = []

    def model(tokens: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        told[-1] += sigma.tolist()
        return 9.0 * torch.nn.functional.one_hot(torch.full_like(tokens, 5), 24)

    process = MaskingProcess(MASK, LinearSchedule(0.3), time_conditioned=True)
    plain = UnmaskingSampler(PerStep(1), window=Blocks(2))
    for sampler in (plain, ResizingSampler(plain, DreamOn(EXPAND), EOS, 16)):
        told.append([])
        written = sampler(model, torch.tensor([[1, *[MASK] * 5, 4]]), process).tokens
        assert written.tolist() == [[1, *[5] * 5, 4]]
    assert told[0] == told[1]
    assert len(set(told[0])) == 2  # all of a block is open, or half of it


def test_masks_that_find_no_room_stay_as_they_are() -> None:
    def greedy(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 24)
        logits[..., EXPAND], logits[..., 7] = 9.0, 8.0
        return logits

    sampler = ResizingSampler(UnmaskingSampler(Threshold(0.1)), DreamOn(EXPAND), EOS, 7)
    tokens = torch.tensor([[1, *[MASK] * 5, 2]])
    lengths = [step.tokens[0].tolist() for step in sampler.iterate(greedy, tokens, PROCESS)]
    assert lengths == [[1, *[MASK] * 5, 2], [1, *[MASK] * 7, 2], [1, *[7] * 7, 2]]
    patient = ResizingSampler(UnmaskingSampler(Threshold(0.1)), DreamOn(EXPAND, expand_steps=0), EOS, 7)
    assert patient(greedy, tokens, PROCESS).tokens.tolist() == [[1, *[7] * 5, 2]]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ; got 4 for both"):
        DreamOn(4, 4)
    with pytest.raises(ValueError, match="expand_steps must be 0 or more; got -1"):
        DreamOn(4, expand_steps=-1)
    tokens, mask, given = gaps(3, [1])
    sampler = ResizingSampler(UnmaskingSampler(PerStep(1)), DreamOn(99), EOS, 16)
    with pytest.raises(ValueError, match="expand_token_id=99 is outside of the model's vocabulary of 24"):
        sampler(Author(), tokens, PROCESS, given=given, attention_mask=mask)

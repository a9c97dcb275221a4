"""Which positions are open is part of a run's state, and never read off the tokens."""

from functools import cache

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess, UniformProcess
from llada.samplers import AncestralSampler, NextToken, Sampler, UnmaskingSampler, canvas
from llada.samplers.part import Part
from tests.helpers import ALL_SAMPLERS

VOCABULARY, MASK, LENGTH = 12, 11, 12
PROCESS = MaskingProcess(MASK)
EVERY: dict[str, Sampler] = {**ALL_SAMPLERS, "reverse process": AncestralSampler(5)}


@cache
def model() -> BidirectionalTransformer:
    torch.manual_seed(0)
    made = BidirectionalTransformer(VOCABULARY, width=16, num_layers=2, num_heads=2).double().eval()
    for parameter in made.parameters():  # far from the initialisation, so that what is visible matters
        parameter.data.mul_(2.5)
    return made


def literal_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Prompts that hold the mask token as text."""
    return canvas(
        [[1, MASK, 3, 4, 2, MASK], [MASK, 2], [5, 6, 7, MASK, 1, 1]],
        6,
        mask_token_id=MASK,
        pad_token_id=0,
        literal=True,
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_prompt_may_hold_the_mask_token_itself(name: str) -> None:
    sampler, (tokens, mask, given) = EVERY[name], literal_batch()
    previous = tokens
    for step in sampler.iterate(model(), tokens, PROCESS, given=given, seed=3, attention_mask=mask):
        assert torch.equal(step.tokens[given], tokens[given])
        assert not (step.changed & given).any()
        previous = step.tokens
    assert not (previous[~given] == MASK).any()
    sample = sampler(model(), tokens, PROCESS, given=given, seed=3, attention_mask=mask)
    assert torch.equal(sample.tokens, previous)
    assert sample.generated.tolist() == [6, 6, 6]
    for row, length in enumerate((6, 2, 6)):
        alone, alone_given = tokens[row][mask[row]][None], given[row][mask[row]][None]
        single = sampler(model(), alone, PROCESS, given=alone_given, seed=3 + row)
        assert alone.shape[1] == length + 6
        assert torch.equal(single.tokens[0], sample.tokens[row][mask[row]])
        assert single.calls[0] == sample.calls[row]


@pytest.mark.parametrize("name", EVERY)
def test_what_stands_at_an_open_position_does_not_matter(name: str) -> None:
    """An answer that is to be written anew needn't be masked first."""
    sampler, tokens = EVERY[name], torch.tensor([[1, 2, 3, 4, *[MASK] * 8]])
    given = torch.arange(12)[None] < 4
    other = torch.where(given, tokens, 7)
    expected = sampler(model(), tokens, PROCESS, seed=1)
    for canvas_of_seven, known in ((tokens, given), (other, given)):
        sample = sampler(model(), canvas_of_seven, PROCESS, given=known, seed=1)
        assert torch.equal(sample.tokens, expected.tokens)
        assert torch.equal(sample.calls, expected.calls)
    assert (other == MASK).sum() == 0  # the input isn't edited


def test_a_causal_model_writes_only_what_is_open() -> None:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCABULARY, width=16, num_layers=1, num_heads=2, causal=True, shift=True).eval()
    tokens, mask, given = literal_batch()
    cached, plain = (
        NextToken(cached=kept)(backbone, tokens, PROCESS, given=given, attention_mask=mask) for kept in (True, False)
    )
    assert torch.equal(cached.tokens[given], tokens[given])
    assert torch.equal(cached.tokens, plain.tokens)
    assert cached.calls.tolist() == [6, 6, 6]


def test_the_canvas_says_what_is_given() -> None:
    prompts = [[1, MASK, 3], [4]]
    gaps = canvas(prompts, 2, mask_token_id=MASK, pad_token_id=0)
    assert gaps.given.tolist() == [[True, False, True, False, False], [True, True, True, False, False]]
    literal = canvas(prompts, 2, mask_token_id=MASK, pad_token_id=0, literal=True)
    assert literal.given.tolist() == [[True, True, True, False, False], [True, True, True, False, False]]
    assert torch.equal(gaps.tokens, literal.tokens)
    padded_by_masks = canvas(prompts, 2, mask_token_id=MASK, pad_token_id=MASK)
    assert padded_by_masks.given.tolist() == gaps.given.tolist()


def test_what_is_not_known_is_asked_for() -> None:
    tokens = torch.full((1, 4), MASK)
    with pytest.raises(ValueError, match="given must be bool"):
        UnmaskingSampler()(model(), tokens, PROCESS, given=torch.ones(1, 3).bool())
    with pytest.raises(ValueError, match=r"UniformProcess has no mask token.*pass given="):
        AncestralSampler()(model(), tokens, UniformProcess(11))
    for name in ("quota", "editing", "speculative"):
        with pytest.raises(ValueError, match="UniformProcess has none; use AncestralSampler"):
            list(ALL_SAMPLERS[name].iterate(model(), tokens, UniformProcess(11), given=tokens != MASK))


def test_every_part_may_refuse_the_others() -> None:
    class Alone(Part):
        pass

    Alone().check(UnmaskingSampler())
    for sampler in ALL_SAMPLERS.values():
        for name in ("proposal", "window", "guidance", "cache", "order", "amount", "rates"):
            part = getattr(sampler, name, None)
            assert part is None or isinstance(part, Part), name

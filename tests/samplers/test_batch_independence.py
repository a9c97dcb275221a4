"""A row depends on its own content and seed alone, over random compositions of parts and rows with gaps anywhere.

The long form is `python -m examples.batch_independence`.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.batch_independence import Outcome, main, outcomes
from examples.compositions import MASK, PROCESS, Letters, network
from llada.samplers import (
    Blocks,
    CachePolicy,
    Credit,
    DelayedCache,
    DreamFloor,
    DualCache,
    ExactCache,
    Guidance,
    IntervalCache,
    Margin,
    NextToken,
    PerStep,
    PrefixCache,
    Proposal,
    Quota,
    RegularExpression,
    Sampler,
    SpeculativeSampler,
    Stability,
    UnmaskingSampler,
    VicinityCache,
    block_diffusion,
    canvas,
    llada2,
    llada21,
)
from llada.samplers.caches.turns import Turns

GAPS = [[1, 7, 3, 9, 5, 6, 2, 8], [4, MASK, 7, 3, 9, 1], [MASK, 2, 5], [6, 2, 8, 1, MASK, MASK, 4, 9, 3, 2]]


def outcome(sampler: Sampler, model: Any, tokens: Tensor, seed: int, mask: Tensor | None) -> tuple[Tensor, ...]:
    """The tokens, how sure the model was of each when it was written, and the calls."""
    sure = torch.full(tokens.shape, torch.nan)
    kwargs = {} if mask is None else {"attention_mask": mask}
    for step in sampler.iterate(model, tokens, PROCESS, seed=seed, **kwargs):
        sure = torch.where(step.changed, step.confidence, sure)
    return step.tokens, sure, step.calls


def same_alone(sampler: Sampler, prompts: list[list[int]], masks: int, model: Any) -> None:
    """Compare every row with what it is alone."""
    tokens, mask, _ = canvas(prompts, masks, mask_token_id=MASK, pad_token_id=0)
    together = outcome(sampler, model, tokens, 0, mask)
    for row, real in enumerate(mask):
        written, sure, calls = outcome(sampler, model, tokens[row][real][None], row, None)
        assert torch.equal(written[0], together[0][row][real]), row
        torch.testing.assert_close(sure[0], together[1][row][real], rtol=1e-5, atol=1e-6, equal_nan=True)
        assert calls[0] == together[2][row], row


@pytest.mark.parametrize(("count", "dtype"), [(16, torch.float64), (6, torch.float32)], ids=str)
def test_random_compositions(count: int, dtype: torch.dtype) -> None:
    """Without the rules below, about one in five fails."""
    for drawn, outcome in outcomes(60, count, dtype):
        assert set(outcome.differ) == set(outcome.ties), drawn


def test_the_long_form_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--count", "2"]) == 0
    assert capsys.readouterr().out == "2 of 2 compositions are independent of the batch in float64\n"
    monkeypatch.setattr("examples.batch_independence.compare", lambda *_: Outcome("", ("row 0: calls",)))
    assert main(["--count", "1"]) == 1
    out = capsys.readouterr().out
    assert "0: row 0: calls" in out
    assert out.endswith("0 of 1 compositions are independent of the batch in float64\n")


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "cache", [PrefixCache(), DualCache(), VicinityCache(warm_up=1, radius=1), PrefixCache(refresh=2)], ids=str
)
def test_the_region_of_a_row_does_not_follow_another_rows_gap(cache: CachePolicy, shift: bool) -> None:
    same_alone(UnmaskingSampler(PerStep(2), cache=cache), GAPS, 8, network((("shift", shift),)))


@pytest.mark.parametrize(
    "cache", [DualCache(refresh=2), VicinityCache(warm_up=2), DelayedCache(2), IntervalCache(4, 2, 0.25)], ids=str
)
def test_refreshes_count_the_calls_that_a_row_needs(cache: CachePolicy) -> None:
    """Dream's floor takes nothing from a row with few masks in the first steps, in which others need the model."""
    prompts = [[1, 2, 3, *[MASK] * 9], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, MASK, 3]]
    same_alone(UnmaskingSampler(DreamFloor(9), cache=cache), prompts, 3, network(()))
    same_alone(UnmaskingSampler(DreamFloor(9), cache=cache, adjustments=(Credit(),)), prompts, 3, network(()))


def test_counts_of_calls() -> None:
    def even(call: int) -> bool:
        return call % 2 == 0

    turns = Turns(4)
    assert turns.due(even) is True
    turns.end_call()
    assert turns.due(even) is False
    turns.begin_call(torch.tensor([True, False]))  # two rows, both with an input for guidance
    turns.end_call()
    answers = turns.due(even)
    assert isinstance(answers, Tensor)
    assert answers.tolist() == [True, False, True, False]
    turns.begin_call(torch.tensor([False, True]))
    turns.end_call()
    assert turns.due(even) is True
    turns.begin_window()
    assert turns.due(even) is True


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_what_a_row_remembers_of_later_blocks_does_not_count_its_neighbours_calls(sharpness: float) -> None:
    """Some rows have gaps in their prompts, which others don't ask the model about."""
    rule = Stability(0.05, 1.0, history=2)
    model = network((), sharpness=sharpness)
    same_alone(UnmaskingSampler(rule, window=Blocks(4)), GAPS, 12, model)
    same_alone(UnmaskingSampler(PerStep(2), window=Blocks(4), cache=VicinityCache(warm_up=5)), GAPS, 12, model)


@pytest.mark.parametrize("cached", [False, True])
def test_the_first_token_of_a_padded_row_is_read_at_itself(cached: bool) -> None:
    causal = network((("causal", True), ("shift", True)))
    same_alone(NextToken(cached=cached), [[MASK, 3, MASK], [5, 1, 2, MASK, 9]], 3, causal)
    cache: dict[str, Any] = {"cache": DualCache()} if cached else {}
    same_alone(
        UnmaskingSampler(Quota(5), window=Blocks(3), **cache), [[], [5, 1, 2, 9]], 6, network((("shift", True),))
    )


def test_a_shifted_output_crosses_no_border() -> None:
    """Neither from padding into a row nor from one packed segment into the next."""
    model = network((("shift", True),))
    short, long = torch.tensor([[3, 9, 4]]), torch.tensor([[5, 6, 7, 8]])
    alone = [model(short), model(long)]
    padded = model(F.pad(short, (2, 0)), attention_mask=torch.tensor([[False, False, True, True, True]]))
    torch.testing.assert_close(padded[:, 2:], alone[0])
    packed = model(torch.cat((short, long), 1), segment_ids=torch.tensor([[0, 0, 0, 1, 1, 1, 1]]))
    torch.testing.assert_close(packed, torch.cat(alone, 1))


RAGGED = {
    "llada2": llada2(2, 0.3, block_length=4),
    "llada21": llada21(0.3, 0.2, block_length=4, temperature=0.8, stop_token_ids=2),
    "quota, dual cache": UnmaskingSampler(Quota(9), window=Blocks(4, from_start=True), cache=DualCache()),
    "prefix cache": UnmaskingSampler(PerStep(2), window=Blocks(4, from_start=True), cache=PrefixCache(refresh=2)),
    "delayed cache": UnmaskingSampler(Quota(), window=Blocks(4, from_start=True), cache=DelayedCache(2)),
    "guided": UnmaskingSampler(Quota(), window=Blocks(3, from_start=True), guidance=Guidance(1.0)),
    "speculative": SpeculativeSampler(3, window=Blocks(3, from_start=True)),
    "expression": UnmaskingSampler(
        PerStep(1), window=Blocks(3, from_start=True), adjustments=(RegularExpression("[a-v]*", Letters()),)
    ),
}


@pytest.mark.parametrize("name", RAGGED)
def test_blocks_that_count_from_the_start_begin_where_they_would_alone(name: str) -> None:
    """Prompts differ by anything; nothing has to be padded to a multiple of the block."""
    options = (("convolution", 3),) if name == "llada2" else (("shift", True),) if name == "guided" else ()
    same_alone(RAGGED[name], GAPS, 7, network(options))


def test_block_diffusion_of_rows_of_any_length() -> None:
    prompts = [[1, 7, 3, 9, 5, 6, 2, 8], [4, 7, 3, 9, 1], [2, 5], [6, 2, 8, 1, 4, 9, 3, 2, 5, 5, 5]]
    for shift in (False, True):
        model = network((("block_length", 4), ("shift", shift)))
        same_alone(block_diffusion(block_length=4, top_p=0.9), prompts, 7, model)
        same_alone(UnmaskingSampler(PerStep(2), window=Blocks(8, 5, True), cache=ExactCache()), prompts, 9, model)


def test_the_likelihood_of_rows_of_any_length() -> None:
    tokens, mask, given = canvas([[1, 7, 3], [4, 7, 3, 9, 1, 2]], 7, mask_token_id=MASK, pad_token_id=0)
    text = torch.where(tokens == MASK, torch.arange(tokens.shape[1]) % 9 + 1, tokens)
    sampler = UnmaskingSampler(PerStep(2), Margin(), proposal=Proposal(1.0), window=Blocks(4, from_start=True))
    together = sampler.likelihood(network(()), text, PROCESS, given=given, attention_mask=mask)
    for row, real in enumerate(mask):
        alone = sampler.likelihood(network(()), text[row][real][None], PROCESS, given=given[row][real][None])
        torch.testing.assert_close(alone.log_likelihood[0], together.log_likelihood[row])
        assert alone.calls[0] == together.calls[row]


def test_a_cache_that_counts_columns_is_refused_for_rows_that_are_moved() -> None:
    tokens, mask, _ = canvas([[1, 7, 3], [4, 7]], 7, mask_token_id=MASK, pad_token_id=0)
    sampler = UnmaskingSampler(PerStep(2), window=Blocks(4, from_start=True), cache=IntervalCache(4, 2))
    with pytest.raises(ValueError, match="IntervalCache counts the columns of a canvas"):
        sampler(network(()), tokens, PROCESS, attention_mask=mask)

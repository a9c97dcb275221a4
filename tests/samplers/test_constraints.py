"""Constraints hold in the result, and shape the confidences on the way."""

import pytest
import torch
from torch import Tensor

from llada.data.toy import ToyLanguage
from llada.process import MaskingProcess
from llada.samplers import AllowLists, Guidance, PerStep, Proposal, Quota, RandomOrder, UnmaskingSampler, canvas

MASK = 9
PROCESS = MaskingProcess(MASK)


def model(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(10, 10)[tokens.roll(1, 1)]


def test_words_stand_where_they_must_in_padded_rows() -> None:
    tokens, mask, _ = canvas([[1, 2, 3], [4]], 6, mask_token_id=MASK, pad_token_id=0)
    rule = AllowLists({4: (7,), 5: (2, 3), 0: (1, 4)})
    for sampler in (
        UnmaskingSampler(Quota(3), proposal=Proposal(1.0), adjustments=(rule,)),
        UnmaskingSampler(PerStep(1), order=RandomOrder(), adjustments=(rule,), guidance=Guidance(1.0)),
    ):
        sample = sampler(model, tokens, PROCESS, attention_mask=mask).tokens
        for row, padding in enumerate((0, 2)):
            assert sample[row, padding + 4] == 7
            assert sample[row, padding + 5] in (2, 3)


def test_what_is_certain_by_constraint_is_written_first() -> None:
    tokens = torch.full((1, 5), MASK)
    sampler = UnmaskingSampler(PerStep(1), adjustments=(AllowLists({3: (6,)}),))
    first = next(iter(sampler.iterate(model, tokens, PROCESS)))
    assert first.tokens.tolist() == [[MASK, MASK, MASK, 6, MASK]]
    assert first.confidence[0, 3] == 1.0


def test_the_law_of_the_first_token_is_the_model_s_among_the_allowed() -> None:
    """Left-most alone: p(v | v allowed); a deviation of 4.5 standard errors is seen for one seed in 10^5."""
    language = ToyLanguage.dirichlet(4, 2, seed=1)
    process = MaskingProcess(language.mask_token_id)
    tokens = torch.full((20_000, 2), language.mask_token_id)
    tokens[:, 1] = 2
    sampler = UnmaskingSampler(PerStep(1), proposal=Proposal(1.0), adjustments=(AllowLists({0: (0, 3)}),))
    sample = sampler(language.oracle, tokens, process).tokens[:, 0]
    law = language.probabilities[[0, 3], 2]
    p = float(law[0] / law.sum())
    assert set(sample.tolist()) == {0, 3}
    assert abs(float((sample == 0).double().mean()) - p) < 4.5 * (p * (1 - p) / 20_000) ** 0.5


def test_what_cannot_be_is_refused() -> None:
    tokens = torch.tensor([[1, MASK, MASK]])

    def run(allowed: dict[int, tuple[int, ...]]) -> None:
        UnmaskingSampler(adjustments=(AllowLists(allowed),))(model, tokens, PROCESS)

    with pytest.raises(ValueError, match="behind the end of a row of 3"):
        run({3: (1,)})
    with pytest.raises(ValueError, match="another token at place 0"):
        run({0: (2,)})
    with pytest.raises(ValueError, match="mask token 9 is never written"):
        run({1: (MASK,)})
    with pytest.raises(ValueError, match="outside of the model's vocabulary of 10"):
        run({1: (10,)})
    for bad in ({-1: (1,)}, {0: ()}, {0: (-1,)}):
        with pytest.raises(ValueError, match="every place needs a token"):
            AllowLists(bad)
    with pytest.raises(ValueError, match="forbidden by the proposal"):
        UnmaskingSampler(proposal=Proposal(suppress_tokens=(5,)), adjustments=(AllowLists({1: (5,)}),))

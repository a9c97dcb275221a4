"""LLaDA2.1's token editing, on models of which every answer is known."""

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import Blocks, EditingSampler, Sliding, Threshold, UnmaskingSampler, WholeCanvas

MASK, VOCABULARY = 9, 10
PROCESS = MaskingProcess(MASK)


def logits_for(favourites: Tensor, confidence: float) -> Tensor:
    """Logits that give each position's favourite a probability, and the others the same share of the rest."""
    other = (1.0 - confidence) / (VOCABULARY - 2)
    p = torch.full((*favourites.shape, VOCABULARY), other).scatter(-1, favourites[..., None], confidence)
    p[..., MASK] = 0.0
    return p.log()


def changes_its_mind(confidence: float) -> type:
    """Wants 1 everywhere while something is masked, then 2."""

    class Model:
        def __call__(self, tokens: Tensor) -> Tensor:
            masked = (tokens == MASK).any(1, keepdim=True)
            return logits_for(torch.where(masked, 1, 2).expand_as(tokens), confidence)

    return Model


def test_a_token_is_replaced_when_the_model_is_sure_of_another() -> None:
    tokens = torch.tensor([[5, MASK, MASK, MASK]])
    steps = list(EditingSampler(0.9, 0.9, window=WholeCanvas()).iterate(changes_its_mind(0.95)(), tokens, PROCESS))
    assert [step.tokens[0].tolist() for step in steps] == [[5, 1, 1, 1], [5, 2, 2, 2], [5, 2, 2, 2]]
    assert [step.changed[0].tolist() for step in steps] == [[False] + [True] * 3, [False] + [True] * 3, [False] * 4]
    assert steps[-1].calls.tolist() == [3]  # the last one confirms


def test_a_token_stays_where_the_model_is_not_sure_enough() -> None:
    tokens = torch.tensor([[5, MASK, MASK, MASK]])
    steps = list(EditingSampler(0.9, 0.96, window=WholeCanvas()).iterate(changes_its_mind(0.95)(), tokens, PROCESS))
    assert [step.tokens[0].tolist() for step in steps] == [[5, 1, 1, 1], [5, 1, 1, 1]]


def test_editing_ends_after_so_many_steps() -> None:
    def restless(tokens: Tensor) -> Tensor:
        return logits_for((tokens + 1) % 9, 0.99)

    tokens = torch.tensor([[MASK, MASK, 3, MASK]])
    for most in (0, 1, 4):
        sample = EditingSampler(0.9, 0.9, max_edits=most, window=Blocks(2))(restless, tokens, PROCESS)
        assert sample.calls.tolist() == [2 * (1 + most)]
        assert sample.tokens.tolist() == [[(1 + most) % 9, (1 + most) % 9, 3, (1 + most) % 9]]


def test_finished_blocks_are_left_alone() -> None:
    tokens = torch.full((1, 4), MASK)
    steps = list(EditingSampler(0.9, 0.9, window=Blocks(2)).iterate(changes_its_mind(0.95)(), tokens, PROCESS))
    assert steps[-1].tokens.tolist() == [[1, 1, 2, 2]]  # the first saw masks behind it until it was left


def test_without_editing_it_is_the_threshold_rule() -> None:
    torch.manual_seed(0)
    table = 2 * torch.randn(VOCABULARY, VOCABULARY)

    def model(tokens: Tensor) -> Tensor:
        return table[tokens.roll(1, 1)]

    tokens = torch.full((3, 12), MASK)
    tokens[:, 0] = torch.tensor([1, 4, 7])
    plain = UnmaskingSampler(Threshold(0.5), window=Blocks(4))(model, tokens, PROCESS)
    edited = EditingSampler(0.5, 1.1, max_edits=0, window=Blocks(4))(model, tokens, PROCESS)
    assert torch.equal(plain.tokens, edited.tokens)
    assert torch.equal(plain.calls, edited.calls)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        EditingSampler(max_edits=-1)
    with pytest.raises(ValueError, match="no block to be corrected"):
        EditingSampler(window=Sliding(4))

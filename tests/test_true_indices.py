"""Where a mask is true: equal to indexing with it, found once, and anew once the mask has changed."""

import gc

import torch

from llada import rows
from llada.rows import chosen, placed, true_indices


def test_they_are_what_indexing_with_the_mask_gives() -> None:
    torch.manual_seed(0)
    mask, values = torch.rand(3, 5) < 0.4, torch.randn(3, 5)
    assert torch.equal(chosen(values, mask), values[mask])
    assert torch.equal(chosen(values[:, :1], mask), values[:, :1].expand(3, 5)[mask])
    expected = torch.zeros(3, 5)
    expected[mask] = values[mask]
    assert torch.equal(placed(values[mask], mask), expected)
    assert torch.equal(placed(values[mask][:0], torch.zeros(3, 5, dtype=torch.bool)), torch.zeros(3, 5))


def test_they_are_found_once_and_anew_for_a_mask_that_was_written_to() -> None:
    mask = torch.tensor([True, False, True])
    first = true_indices(mask)
    assert true_indices(mask) is first
    mask[0] = False
    assert true_indices(mask).tolist() == [2]
    kept = len(rows._found)
    del mask
    gc.collect()
    assert len(rows._found) == kept - 1
    with torch.inference_mode():
        unversioned = torch.tensor([False, True])
        assert true_indices(unversioned).tolist() == [1]
        unversioned[0] = True
        assert true_indices(unversioned).tolist() == [0, 1]


def test_gradients_pass() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    values = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: chosen(x, mask), values)
    assert torch.autograd.gradcheck(lambda x: placed(x, mask), torch.randn(3, dtype=torch.float64, requires_grad=True))

"""Cross-entropy with the entropy of right answers: value and gradient are autograd's of the plain formula."""

import pytest
import torch
from torch import Tensor, nn

from llada.heads.certainty import certainty_loss

ROWS, WIDTH, VOCAB = 11, 6, 9


def parts() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, dtype=torch.float64)
    hidden = (3.0 * torch.randn(ROWS, WIDTH, dtype=torch.float64)).requires_grad_()
    labels = torch.where(torch.arange(ROWS) % 2 == 0, head(hidden)[:, :-1].argmax(1), torch.arange(ROWS) % (VOCAB - 1))
    return head, hidden, labels, torch.ones(ROWS, dtype=torch.float64)


def plain(head: nn.Module, hidden: Tensor, labels: Tensor, suppressed: int | None) -> Tensor:
    """dParallel's compute_loss for one copy, without what guards its logarithm, times the number of positions."""
    kept = [token for token in range(VOCAB) if token != suppressed]
    logits = head(hidden)[:, kept]
    law = (logits / 0.5).softmax(-1)
    entropy = -(law * law.log()).sum(-1)
    correct = logits.argmax(-1) == labels
    assert 3 < int(correct.sum()) < ROWS
    return ROWS * (nn.functional.cross_entropy(logits, labels) + 2.0 * (entropy * correct).sum() / correct.sum())


@pytest.mark.parametrize("suppressed", [None, VOCAB - 1])
@pytest.mark.parametrize("chunk", [1, 3 * VOCAB, None])
def test_value_and_gradient_are_those_of_the_formula(chunk: int | None, suppressed: int | None) -> None:
    head, hidden, labels, weights = parts()
    expected = plain(head, hidden, labels, suppressed)
    wanted = torch.autograd.grad(3.0 * expected, [hidden, *head.parameters()])
    found = certainty_loss(head, hidden, labels, weights, suppressed, chunk_elements=chunk)
    torch.testing.assert_close(found.total, expected.detach(), rtol=1e-12, atol=1e-14)
    for one, other in zip(torch.autograd.grad(3.0 * found.total, [hidden, *head.parameters()]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        assert not certainty_loss(head, hidden, labels, weights, suppressed).total.requires_grad


def test_nothing_right_and_nothing_masked() -> None:
    head, hidden, _, weights = parts()
    wrong = head(hidden).argmin(1)
    found = certainty_loss(head, hidden, wrong, weights)
    assert not found.right.any()
    torch.testing.assert_close(found.total, nn.functional.cross_entropy(head(hidden), wrong, reduction="sum").detach())
    nothing = certainty_loss(head, hidden[:0], wrong[:0], weights[:0])
    nothing.total.backward()
    assert float(nothing.total) == 0.0
    assert all(parameter.grad is not None for parameter in head.parameters())

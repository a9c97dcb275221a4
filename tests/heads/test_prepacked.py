"""A head whose matrix is reordered once gives what the head gives, and follows its matrix."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from llada.backbones.layers import TiedHead
from llada.denoiser import as_denoiser
from llada.heads import prepacked
from llada.heads.prepacked import CALLS_THAT_PAY, PrepackedHead

D, V = 8, 24


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Matrices of any size are worth it here."""
    monkeypatch.setattr(prepacked, "LEAST_ELEMENTS", 1)
    with torch.no_grad():
        yield


def used(head: nn.Module, apply: PrepackedHead, hidden: Tensor, calls: int = CALLS_THAT_PAY) -> bool:
    """Whether the last of some calls multiplied by a reordered matrix; all must be right."""
    for _ in range(calls):
        torch.testing.assert_close(apply(head, hidden), head(hidden), rtol=1e-5, atol=1e-5)
    return apply._packed is not None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, D), (2, 3, D)])
def test_from_the_call_on_that_pays(bias: bool, shape: tuple[int, ...]) -> None:
    head, hidden, apply = nn.Linear(D, V, bias), torch.randn(shape), PrepackedHead()
    assert not used(head, apply, hidden, CALLS_THAT_PAY - 1)
    assert used(head, apply, hidden, 1)
    assert used(head, apply, torch.randn(9, D), 1), "other numbers of rows are multiplied by the same matrix"


def test_a_tied_head() -> None:
    assert used(TiedHead(nn.Embedding(V, D)), PrepackedHead(), torch.randn(3, D))


def test_it_follows_its_matrix() -> None:
    head, hidden, apply = nn.Linear(D, V), torch.randn(3, D), PrepackedHead()
    assert used(head, apply, hidden)
    head.weight.mul_(2.0)
    assert not used(head, apply, hidden, 1), "an optimiser's step"
    assert used(head, apply, hidden)
    head.weight.data = torch.randn(V, D)
    assert not used(head, apply, hidden, 1), "weights that were swapped"
    assert used(head, apply, hidden)
    assert not used(nn.Linear(D, V), apply, hidden, 1), "another head"
    assert used(head, apply, hidden)
    head.bias.add_(1.0)  # which isn't kept
    assert used(head, apply, hidden, 1)


class Doubled(nn.Linear):
    """A head whose formula is its own."""

    def forward(self, hidden: Tensor) -> Tensor:
        return 2.0 * super().forward(hidden)


def hooked() -> nn.Module:
    head = nn.Linear(D, V)
    head.register_forward_hook(lambda module, inputs, output: output + 1.0)
    return head


OTHERS = {
    "its own formula": lambda: Doubled(D, V),
    "a hook": hooked,
    "made of others": lambda: weight_norm(nn.Linear(D, V)),
    "two layers": lambda: nn.Sequential(nn.Linear(D, V)),
    "float64": lambda: nn.Linear(D, V).double(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_heads_are_called(name: str) -> None:
    head = OTHERS[name]()
    dtype = next(head.parameters()).dtype
    assert not used(head, PrepackedHead(), torch.randn(3, D, dtype=dtype))


def test_no_gain_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden = nn.Linear(D, V), torch.randn(3, D)
    assert not used(head, PrepackedHead(), hidden[:1]), "one row is a product with a vector"
    with torch.autocast("cpu", torch.bfloat16):
        assert not used(head, PrepackedHead(), hidden)
    with torch.enable_grad():
        assert not used(head, PrepackedHead(), hidden)
        assert PrepackedHead()(head, hidden).requires_grad
    monkeypatch.setattr(prepacked, "LEAST_ELEMENTS", D * V + 1)
    assert not used(head, PrepackedHead(), hidden)


def test_a_denoiser_keeps_it_for_as_long_as_it_lives() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(V, D), nn.Linear(D, V)

        def hidden(self, tokens: Tensor, *, select: Tensor | None = None) -> Tensor:
            x = self.embedding(tokens)
            return x if select is None else x.flatten(0, 1)[select]

    network, tokens = Network(), torch.randint(V, (2, 3))
    denoiser = as_denoiser(network)
    for _ in range(CALLS_THAT_PAY):
        torch.testing.assert_close(denoiser.logits(tokens), network.head(network.hidden(tokens)))
    assert denoiser.prepacked._packed is not None

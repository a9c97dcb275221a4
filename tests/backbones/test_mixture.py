"""A mixture of experts: token by token, with one question to the device, or none where products are grouped."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones import grouped
from llada.backbones.layers import SwiGLU
from llada.backbones.mixture import MixtureOfExperts

EXPERTS, WIDTH = 4, 8


def mixture(shared: bool = False) -> MixtureOfExperts:
    torch.manual_seed(0)
    made = [SwiGLU(WIDTH, 16) for _ in range(EXPERTS + shared)]
    return MixtureOfExperts(WIDTH, list(made[:EXPERTS]), 2, made[EXPERTS] if shared else None)


NEEDS_GROUPED = pytest.mark.skipif(
    not hasattr(F, "grouped_mm"), reason="torch.nn.functional.grouped_mm needs torch 2.10"
)
PRODUCTS = ["alone", pytest.param("grouped", marks=NEEDS_GROUPED)]


def by_token(model: MixtureOfExperts, x: Tensor) -> Tensor:
    """The definition."""
    rows = []
    for row in x.flatten(0, -2):
        weights, experts = model.router(row).softmax(-1).topk(2)
        parts = [w * model.experts[e](row) for w, e in zip(weights, experts.tolist(), strict=True)]
        rows.append(sum(parts) + (0 if model.shared is None else model.shared(row)))
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("products", PRODUCTS)
def test_it_is_the_weighted_sum_of_the_chosen_experts(
    products: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "fits", lambda rows, experts: products == "grouped" and grouped.plain(experts))
    model = mixture(shared)
    with torch.no_grad():
        model.router.weight[3] -= 100.0  # nobody chooses it, mostly
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    found, expected = model(x), by_token(model, x)
    torch.testing.assert_close(found, expected)
    parameters = [x, *model.parameters()]
    gradients = [
        torch.autograd.grad(y.square().sum(), parameters, allow_unused=True, materialize_grads=True)
        for y in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    unused = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))  # all are in the graph, for DDP
    assert all(gradient is not None for gradient in unused)


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_device_is_asked_at_most_once(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: asked.append(1) or plain(x))
    monkeypatch.setattr(Tensor, "nonzero", lambda *_, **__: pytest.fail("a search by expert"))
    monkeypatch.setattr(grouped, "fits", lambda *_: products == "grouped")
    mixture()(torch.randn(3, WIDTH))
    assert len(asked) == (products == "alone")


def test_what_can_be_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(change: Any) -> bool:
        model = mixture()
        change(model.experts)
        return grouped.plain(model.experts)

    assert changed(lambda experts: None)
    assert not changed(lambda experts: setattr(experts[1], "up_proj", nn.Sequential(experts[1].up_proj)))  # an adapter
    assert not changed(lambda experts: experts.append(SwiGLU(WIDTH, 24)))
    assert not changed(lambda experts: experts.append(nn.Linear(WIDTH, WIDTH)))
    assert not changed(lambda experts: [experts.__setitem__(i, SwiGLU(WIDTH, 6)) for i in range(EXPERTS)])
    assert not changed(lambda experts: setattr(experts[0], "down_proj", nn.Linear(16, WIDTH)))  # with a bias
    assert not grouped.fits(torch.zeros(2, WIDTH, dtype=torch.bfloat16), mixture().experts)  # on a CPU

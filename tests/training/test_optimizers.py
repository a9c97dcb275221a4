"""PyTorch's optimisers are fused where they can be, and nothing that was asked for is changed."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from llada.training.groups import made
from llada.training.muon import MuonAdamW
from tests.fake_cuda import fake_cuda, moved

AdamW = torch.optim.AdamW


def groups(layer: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [p], "is_hidden": p.ndim == 2} for p in layer.parameters()]


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (AdamW, True),
        (partial(AdamW, lr=3e-4), True),
        (partial(torch.optim.SGD, lr=0.1), True),
        (partial(AdamW, fused=False), False),
        (partial(AdamW, foreach=True), None),
        (torch.optim.Adamax, None),
    ],
)
def test_on_cuda(optimizer: Any, fused: bool | None) -> None:
    layer = nn.Linear(4, 4)
    with fake_cuda():
        moved(layer, torch.float32)
        found = made(optimizer, groups(layer))
    assert found.defaults.get("fused") is fused
    assert [group.get("fused") for group in found.param_groups] == [fused] * 2
    assert found.defaults["lr"] == optimizer(groups(nn.Linear(1, 1))).defaults["lr"]
    assert not getattr(found, "_step_supports_amp_scaling", False)  # or Lightning would refuse to clip gradients


def test_elsewhere_and_others_are_left_as_they_are() -> None:
    assert made(AdamW, groups(nn.Linear(4, 4))).defaults["fused"] is None
    with fake_cuda():
        layer = nn.Linear(4, 4)
    with fake_cuda():
        moved(layer, torch.float32)
        assert type(made(MuonAdamW, groups(layer))) is MuonAdamW

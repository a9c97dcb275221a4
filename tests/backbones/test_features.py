"""Partial updates: a pass over everything is the model, and a pass over a share computes the tokens that changed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer

VOCAB, LENGTH = 20, 9
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_kv_heads": 1, "qk_norm": True},
    "shift": {"shift": True},
    "biases": {"qkv_bias": True, "bias": True},
}


def build(scale: float = 2.0, **options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    model = BidirectionalTransformer(VOCAB, **{"width": 32, "num_layers": 3, "num_heads": 4, **options})
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return model.double().eval()


def tokens(rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


def everything(x: Tensor) -> dict[str, Any]:
    return {"start": torch.zeros_like(x[:, 0]), "width": LENGTH, "share": 1.0, "select": torch.arange(x.numel())}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_full_update_is_the_model(name: str) -> None:
    model, x = build(**VARIANTS[name]), tokens()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, :3] = False
    features = model.new_feature_cache(*x.shape)
    hidden = features.hidden(x, **everything(x), attention_mask=mask).view(*x.shape, -1)
    plain = build(**{**VARIANTS[name], "shift": False})
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(hidden[mask], plain.hidden(x, attention_mask=mask)[mask])
    assert features.lead == int(model.shift)
    changed = (x + 1) % VOCAB
    again = features.hidden(changed, **everything(x), attention_mask=mask).view(*x.shape, -1)
    torch.testing.assert_close(again[mask], plain.hidden(changed, attention_mask=mask)[mask])


@torch.no_grad()
def test_columns_before_a_row_s_start_stay_as_they_were() -> None:
    model, x = build(), tokens()
    features = model.new_feature_cache(*x.shape)
    features.hidden(x, **everything(x))
    before = [layer.clone() for layer in (*features.attention, *features.feed_forward)]
    start = torch.tensor([0, 4, 8])
    features.hidden((x + 1) % VOCAB, start, LENGTH, 1.0, select=torch.arange(3))
    for old, new in zip(before, (*features.attention, *features.feed_forward), strict=True):
        differs = (old != new).any(-1)
        assert torch.equal(differs, torch.arange(LENGTH) >= start[:, None])


@torch.no_grad()
def test_a_share_is_rounded_up_in_each_row_and_layer() -> None:
    model, x = build(), tokens()
    features = model.new_feature_cache(*x.shape)
    features.hidden(x, **everything(x))
    start, share = torch.tensor([0, 4, 8]), 0.4
    before = [layer.clone() for layer in features.feed_forward]
    features.hidden((x + 3) % VOCAB, start, LENGTH, share, select=torch.arange(3))
    counts = [(old != new).any(-1).sum(1).tolist() for old, new in zip(before, features.feed_forward, strict=True)]
    reach = [LENGTH - int(column) for column in start]
    assert counts == [reach, *[[math.ceil(share * count) for count in reach]] * 2]  # the first layer computes all


@torch.no_grad()
def test_the_token_that_changed_is_computed() -> None:
    model, x = build(scale=1.0), tokens(2)  # near the initialisation, where a token's own part is the largest
    features = model.new_feature_cache(*x.shape)
    features.hidden(x, **everything(x))
    changed, before = x.clone(), [layer.clone() for layer in features.attention]
    changed[0, 6], changed[1, 2] = (x[0, 6] + 1) % VOCAB, (x[1, 2] + 1) % VOCAB
    features.hidden(changed, torch.zeros(2, dtype=torch.int64), LENGTH, 1e-9, select=torch.arange(2))
    for old, new in list(zip(before, features.attention, strict=True))[1:]:
        assert (old != new).any(-1).nonzero().tolist() == [[0, 6], [1, 2]]


@pytest.mark.parametrize("share", [1.0, 0.3])
@torch.no_grad()
def test_a_row_of_a_ragged_batch_is_the_row_alone(share: float) -> None:
    model, x, later = build(), tokens(), (tokens() + 5) % VOCAB
    start = torch.tensor([2, 7, 5])
    together = model.new_feature_cache(*x.shape)
    together.hidden(x, **everything(x))
    hidden = together.hidden(later, start, LENGTH - 2, share, select=torch.arange(x.numel())).view(*x.shape, -1)
    for row in range(3):
        alone, one = model.new_feature_cache(1, LENGTH), x[row : row + 1]
        alone.hidden(one, **everything(one))
        width = LENGTH - int(start[row])
        single = alone.hidden(later[row : row + 1], start[row : row + 1], width, share, select=torch.arange(LENGTH))
        torch.testing.assert_close(hidden[row], single)
    assert not torch.allclose(hidden, model.hidden(later))


@torch.no_grad()
def test_what_changed_is_found_in_the_models_own_precision_and_rounding_decides_nothing() -> None:
    """A change of 1e-5 moves a cosine by 1e-10: seen in float64, and not in float32, where the leftmost come first."""
    model = build()
    columns, reach = torch.arange(LENGTH)[None], torch.tensor([[LENGTH]])
    x = torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(2)).double()
    likeness = {}
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        features = model.new_feature_cache(1, LENGTH)
        values = model.blocks[1].values(x.to(dtype))
        stored = values * (1.0 + 1e-7 * torch.rand(values.shape, generator=torch.Generator().manual_seed(3)))
        if dtype == torch.float64:
            stored = values.clone()
        stored[0, 4, ::2] *= 1.0 + 1e-5
        features.store.values[1].copy_(stored.view(1, LENGTH, 4, 8).transpose(1, 2))
        likeness[dtype] = features._likeness(1, x.to(dtype), columns, reach)[0]
    others = torch.arange(LENGTH) != 4
    assert (likeness[torch.float64][others] == likeness[torch.float64][0]).all()
    assert likeness[torch.float64][4] < likeness[torch.float64][0]
    assert (likeness[torch.float32] == likeness[torch.float32][0]).all()

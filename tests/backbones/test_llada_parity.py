"""LLaDA's own logits and hidden states, from its own weights (tests/golden/llada-tiny)."""

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from tests.golden_models import arrays, tiny_llada

CLOSE = {"atol": 3e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model() -> BidirectionalTransformer:
    return tiny_llada()


@pytest.mark.parametrize("ids", ["ids", "ids_noised"])
def test_logits(model: BidirectionalTransformer, ids: str) -> None:
    golden = arrays("llada-tiny", "logits")
    torch.testing.assert_close(model(golden[ids]), golden[ids.replace("ids", "logits")], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_logits(model: BidirectionalTransformer, side: str) -> None:
    golden = arrays("llada-tiny", "logits")
    mask = golden[f"{side}_mask"].bool()
    logits = model(golden[f"{side}_ids"], attention_mask=golden[f"{side}_mask"])
    torch.testing.assert_close(logits[mask], golden[f"{side}_logits"][mask], **CLOSE)
    without_mask = model(golden[f"{side}_ids"])
    assert not torch.allclose(without_mask[mask], golden[f"{side}_logits"][mask], **CLOSE)


def test_hidden_states(model: BidirectionalTransformer) -> None:
    golden = arrays("llada-tiny", "logits")
    seen = [model.embedding(golden["ids"])]
    handles = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in model.blocks]
    seen[-1:] = [seen[0]]
    final = model.hidden(golden["ids"])
    for handle in handles:
        handle.remove()
    ours = [*seen[:-1], final]
    assert len(ours) == len(golden["hidden_states"])
    for mine, theirs in zip(ours, golden["hidden_states"], strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_selected_rows_equal_the_full_forward(model: BidirectionalTransformer) -> None:
    ids = arrays("llada-tiny", "logits")["ids"]
    select = torch.tensor([0, 7, ids.numel() - 1])
    torch.testing.assert_close(model.hidden(ids, select=select), model.hidden(ids).flatten(0, 1)[select])


def test_cached_regions(model: BidirectionalTransformer) -> None:
    golden = arrays("llada-tiny", "cache_forward")
    start, stop = golden["block"].tolist()
    warm = golden["x_warm"]
    length = warm.shape[1]
    cache = model.new_cache(len(warm), length)
    full = model.head(model.hidden(warm, cache=cache, region=slice(0, length)))
    torch.testing.assert_close(full, golden["full_logits"], **CLOSE)
    for step in (1, 2):
        canvas = golden[f"x_step{step}"]
        block = model.head(model.hidden(canvas[:, start:stop], cache=cache, region=slice(start, stop)))
        torch.testing.assert_close(block, golden[f"dual_logits_step{step}"], **CLOSE)
    for step in (1, 2):
        canvas = golden[f"x_step{step}"]
        tail = model.head(model.hidden(canvas[:, start:], cache=cache, region=slice(start, length)))
        torch.testing.assert_close(tail, golden[f"prefix_logits_step{step}"], **CLOSE)


def test_a_cached_region_by_index_equals_the_one_by_slice(model: BidirectionalTransformer) -> None:
    canvas = arrays("llada-tiny", "logits")["ids"]
    region = torch.tensor([[1, 4, 2]]).expand(len(canvas), 3)
    by_index, by_slice = (model.new_cache(*canvas.shape) for _ in range(2))
    for cache in (by_index, by_slice):
        model.hidden(canvas, cache=cache, region=slice(0, canvas.shape[1]))
    changed = canvas.clone()
    changed[:, 1:5] = 3
    ours = model.hidden(changed.gather(1, region), cache=by_index, region=region)
    theirs = model.hidden(changed[:, 1:5], cache=by_slice, region=slice(1, 5))
    assert ours.shape == (len(canvas), 3, 64)
    # Position 3 is stale in one cache and fresh in the other, so only the keys written by both must agree.
    assert torch.allclose(by_index.keys[0][:, :, [1, 2, 4]], by_slice.keys[0][:, :, [1, 2, 4]], atol=1e-6)
    assert not torch.allclose(ours[:, 0], theirs[:, 0])

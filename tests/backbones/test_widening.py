"""Attention between causal and full: its two ends, its share, and that no row depends on its neighbours."""

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.kernels import plain_attention, sdpa_attention
from llada.backbones.attention.widening import Widened, Widening

LENGTH = 12


def model(causal: bool = False) -> BidirectionalTransformer:
    torch.manual_seed(0)
    return BidirectionalTransformer(11, 16, 2, 2, causal=causal, shift=True).double().eval()


def tokens(seed: int, number: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(11, (number, length), generator=torch.Generator().manual_seed(seed))


def widened(share: float, step: int = 0) -> BidirectionalTransformer:
    found = model()
    found.widening = Widening(share, seed=5, step=step)
    return found


def test_the_ends_are_the_causal_twin_and_the_full_model() -> None:
    x, real = tokens(1), torch.arange(LENGTH) < torch.tensor([[12], [9]])
    for inputs in ({}, {"attention_mask": real}, {"segment_ids": (torch.arange(LENGTH) >= 5).long().expand(2, -1)}):
        torch.testing.assert_close(widened(0.0)(x, **inputs), model(causal=True)(x, **inputs), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(widened(1.0)(x, **inputs), model()(x, **inputs), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(widened(0.5)(x, **inputs), model()(x, **inputs))


def test_the_share_is_that_of_later_tokens_and_earlier_ones_are_all_seen() -> None:
    mask = Widening(0.3, seed=1, step=7).visibility(tokens(1, length=200), None, None).mask
    assert mask is not None
    assert mask.shape == (1, 1, 200, 200)
    later = torch.ones(200, 200).triu(1).bool()
    assert mask[0, 0][~later].all()
    assert abs(float(mask[0, 0][later].double().mean()) - 0.3) < 0.013  # 4 standard errors: one alarm in 16,000


def test_a_wider_share_opens_more_and_closes_nothing_within_a_step() -> None:
    few, many = (Widening(share, seed=1, step=7).opened(30, torch.device("cpu")) for share in (0.2, 0.6))
    assert (many | ~few).all()
    assert not torch.equal(few, Widening(0.2, seed=1, step=8).opened(30, torch.device("cpu")))
    assert not torch.equal(few, Widening(0.2, seed=2, step=7).opened(30, torch.device("cpu")))


def test_no_row_depends_on_its_neighbours_its_padding_or_its_place_in_a_packed_row() -> None:
    net, x = widened(0.4), tokens(1)
    alone = net(x[:1])
    torch.testing.assert_close(net(x)[:1], alone)
    padded = torch.cat([tokens(2, 1, 3), x[:1], tokens(3, 1, 2)], 1)
    real = (torch.arange(LENGTH + 5) >= 3) & (torch.arange(LENGTH + 5) < LENGTH + 3)
    torch.testing.assert_close(net(padded, attention_mask=real[None])[:, 3:-2], alone)
    packed = torch.cat([tokens(2, 1, 5), x[:1]], 1)
    segments = (torch.arange(LENGTH + 5) >= 5).long()[None]
    torch.testing.assert_close(net(packed, segment_ids=segments)[:, 5:], alone)


def test_kernels_agree_on_it() -> None:
    visibility = Widening(0.4).visibility(tokens(1), torch.arange(LENGTH) >= torch.tensor([[0], [3]]), None)
    assert isinstance(visibility, Widened)
    q, k, v = torch.randn(3, 2, 2, LENGTH, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sdpa_attention(q, k, v, visibility), plain_attention(q, k, v, visibility))


def test_a_cache_is_refused() -> None:
    net = widened(0.4)
    with pytest.raises(ValueError, match="no cache holds while the attention is widened"):
        net.hidden(tokens(1), cache=net.new_cache(2, LENGTH), region=slice(0, LENGTH))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=rf"in \[0, 1\]; got {share}"):
        Widening(share)

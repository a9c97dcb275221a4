"""Block-causal visibility: exact masks, and who may influence whom."""

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.block_causal import block_causal

VOCAB = 20


def build(block_length: int, shift: bool = False) -> BidirectionalTransformer:
    torch.manual_seed(0)
    model = BidirectionalTransformer(VOCAB, 32, 2, 4, block_length=block_length, shift=shift)
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    return model.double().eval()


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def seen(mask: Tensor | None) -> list[str]:
    """A row of the mask per query of the first batch row."""
    assert mask is not None
    return ["".join("x" if look else "." for look in row) for row in mask[0, 0].tolist()]


def test_the_mask_is_a_staircase_of_blocks() -> None:
    mask = block_causal(2, tokens(1, 5)).mask
    assert seen(mask) == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]


def test_blocks_count_from_the_first_real_token() -> None:
    keys = torch.tensor([[False, True, True, True, True]])
    mask = block_causal(2, tokens(1, 5), keys).mask
    assert seen(mask)[1:] == [".xx..", ".xx..", ".xxxx", ".xxxx"]


def test_blocks_restart_with_a_packed_segment() -> None:
    mask = block_causal(2, tokens(1, 5), None, torch.tensor([[0, 0, 0, 1, 1]])).mask
    assert seen(mask) == ["xx...", "xx...", "xxx..", "...xx", "...xx"]


@pytest.mark.parametrize(("start", "stop", "expected"), [(2, 4, None), (2, 5, ["xxxx.", "xxxx.", "xxxxx"])])
def test_a_region_sees_the_cache_up_to_its_own_blocks(start: int, stop: int, expected: list[str] | None) -> None:
    cache, region = build(2).new_cache(1, 6), slice(start, stop)
    mask = block_causal(2, tokens(1, stop - start), None, None, cache, region).mask
    if expected is None:  # one block: all that the cache shows is visible
        assert mask is None
        assert cache.visible(region) == stop
    else:
        assert seen(mask) == expected


@pytest.mark.parametrize("block_length", [1, 3, 20])
def test_a_change_is_seen_in_its_own_and_later_blocks(block_length: int) -> None:
    model, x = build(block_length), tokens(1, 8)
    changed = x.clone()
    changed[0, 4] = (changed[0, 4] + 1) % VOCAB
    moved = (model(x) - model(changed)).abs().amax(-1)[0] > 1e-12
    assert torch.equal(moved, torch.arange(8) >= 4 // block_length * block_length)


def test_blocks_of_one_are_causal_and_one_block_is_bidirectional() -> None:
    x = tokens(2, 7)
    for block_length, options in ((1, {"causal": True}), (7, {})):
        blocks, other = build(block_length), BidirectionalTransformer(VOCAB, 32, 2, 4, **options).double().eval()
        other.load_state_dict(blocks.state_dict())
        torch.testing.assert_close(blocks(x), other(x))


@pytest.mark.parametrize("shift", [False, True])
def test_blocks_run_one_after_the_other_are_the_whole_row(shift: bool) -> None:
    model, x = build(3, shift), tokens(2, 8)
    whole = build(3).hidden(x)
    cache = model.new_cache(2, 8)
    parts = [model.hidden(x[:, a:b], cache=cache, region=slice(a, b)) for a, b in ((0, 3), (3, 6), (6, 8))]
    torch.testing.assert_close(torch.cat(parts, 1), whole)  # outputs of a region aren't shifted
    assert cache.lead == int(shift)


def test_it_has_an_exact_cache_and_so_no_partial_updates() -> None:
    with pytest.raises(ValueError, match="has an exact cache; use it instead"):
        build(4).new_feature_cache(1, 8)
    with pytest.raises(ValueError, match="block_length must be 1 or more"):
        build(0)


def test_a_causal_model_with_blocks_sees_nothing_behind_a_token_with_a_cache_or_without() -> None:
    torch.manual_seed(0)
    options = {"width": 32, "num_layers": 2, "num_heads": 4, "causal": True, "shift": True}
    plain = BidirectionalTransformer(VOCAB, **options).double()
    model = BidirectionalTransformer(VOCAB, **options, block_length=4).double()
    model.load_state_dict(plain.state_dict())
    x = torch.randint(VOCAB, (2, 10))
    assert torch.equal(model(x), plain(x))
    cache, reference = model.new_cache(2, 10), plain.new_cache(2, 10)
    for region in (slice(0, 3), slice(3, 8)):
        found, wanted = (
            each.hidden(x[:, region], cache=kept, region=region) for each, kept in ((model, cache), (plain, reference))
        )
        assert torch.equal(found, wanted)

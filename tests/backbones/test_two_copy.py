"""Two copies in one pass say what a pass per block says, and nobody sees what it mustn't."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.objectives import NELBO, Blockwise
from llada.process import MaskingProcess
from llada.random import RowRandom

VOCAB, BLOCK, LENGTH = 11, 4, 14
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "convolution": {"convolution": 5},
    "window longer than the row": {"convolution": 31},
    "grouped": {"num_kv_heads": 1, "qk_norm": True},
    "shift": {"shift": True},
    "shift and convolution": {"shift": True, "convolution": 3},
}


def build(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    options = {"width": 32, "num_layers": 2, "num_heads": 2, "block_length": BLOCK, **options}
    return BidirectionalTransformer(VOCAB, **options).double().eval()


def rows(seed: int, number: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCAB, (number, length), generator=torch.Generator().manual_seed(seed))


def per_block(model: BidirectionalTransformer, noisy: Tensor, clean: Tensor) -> Tensor:
    """A pass over (clean blocks before, noisy block) for each block."""
    parts = []
    for start in range(0, noisy.shape[1], BLOCK):
        row = torch.cat([clean[:, :start], noisy[:, start : start + BLOCK]], dim=1)
        parts.append(model.hidden(row)[:, start:])
    return torch.cat(parts, dim=1)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> BidirectionalTransformer:
    return build(**VARIANTS[request.param])


def test_one_pass_equals_a_pass_per_block(model: BidirectionalTransformer) -> None:
    noisy, clean = rows(1), rows(2)
    wanted = per_block(model, noisy, clean)
    torch.testing.assert_close(model.hidden(noisy, clean=clean), wanted)
    select = torch.tensor([0, 5, 13, 14, 27])
    torch.testing.assert_close(model.hidden(noisy, clean=clean, select=select), wanted.flatten(0, 1)[select])
    assert not torch.allclose(model.hidden(noisy), wanted)  # the clean copy matters


def test_the_gradient_is_that_of_the_passes_too(model: BidirectionalTransformer) -> None:
    noisy, clean = rows(1), rows(2)
    direction = torch.randn(*noisy.shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients = [
        torch.autograd.grad((out * direction).sum(), list(model.blocks.parameters()))
        for out in (model.hidden(noisy, clean=clean), per_block(model, noisy, clean))
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model: BidirectionalTransformer, side: str) -> None:
    noisy, clean, junk = rows(1), rows(2), rows(3, length=3)
    padded = [torch.cat([junk, x] if side == "left" else [x, junk], dim=1) for x in (noisy, clean)]
    real = torch.ones(2, LENGTH + 3, dtype=torch.bool)
    real[:, slice(0, 3) if side == "left" else slice(LENGTH, None)] = False
    out = model.hidden(padded[0], clean=padded[1], attention_mask=real)[real].view(2, LENGTH, -1)
    torch.testing.assert_close(out, model.hidden(noisy, clean=clean))


def test_packed_segments_are_rows_of_their_own(model: BidirectionalTransformer) -> None:
    noisy, clean = rows(1), rows(2)
    segments = (torch.arange(LENGTH) >= 6).long().expand(2, -1)
    out = model.hidden(noisy, clean=clean, segment_ids=segments)
    for part in (slice(0, 6), slice(6, None)):
        torch.testing.assert_close(out[:, part], model.hidden(noisy[:, part], clean=clean[:, part]))


def test_ragged_rows_say_what_their_own_passes_per_block_say(model: BidirectionalTransformer) -> None:
    noisy, clean, starts = rows(1, 3), rows(2, 3), (0, 3, 6)
    real = torch.arange(LENGTH) >= torch.tensor(starts)[:, None]
    out = model.hidden(noisy, clean=clean, attention_mask=real)
    for row, start in enumerate(starts):
        alone = slice(row, row + 1), slice(start, None)
        torch.testing.assert_close(out[alone], per_block(model, noisy[alone], clean[alone]))


def test_packed_and_padded_segments_say_what_their_own_passes_per_block_say(model: BidirectionalTransformer) -> None:
    noisy, clean = rows(1), rows(2)
    bounds = ((0, 5, 6, 14), (0, 1, 9, 12))  # where segments begin; the second row ends in padding
    segments = torch.stack([(torch.arange(LENGTH)[:, None] >= torch.tensor(row)).sum(1) for row in bounds])
    real = torch.arange(LENGTH) < torch.tensor([[14], [12]])
    out = model.hidden(noisy, clean=clean, segment_ids=segments, attention_mask=real)
    for row, edges in enumerate(bounds):
        for start, stop in pairwise(edges):
            alone = slice(row, row + 1), slice(start, stop)
            torch.testing.assert_close(out[alone], per_block(model, noisy[alone], clean[alone]))


def test_without_a_clean_copy_no_token_sees_a_later_block(model: BidirectionalTransformer) -> None:
    x, last = rows(1), BLOCK * 2
    changed = x.clone()
    changed[:, last:] = (changed[:, last:] + 1) % VOCAB
    assert torch.equal(model.hidden(x)[:, :last], model.hidden(changed)[:, :last])
    assert not torch.allclose(model.hidden(x)[:, last:], model.hidden(changed)[:, last:])


def test_finished_blocks_can_be_cached(model: BidirectionalTransformer) -> None:
    x = rows(1, length=3 * BLOCK)
    cache = model.new_cache(*x.shape)
    parts = [slice(start, start + BLOCK) for start in range(0, 3 * BLOCK, BLOCK)]
    cached = [model.hidden(x[:, part], cache=cache, region=part) for part in parts]
    lead = int(model.shift)  # outputs of a region aren't shifted
    found = torch.cat(cached, dim=1)[:, : 3 * BLOCK - lead]
    torch.testing.assert_close(found, model.hidden(x)[:, lead:])


def test_blocks_of_one_token_with_shift_are_the_autoregressive_model() -> None:
    """Its loss too, whatever stands in the noisy copy: packed segments, padding, and a first token that is given."""
    diffusion = build(block_length=1, shift=True)
    causal = build(block_length=None, causal=True, shift=True)
    causal.load_state_dict(diffusion.state_dict())
    x, real = rows(1) % (VOCAB - 1), torch.arange(LENGTH) < torch.tensor([[14], [11]])
    inputs = {"segment_ids": (torch.arange(LENGTH) >= 6).long().expand(2, -1), "attention_mask": real}
    maskable = real & (torch.arange(LENGTH) % 6 > 0)
    batch = {"tokens": x, "maskable": maskable, **inputs}
    random = RowRandom.for_step(0, 0, torch.arange(2), 2)
    found = NELBO(Blockwise())(diffusion, MaskingProcess(VOCAB - 1), batch, random=random).nelbo
    terms = torch.nn.functional.cross_entropy(causal(x, **inputs).mT, x, reduction="none")
    torch.testing.assert_close(found, (terms * maskable).sum(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inputs", [{}, {"attention_mask": torch.arange(LENGTH) >= torch.tensor([[0], [3]])}])
def test_a_block_of_the_whole_row_needs_no_clean_copy(
    model: BidirectionalTransformer, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "block_length", LENGTH)
    alone, real = model.hidden(rows(1), clean=rows(2), **inputs), inputs.get("attention_mask", torch.ones(2, LENGTH))
    assert torch.equal(alone, model.hidden(rows(1), clean=rows(3), **inputs))
    wider = [torch.cat([rows(seed), rows(seed, length=1)], 1) for seed in (1, 2)]
    longer = {name: torch.cat([value, torch.zeros(2, 1).bool()], 1) for name, value in inputs.items()}
    longer = longer or {"attention_mask": torch.arange(LENGTH + 1).expand(2, -1) < LENGTH}
    both = model.hidden(wider[0], clean=wider[1], **longer)[:, :LENGTH]  # a block and a column of padding: two copies
    torch.testing.assert_close(alone[real.bool()], both[real.bool()])


def test_a_backbone_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a backbone with block_length, such as block_length=32; got None"):
        build(block_length=None).hidden(rows(1), clean=rows(2))

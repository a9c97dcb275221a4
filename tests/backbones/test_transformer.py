"""The Transformer: its parts against plain formulas, and who may influence whom."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.convolution import RowNeighbours, ShortConvolution
from llada.backbones.inputs import rotary_positions
from llada.backbones.rotary import rotate, rotation

VOCAB = 20
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "multi_query": {"num_kv_heads": 1},
    "biases": {"qkv_bias": True, "bias": True},
    "tied": {"tie_embeddings": True},
    "head_dim": {"head_dim": 6},
    "qk_norm": {"qk_norm": True},
    "convolution": {"convolution": 3},
    "shift": {"shift": True},
    "causal": {"causal": True},
    "causal_convolution": {"causal": True, "convolution": 3},
}


def build(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    model = BidirectionalTransformer(VOCAB, **{"width": 32, "num_layers": 2, "num_heads": 4, **options}).double().eval()
    for block in model.blocks:
        if block.convolution is not None:
            torch.nn.init.normal_(block.convolution.taps)
    return model


@pytest.fixture(params=VARIANTS, scope="module")
def model(request: pytest.FixtureRequest) -> BidirectionalTransformer:
    return build(**VARIANTS[request.param])


def tokens(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def test_forward_is_head_of_hidden(model: BidirectionalTransformer) -> None:
    x = tokens()
    assert model(x).shape == (3, 9, VOCAB)
    assert torch.equal(model(x), model.head(model.hidden(x)))


def test_selected_rows_and_their_gradients(model: BidirectionalTransformer) -> None:
    x, select = tokens(), torch.tensor([0, 5, 9, 26])
    ours, theirs = model.hidden(x, select=select), model.hidden(x).flatten(0, 1)[select]
    torch.testing.assert_close(ours, theirs)
    parameters = list(model.blocks.parameters())
    gradients = [torch.autograd.grad(h.sum(), parameters, retain_graph=True) for h in (ours, theirs)]
    for mine, full in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, full)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_does_not_depend_on_padding_or_neighbours(model: BidirectionalTransformer, side: str) -> None:
    x, junk = tokens(1, 5), tokens(1, 4) + 1
    row = torch.cat((junk % VOCAB, x) if side == "left" else (x, junk % VOCAB), 1)
    real = torch.tensor([[False] * 4 + [True] * 5]) if side == "left" else torch.tensor([[True] * 5 + [False] * 4])
    batch = torch.cat((row, tokens(2, 9)))
    mask = torch.cat((real, torch.ones(2, 9, dtype=torch.bool)))
    logits = model(batch, attention_mask=mask)[0][real[0]]
    expected = model(x)[0]
    if model.shift and side == "left":  # its first token reads the padding in front of it, which it predicts from
        logits, expected = logits[1:], expected[1:]
    torch.testing.assert_close(logits, expected)


def test_batch_invariance_in_float32() -> None:
    model = build().float()
    x = tokens(8, 16)
    alone = torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(model(x), alone, rtol=1e-5, atol=1e-5)


def test_packed_documents_do_not_see_one_another(model: BidirectionalTransformer) -> None:
    a, b = tokens(1, 4), tokens(1, 5)
    packed = torch.cat((a, b), 1)
    segments = torch.tensor([[0] * 4 + [1] * 5])
    logits = model(packed, segment_ids=segments)
    expected = torch.cat((model(a), model(b)), 1)
    if model.shift:  # the first token of the second document is predicted from the last of the first
        logits, expected = (torch.cat((z[:, :4], z[:, 5:]), 1) for z in (logits, expected))
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(model(packed), logits if not model.shift else model(packed) + 1)


def test_everybody_sees_everybody_unless_causal(model: BidirectionalTransformer) -> None:
    x = tokens(1, 7)
    changed = x.clone()
    changed[0, 5] = (changed[0, 5] + 1) % VOCAB
    moved = (model(x) - model(changed)).abs().amax(-1)[0] > 1e-12
    expected = torch.ones(7, dtype=torch.bool)
    if model.causal:
        expected = torch.arange(7) >= 5
    assert torch.equal(moved, expected)


def test_activation_checkpointing_changes_nothing(model: BidirectionalTransformer) -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        model.activation_checkpointing = checkpointing
        model.train()
        model.zero_grad()
        model(tokens()).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b)
    model.eval()


def test_shift_reads_the_left_neighbour() -> None:
    plain, shifted = build(), build(shift=True)
    x = tokens()
    expected = plain(x)
    torch.testing.assert_close(shifted(x), torch.cat((expected[:, :1], expected[:, :-1]), 1))


def test_rotation_depends_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        turned = (rotate(x, rotation(torch.tensor([p]), 8, 100.0)) for x, p in ((q, i), (k, j)))
        a, b = turned
        return float((a * b).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), rel=1e-4)
    assert score(7, 3) != pytest.approx(score(3, 7), rel=1e-2)
    assert score(5, 5) == pytest.approx(float((q * k).sum()), rel=1e-5)


def test_rotation_by_the_complex_formula() -> None:
    x = torch.randn(1, 1, 5, 6)
    positions = torch.arange(5)
    turned = rotate(x, rotation(positions, 6, 50.0))
    z = torch.complex(x[..., :3], x[..., 3:])
    angles = positions[:, None] * 50.0 ** -(torch.arange(3) / 3.0)
    expected = z * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1))


def test_positions_restart_with_every_segment() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 0, 0]])
    assert rotary_positions(segments, segments, None).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]]


def test_convolution_by_the_library_formula() -> None:
    layer = ShortConvolution(4, 5).double()
    torch.nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    normed = layer.norm(x)
    kernel = layer.taps.T[:, None, :]
    expected = x + torch.nn.functional.conv1d(normed.transpose(1, 2), kernel, padding=2, groups=4).transpose(1, 2)
    torch.testing.assert_close(layer(x, RowNeighbours()), expected)
    short = x[:, :1]
    torch.testing.assert_close(layer(short, RowNeighbours()), short + normed[:, :1] * layer.taps[2])


def test_initialisation_is_lladas() -> None:
    torch.manual_seed(0)
    width, hidden = 256, 512
    model = BidirectionalTransformer(1000, width=width, num_layers=3, num_heads=4, hidden_width=hidden)
    # A normal cut at 3 deviations has 0.98658 of the standard deviation.
    cut = 0.98658

    def check(weight: Tensor, std: float) -> None:
        assert float(weight.detach().std()) == pytest.approx(cut * std, rel=0.02)
        assert float(weight.detach().abs().max()) <= 3 * std + 1e-6

    check(model.embedding.weight, width**-0.5)
    check(model.head.weight, width**-0.5)
    for layer, block in enumerate(model.blocks):
        for inward in (block.attention.q_proj, block.attention.v_proj, block.feed_forward.gate_proj):
            check(inward.weight, width**-0.5)
        check(block.attention.o_proj.weight, width**-0.5 / math.sqrt(2 * (layer + 1)))
        check(block.feed_forward.down_proj.weight, hidden**-0.5 / math.sqrt(2 * (layer + 1)))
        assert torch.equal(block.attention_norm.weight, torch.ones(width))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "isn't divisible by num_heads=5"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"head_dim": 5}, "even head width"),
        ({"attention": "flush"}, "attention kernel 'flush' is unknown"),
        ({"convolution": 4}, "must be odd"),
        ({"num_layers": 0}, "num_layers must be 1 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_input_is_named() -> None:
    model = build(max_length=8)
    with pytest.raises(ValueError, match="9 tokens but this backbone accepts at most max_length=8"):
        model(tokens())
    with pytest.raises(ValueError, match=r"token id 20 is outside of the vocabulary 0 \.\. 19"):
        model(torch.full((1, 2), 20))
    with pytest.raises(ValueError, match="token id -1 is outside"):
        model(torch.full((1, 2), -1))
    with pytest.raises(ValueError, match="cache and region go together"):
        model.hidden(tokens(1, 4), region=slice(0, 4))
    with pytest.raises(ValueError, match="short convolution"):
        build(convolution=3).new_feature_cache(1, 4)
    with pytest.raises(ValueError, match="causal mask"):
        build(causal=True).new_feature_cache(1, 4)


@pytest.mark.parametrize("causal", [False, True])
def test_a_convolution_on_a_region_reads_its_neighbours_from_the_cache(causal: bool) -> None:
    model, row = build(convolution=3, causal=causal).double(), tokens(2, 9)
    mask = torch.ones_like(row, dtype=torch.bool)
    mask[0, :2] = False
    whole = model.hidden(row, attention_mask=mask)
    cache = model.new_cache(2, 9)
    torch.testing.assert_close(model.hidden(row, cache=cache, region=slice(0, 9), attention_mask=mask), whole)
    part = model.hidden(row[:, 4:7], cache=cache, region=slice(4, 7), attention_mask=mask)
    torch.testing.assert_close(part, whole[:, 4:7])
    places = torch.tensor([[2, 5, 8], [0, 3, 4]])
    if not causal:  # whose columns behind the region aren't seen
        part = model.hidden(row.gather(1, places), cache=cache, region=places, attention_mask=mask)
        torch.testing.assert_close(part, whole.gather(1, places[..., None].expand(-1, -1, whole.shape[-1])))


@pytest.mark.parametrize("convolution", [0, 3])
def test_a_causal_model_runs_token_by_token_and_sees_nothing_to_the_right_of_the_region(convolution: int) -> None:
    model, x = build(causal=True, convolution=convolution), tokens(2, 6)
    cache = model.new_cache(2, 6)
    model.hidden((x + 1) % VOCAB, cache=cache, region=slice(0, 6))  # what stands there is stale
    parts = [model.hidden(x[:, i : i + 1], cache=cache, region=slice(i, i + 1)) for i in range(6)]
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(x))

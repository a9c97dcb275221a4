"""A user's own feed-forward layer and own block: training, gradients, cached decoding and checkpoints, with no flag."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer, Context, Layer
from llada.backbones.layers import Attention
from llada.checkpoints.describe import build as rebuild
from llada.checkpoints.describe import describe
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import Blocks, DualCache, ExactCache, IntervalCache, NoCache, Quota, UnmaskingSampler
from llada.training.flops import forward_flops
from llada.training.parallel import split_tensors

VOCAB, MASK = 12, 11


class Squared(nn.Module):
    """A feed-forward layer with a parameter of its own: W (scale * relu(x U))^2."""

    def __init__(self, width: int, inner: int = 24) -> None:
        super().__init__()
        self.up, self.down_proj = nn.Linear(width, inner), nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.empty(inner))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up(x) * self.scale).square())


class ParallelBlock(Layer):
    """Attention and feed-forward side by side, as in GPT-J: x + attention(norm(x)) + feed_forward(norm(x))."""

    def __init__(self, attention: Attention, width: int) -> None:
        super().__init__()
        self.norm, self.attention, self.feed_forward = nn.RMSNorm(width), attention, Squared(width)

    def forward(self, x: Tensor, context: Context, select: Tensor | None = None) -> Tensor:
        gathered = self.attention(self.norm(x), context)
        if select is not None:
            x, gathered = x.flatten(0, 1)[select], gathered.flatten(0, 1)[select]
        return x + self.attention.o_proj(gathered) + self.feed_forward(self.norm(x))


class ParallelTransformer(BidirectionalTransformer):
    """The library's Transformer with another kind of block."""

    def new_block(self, layer: int) -> nn.Module:
        return ParallelBlock(Attention(self.width, self.num_heads, self.num_kv_heads, self.head_dim), self.width)


KINDS: dict[str, Any] = {
    "feed_forward": partial(BidirectionalTransformer, feed_forward=partial(Squared, inner=20)),
    "class": partial(BidirectionalTransformer, feed_forward=Squared),
    "block": ParallelTransformer,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str, **options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    model = KINDS[kind](VOCAB, **{"width": 16, "num_layers": 2, "num_heads": 2, **options})
    assert isinstance(model, BidirectionalTransformer)
    return model.double().eval()


def tokens(rows: int = 3, length: int = 8) -> Tensor:
    return torch.randint(MASK, (rows, length), generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module) -> Tensor:
    return NELBO()(model, MaskingProcess(MASK), tokens(), random=RowRandom.from_seed(2, 3)).loss


@every_kind
def test_the_gradient_of_the_loss_is_its_slope(kind: str) -> None:
    model = build(kind)
    loss(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn_like(parameter)
        slope, step = float((parameter.grad * direction).sum()), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(float(loss(model)))
                parameter.sub_(sign * step * direction)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-7), name


@every_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind: str, side: str) -> None:
    model, x, junk = build(kind), tokens(2, 5), tokens(2, 3)
    row = torch.cat((junk, x) if side == "left" else (x, junk), 1)
    real = torch.arange(8).expand(2, -1) >= 3 if side == "left" else torch.arange(8).expand(2, -1) < 5
    found = model.hidden(row, attention_mask=real)[real].view(2, 5, -1)
    torch.testing.assert_close(found, model.hidden(x))


@every_kind
@torch.no_grad()
def test_cached_decoding(kind: str) -> None:
    model, canvas = build(kind), tokens(2)
    canvas[:, 4:] = MASK

    def decoded(model: nn.Module, cache: Any) -> Tensor:
        sampler = UnmaskingSampler(Quota(4), window=Blocks(2, from_start=True), cache=cache)
        return sampler(model, canvas, MaskingProcess(MASK)).tokens

    assert torch.equal(decoded(model, DualCache(refresh=1)), decoded(model, NoCache()))
    blocks = build(kind, block_length=2)
    assert torch.equal(decoded(blocks, ExactCache()), decoded(blocks, NoCache()))
    x, cache = tokens(), model.new_cache(3, 8)
    whole = model.hidden(x, cache=cache, region=slice(0, 8))
    torch.testing.assert_close(whole, model.hidden(x))
    part = model.hidden(x[:, 3:5], cache=cache, region=slice(3, 5), select=torch.tensor([0, 5]))
    torch.testing.assert_close(part, whole[:, 3:5].flatten(0, 1)[torch.tensor([0, 5])])


@torch.no_grad()
def test_a_layer_says_whether_it_can_be_updated_in_part() -> None:
    canvas = tokens(2)
    canvas[:, 4:] = MASK
    sampler = UnmaskingSampler(Quota(4), cache=IntervalCache(interval=1))
    plain = UnmaskingSampler(Quota(4))
    model, process = build("feed_forward"), MaskingProcess(MASK)
    assert torch.equal(sampler(model, canvas, process).tokens, plain(model, canvas, process).tokens)
    with pytest.raises(ValueError, match=r"partial updates don't know layer 0, a ParallelBlock .*DualCache"):
        sampler(build("block"), canvas, process)


@every_kind
def test_a_description_rebuilds_it(kind: str) -> None:
    model = build(kind)
    again = rebuild(describe(model), nn.Module)
    assert describe(again) == describe(model)
    again.double().load_state_dict(model.state_dict())
    assert torch.equal(again(tokens()), model(tokens()))


def test_a_feed_forward_layer_can_be_named_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "backbone")
    own = {"class_path": f"{Squared.__module__}.Squared", "init_args": {"inner": 20}}
    arguments = {"vocab_size": VOCAB, "width": 16, "num_layers": 1, "num_heads": 2, "feed_forward": own}
    config = {"class_path": "llada.backbones.BidirectionalTransformer", "init_args": arguments}
    model = parser.instantiate(parser.parse_object({"backbone": config})).backbone
    assert model.blocks[0].feed_forward.up.weight.shape == (20, 16)
    assert describe(model)["init_args"]["feed_forward"] == own
    assert rebuild(describe(model), nn.Module).blocks[0].feed_forward.up.weight.shape == (20, 16)


@every_kind
def test_own_parameters_are_initialised_by_their_own_module(kind: str) -> None:
    with torch.device("meta"):
        model = KINDS[kind](VOCAB, 16, 2, 2)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    model.reset_parameters()
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert all(bool((block.feed_forward.scale == 0.5).all()) for block in model.blocks)


def test_no_part_is_lost_where_only_known_ones_are_served() -> None:
    class TwoRanks:
        def size(self) -> int:
            return 2

    with pytest.raises(ValueError, match=r"tensor parallelism doesn't know blocks\.0\.feed_forward, a Squared"):
        split_tensors(build("class"), TwoRanks())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tensor parallelism doesn't know blocks\.0, a ParallelBlock"):
        split_tensors(build("block"), TwoRanks())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give feed_forward or num_experts, not both"):
        build("class", num_experts=4)
    body = 2 * sum(p.numel() for p in build("class").blocks.parameters() if p.ndim == 2)
    assert forward_flops(build("class")).per_token == body

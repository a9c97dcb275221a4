"""A union of runs says what the mask says, in outputs and gradients, and never holds anything of a mask's size."""

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.block_causal import BlockCausal, block_causal, token_blocks
from llada.backbones.attention.calls import VarlenCall
from llada.backbones.attention.halves import block_parts
from llada.backbones.attention.kernel import Case
from llada.backbones.attention.kernels import kernel_by_name, kernel_for, plain_attention
from llada.backbones.attention.union import Union
from llada.backbones.attention.visibility import Runs, Structure, Visibility
from llada.backbones.checkpointing import EveryBlock, Selective
from llada.backbones.two_copy import TwoCopies

ROWS, HEADS, WIDTH = 2, 4, 8
UNION = kernel_by_name("union")


def layout(name: str, length: int) -> tuple[Tensor | None, Tensor | None]:
    """Real tokens, and segments."""
    column, row = torch.arange(length), torch.arange(ROWS)[:, None]
    return {
        "dense": (None, None),
        "left": (column >= 3 * row + 1, None),
        "right": (column < length - 3 * row - 1, None),
        "holes": ((column % 5 != 0) | (row == 0), None),
        "packed": (None, (column >= 3 + row).long() + (column >= length // 2)),
        "packed and padded": (column < length - row - 1, (column >= 3 + row).long() + (column >= length // 2)),
    }[name]


LAYOUTS = ["dense", "left", "right", "holes", "packed", "packed and padded"]


def visible(name: str, length: int, block: int, copies: int) -> Visibility:
    keys, segments = layout(name, length)
    blocks = token_blocks(block, torch.zeros(ROWS, length), keys, segments)
    if copies == 2:
        return TwoCopies(keys=keys, segments=segments, blocks=blocks)
    return BlockCausal(keys=keys, segments=segments, query_blocks=blocks, key_blocks=blocks)


def heads(length: int, groups: int, dtype: torch.dtype = torch.float64, width: int = WIDTH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(ROWS, number, length, width) for number in (HEADS, groups, groups, HEADS)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def results(kernel: Any, inputs: list[Tensor], visibility: Visibility) -> list[Tensor]:
    """Outputs of real queries, and the gradients."""
    *qkv, weight = (x.clone().requires_grad_() for x in inputs)
    if visibility.keys is not None:
        weight = weight * visibility.keys.repeat(1, weight.shape[2] // visibility.keys.shape[1])[:, None, :, None]
    out = kernel(*qkv, visibility)
    return [out * (weight != 0), *torch.autograd.grad((out * weight).sum(), qkv)]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest relative difference of two lists of tensors."""
    return max(float(((x - y).norm() / y.norm()).detach()) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("block", [1, 2, 3, 4, 8, 32])
def test_it_is_the_mask(block: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = {1: 8, 2: 1, 3: 6, 4: 64, 8: 16, 32: 64}[block]
    monkeypatch.setattr("llada.backbones.attention.halves.LEAF", leaf)  # tokens that share one small mask
    groups, length = (1, 2, 4)[LAYOUTS.index(name) % 3], 40 if block == 8 else 37
    for copies in (1, 2):
        inputs, visibility = heads(copies * length, groups), visible(name, length, block, copies)
        wanted = results(plain_attention, inputs, visibility)
        assert apart(results(UNION, inputs, visibility), wanted) < 1e-12
        if copies == 2:
            assert apart(results(UNION, [x.float() for x in inputs], visibility), wanted) < 1e-6


def test_half_precision_is_summed_in_float32() -> None:
    inputs = [x.bfloat16() for x in heads(80, 2)]
    visibility = visible("packed", 40, 4, 2)
    wanted = results(plain_attention, [x.double() for x in inputs], visibility)
    assert apart(results(UNION, inputs, visibility), wanted) < 5e-3  # one rounding to 8 bits


def test_autocast_chooses_the_precision() -> None:
    inputs, visibility = heads(80, 2, torch.float32), visible("dense", 40, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert UNION(*inputs[:3], visibility).dtype == torch.bfloat16


def test_long_runs_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llada.backbones.attention.calls.QUERIES_PER_CALL", 6)
    inputs, visibility = heads(80, 2), visible("packed", 40, 3, 2)
    assert apart(results(UNION, inputs, visibility), results(plain_attention, inputs, visibility)) < 1e-12


def test_a_row_without_a_real_token_gives_zeros() -> None:
    keys = torch.tensor([[True] * 6, [False] * 6])
    blocks = token_blocks(2, torch.zeros(2, 6), keys, None)
    q, k, v, _ = heads(12, 4)
    out = UNION(q, k, v, TwoCopies(keys=keys, blocks=blocks))
    assert not out[1].any()
    assert out[0].any()
    nobody = TwoCopies(keys=keys[1:], blocks=blocks[1:])
    assert not UNION(q[:1], k[:1], v[:1], nobody).any()


def pairs(runs: Runs, length: int) -> Tensor:
    """(tokens, tokens) how often a query sees a key."""
    seen = torch.zeros(length, length)
    assert runs.query_index is not None
    assert runs.key_index is not None
    bounds = [(x[:-1].tolist(), x[1:].tolist()) for x in (runs.query_bounds, runs.key_bounds)]
    for a, b, c, d in zip(*bounds[0], *bounds[1], strict=True):
        seen[runs.query_index[a:b, None], runs.key_index[c:d]] += 1
    return seen


def test_a_key_is_in_exactly_one_part() -> None:
    visibility = visible("packed", 37, 3, 2)
    assert isinstance(visibility, TwoCopies)
    parts, mask = block_parts(visibility.blocks, None, visibility.segments, two_copies=True), visibility.mask
    assert mask is not None
    assert len(parts) == 4  # own blocks, and the bits of a segment's 7 blocks
    assert torch.equal(sum(pairs(part, ROWS * 74) for part in parts), torch.block_diag(*mask[:, 0].float()))
    assert sum(part.pairs for part in parts) == int(mask.sum())


class Peak(TorchDispatchMode):
    """Bytes that tensors hold while it is on, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        old = {x.untyped_storage().data_ptr() for x in tree_leaves((arguments, options)) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and (where := x.untyped_storage().data_ptr()) not in old | self.known:
                size = x.untyped_storage().nbytes()
                self.now, self.most = self.now + size, max(self.most, self.now + size)
                self.known.add(where)
                weakref.finalize(x.untyped_storage(), self.gone, where, size)
        return result

    def gone(self, where: int, size: int) -> None:
        self.now -= size
        self.known.discard(where)


def test_nothing_of_a_masks_size_is_held() -> None:
    length, width = 8192, 32
    blocks = token_blocks(32, torch.zeros(1, length), None, None)
    visibility = TwoCopies(blocks=blocks)
    q, k, v, grad = (torch.randn(1, 1, 2 * length, width) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    bound = 3 * (grad.nbytes + grad.nbytes // width)
    with Peak() as forward:
        out = UNION(q, k, v, visibility)
    assert grad.nbytes < forward.most < bound < length**2  # less than a mask of one byte for each half
    with Peak() as backward:
        gradients = torch.autograd.grad(out, (q, k, v), grad)
    assert 3 * grad.nbytes < backward.most < bound + sum(x.nbytes for x in gradients)


@pytest.fixture(scope="module")
def pretended_flash() -> Iterator[None]:
    """PyTorch's FlashAttention over runs, which is for CUDA, in plain formulas on the CPU, called by its own schema."""

    def runs(q: Tensor, k: Tensor, starts: Tensor, stops: Tensor, most: int, most_k: int) -> Iterator[Any]:
        assert starts.dtype == stops.dtype == torch.int32
        assert (starts[-1], stops[-1]) == (len(q), len(k))
        for run in range(len(starts) - 1):
            a, b, c, d = *starts[run : run + 2].tolist(), *stops[run : run + 2].tolist()
            assert 0 < b - a <= most
            assert 0 < d - c <= most_k
            yield slice(a, b), slice(c, d)

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1)) * q.shape[-1] ** -0.5

    def forward(q: Any, k: Any, v: Any, *rest: Any) -> Any:
        assert rest[4:] == (0.0, False, False)
        out, lse = torch.zeros_like(q), q.new_zeros(q.shape[1], len(q))
        for mine, their in runs(q, k, *rest[:4]):
            score = scores(q[mine], k[their])
            values = v[their].repeat_interleave(q.shape[1] // v.shape[1], 1)
            out[mine] = torch.einsum("hqk,khd->qhd", score.softmax(-1), values)
            lse[:, mine] = score.logsumexp(-1)
        return out, lse, q.new_zeros(2), q.new_zeros(0), q.new_zeros(0)

    def backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *rest: Any) -> Any:
        assert rest[4:6] == (0.0, False)
        assert lse.is_contiguous()
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        groups = q.shape[1] // k.shape[1]
        for mine, their in runs(q, k, *rest[:4]):
            p = (scores(q[mine], k[their]) - lse[:, mine, None]).exp()
            keys, values = (x[their].repeat_interleave(groups, 1) for x in (k, v))
            fixed = (grad[mine] * out[mine]).sum(-1).T[..., None]
            ds = p * (torch.einsum("qhd,khd->hqk", grad[mine], values) - fixed) * q.shape[-1] ** -0.5
            dq[mine] = torch.einsum("hqk,khd->qhd", ds, keys)
            for total, part in ((dk, torch.einsum("hqk,qhd->khd", ds, q[mine])),
                                (dv, torch.einsum("hqk,qhd->khd", p, grad[mine]))):  # fmt: skip
                total[their] = part.unflatten(1, (-1, groups)).sum(2)
        return dq, dk, dv

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.usefixtures("pretended_flash")
def test_what_flash_attention_over_runs_is_asked(name: str, groups: int) -> None:
    inputs, visibility = heads(42, groups), visible(name, 21, 4, 2)
    assert isinstance(visibility, TwoCopies)
    blocks = visibility.blocks.expand(ROWS, -1)
    parts = block_parts(blocks, visibility.keys, visibility.segments, two_copies=True)

    def on_cuda(q: Tensor, k: Tensor, v: Tensor, _: Visibility) -> Tensor:
        found = Union.apply(q, k, v, [VarlenCall(part) for part in parts])
        assert isinstance(found, Tensor)
        return found

    assert apart(results(on_cuda, inputs, visibility), results(plain_attention, inputs, visibility)) < 1e-12


@pytest.mark.skipif(
    not hasattr(torch.nn.functional, "grouped_mm"), reason="before torch 2.10 the rule for its shapes has another one"
)
def test_shapes_of_flash_attention_over_runs() -> None:
    """By the kernels' own rules for shapes and dtypes, on tensors that hold nothing."""
    parts = block_parts(torch.arange(21).expand(ROWS, -1) // 4, two_copies=True)
    moved = [Runs(*(x.to("meta") if isinstance(x, Tensor) else x for x in vars(part).values())) for part in parts]
    q, k, v = (torch.empty(ROWS, heads, 42, 64, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2))
    context = SimpleNamespace()
    context.save_for_backward = lambda *kept: setattr(context, "saved_tensors", kept)
    with torch.no_grad():
        out = Union.forward(context, q, k, v, [VarlenCall(part) for part in moved])
        *gradients, _ = Union.backward(context, torch.empty_like(out))
    assert (out.shape, out.dtype) == (q.shape, torch.bfloat16)
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in (q, k, v)]


@pytest.mark.parametrize("checkpointing", [False, EveryBlock(), Selective(), Selective(2)], ids=str)
def test_a_model_trains_the_same(checkpointing: Any) -> None:
    def gradients(attention: str, recompute: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = BidirectionalTransformer(
            11, 16, 2, 2, num_kv_heads=1, block_length=4, attention=attention, activation_checkpointing=recompute
        ).double()
        noisy, clean = torch.randint(11, (2, 2, 14), generator=torch.Generator().manual_seed(1))
        out = model.hidden(noisy, clean=clean, select=torch.tensor([0, 5, 13, 27]))
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return list(torch.autograd.grad((out * weight).sum(), list(model.blocks.parameters())))

    assert apart(gradients("union", checkpointing), gradients("plain", False)) < 1e-12


def test_auto_takes_it_where_it_is_faster_than_a_mask() -> None:
    def chosen(length: int, copies: int, block: int = 4, name: str = "dense") -> str:
        return kernel_for(Case.of(torch.empty(ROWS, 1, copies * length, 8), visible(name, length, block, copies)))

    assert [chosen(length, 2) for length in (64, 128, 512, 1024)] == ["sdpa", "sdpa", "union", "union"]
    assert [chosen(length, 1) for length in (256, 2048)] == ["sdpa", "union"]
    assert chosen(256, 2, name="packed") == "union"
    region = block_causal(4, torch.zeros(1, 600)).parts(1)
    assert region is not None
    blocks = torch.arange(600)[None] // 4
    cached = BlockCausal(query_blocks=blocks[:, :300], key_blocks=blocks)
    assert kernel_for(Case.of(torch.empty(1, 1, 300, 8), cached)) == "sdpa"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"structure": Structure.DENSE}, "is for block structure, not dense rows; use 'auto' or 'sdpa'"),
        ({"compiling": True}, "can't be traced by torch.compile; use 'auto', 'flex' or 'sdpa'"),
        ({"device": "cuda", "capability": (9, 0)}, r"got cuda, torch.float32, width 64; use 'auto' or 'sdpa'"),
        ({"device": "mps"}, "needs a CPU, or a CUDA device"),
    ],
)
def test_it_says_why_it_cannot(change: dict[str, Any], reason: str) -> None:
    given = {"device": "cpu", "dtype": torch.float32, "head_dim": 64, "structure": Structure.STRUCTURED, **change}
    found = UNION.unfit(Case(**given))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


def test_what_is_no_union_of_runs_is_refused_by_name() -> None:
    q, k, v, _ = heads(6, 4)
    blocks = torch.arange(6)[None] // 2
    with pytest.raises(ValueError, match="doesn't know what BlockCausal shows here as a union of runs"):
        UNION(q[:, :, :3], k, v, BlockCausal(query_blocks=blocks[:, :3], key_blocks=blocks))

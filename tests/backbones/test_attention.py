"""Attention: every registered kernel against the plain formula wherever it runs, and what "auto" takes."""

import sys
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada.backbones.attention.block_causal import BlockCausal
from llada.backbones.attention.flash import FlashAttention
from llada.backbones.attention.kernels import (
    KERNELS,
    AutoAttention,
    Case,
    Kernel,
    Structure,
    Visibility,
    kernel_by_name,
    kernel_for,
    plain_attention,
)
from llada.backbones.attention.offered import FLASH_2, FLASH_3
from llada.backbones.attention.varlen import SegmentLoop, TorchVarlen
from llada.backbones.attention.visibility import Rule, indices
from llada.backbones.two_copy import TwoCopies
from tests.fake_cuda import offer_varlen

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

ROWS, LENGTH, WIDTH = 3, 7, 8
KEYS = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0], [1, 0, 1, 1, 0, 1, 1]]).bool()
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0] * 7, [4, 5, 5, 5, 5, 5, 6]])
BLOCKS = (torch.arange(LENGTH) // 2)[None]
ROW_BLOCKS = BLOCKS.expand(ROWS, -1)
VISIBILITIES = {
    "full": Visibility(),
    "padding": Visibility(keys=KEYS),
    "segments": Visibility(segments=SEGMENTS),
    "segments_padding": Visibility(keys=KEYS, segments=SEGMENTS),
    "causal": Visibility(causal=True),
    "causal_padding": Visibility(keys=KEYS, causal=True),
    "causal_segments": Visibility(segments=SEGMENTS, causal=True),
    "causal_all": Visibility(KEYS, SEGMENTS, causal=True),
    "blocks": BlockCausal(query_blocks=BLOCKS, key_blocks=BLOCKS),
    "blocks_padding": BlockCausal(keys=KEYS, query_blocks=ROW_BLOCKS, key_blocks=ROW_BLOCKS),
    "blocks_segments": BlockCausal(segments=SEGMENTS, query_blocks=BLOCKS, key_blocks=BLOCKS),
}


def inputs(
    queries: int = LENGTH, groups: int = 4, grad: bool = True, dtype: torch.dtype = torch.float64, device: str = "cpu",
    columns: int = LENGTH, rows: int = ROWS, width: int = WIDTH,
) -> list[Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    shapes = ((rows, 4, queries, width), (rows, groups, columns, width), (rows, groups, columns, width))
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(device, dtype).requires_grad_(grad) for x in drawn]


def real(visibility: Visibility) -> Tensor:
    """Results count where the query is a token, (B or 1, 1, Q or 1, 1)."""
    return torch.ones(1, 1, 1, 1) if visibility.keys is None else visibility.keys[:, None, :, None].double()


def compare(kernel: Any, arguments: list[Tensor], visibility: Visibility, counts: Tensor, **close: float) -> None:
    ours, theirs = kernel(*arguments, visibility) * counts, plain_attention(*arguments, visibility) * counts
    torch.testing.assert_close(ours, theirs, **close)
    if arguments[0].requires_grad:
        weight = torch.randn_like(theirs)
        gradients = [torch.autograd.grad((result * weight).sum(), arguments) for result in (ours, theirs)]
        for mine, formula in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, formula, **close)


@pytest.mark.parametrize("layout", VISIBILITIES)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "plain"])
def test_a_kernel_equals_the_formula_or_says_why_it_cannot(name: str, groups: int, layout: str) -> None:
    visibility, kernel = replace_kept(VISIBILITIES[layout]), kernel_by_name(name)
    ran = 0
    for grad in (True, False):
        arguments = inputs(groups=groups, grad=grad)
        reason = kernel.unfit(Case.of(arguments[0], visibility))
        if reason is None:
            compare(kernel, arguments, visibility, real(visibility))
            ran += 1
        else:
            with pytest.raises(ValueError, match=r"use 'auto'") as error:
                kernel(*arguments, visibility)
            assert str(error.value) == reason
    blocks = "blocks" in layout
    expected = {
        "auto": 2,
        "sdpa": 2,
        "segments": 2 - 2 * blocks,
        "union": 2 * blocks,
        "flex": 1,
        "varlen": 0,
        "flash": 0,
    }
    assert ran == expected[name]  # on a CPU


def replace_kept(visibility: Visibility) -> Visibility:
    """Without what earlier kernels left in it."""
    return replace(visibility)


@pytest.mark.parametrize("name", ["auto", "sdpa", "segments", "flex"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_region_of_queries(name: str, padded: bool) -> None:
    """Cached decoding: fewer queries than keys, all of them real."""
    visibility = Visibility(keys=KEYS if padded else None)
    compare(kernel_by_name(name), inputs(queries=3, groups=2, grad=False), visibility, torch.ones(1))


@st.composite
def layouts(draw: Any) -> Visibility:
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    bits = st.lists(st.booleans(), min_size=length, max_size=length)
    keys = torch.tensor(draw(st.lists(bits, min_size=rows, max_size=rows)))
    segments = torch.tensor(draw(st.lists(bits, min_size=rows, max_size=rows))).long().cumsum(1)
    keep = st.sampled_from([True, False])
    keys_given, segments_given = draw(keep), draw(keep)
    given_keys = keys if keys_given else None
    return Visibility(given_keys, segments if segments_given or not keys_given else None, causal=draw(st.booleans()))


@given(layouts(), st.sampled_from([1, 2, 4]), st.sampled_from(["segments", "auto", "sdpa"]))
@settings(max_examples=60)
def test_any_padding_and_packing(visibility: Visibility, groups: int, name: str) -> None:
    shape = (visibility.keys if visibility.keys is not None else visibility.segments).shape  # type: ignore[union-attr]
    arguments = inputs(queries=shape[1], columns=shape[1], rows=shape[0], groups=groups)
    compare(kernel_by_name(name), arguments, visibility, real(visibility))


def test_runs_pass_the_gradient_check() -> None:
    visibility = Visibility(KEYS, SEGMENTS)
    arguments = inputs(groups=1, width=1)
    assert torch.autograd.gradcheck(lambda *qkv: SegmentLoop()(*qkv, visibility), arguments)


def test_padding_that_is_a_query_gets_zeros_from_runs_and_an_answer_from_a_mask() -> None:
    arguments, visibility = inputs(grad=False), Visibility(keys=KEYS)
    by_runs, by_mask = SegmentLoop()(*arguments, visibility), kernel_by_name("auto")(*arguments, visibility)
    padding = ~KEYS[:, None, :].expand(ROWS, 4, LENGTH)
    assert not by_runs[padding].any()
    torch.testing.assert_close(by_mask, plain_attention(*arguments, visibility))
    assert AutoAttention.answers_padding
    assert not SegmentLoop.answers_padding


def test_runs_say_where_tokens_that_see_one_another_stand() -> None:
    runs = Visibility(KEYS, SEGMENTS).runs(ROWS, LENGTH, LENGTH, KEYS.device)
    assert runs.query_index is not None
    assert runs.query_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 14, 16, 17, 19, 20]
    assert runs.query_bounds.tolist() == [0, 3, 5, 7, 11, 12, 15, 16]
    assert runs.query_bounds.dtype == torch.int32
    assert runs.query_lengths == runs.key_lengths == [3, 2, 2, 4, 1, 3, 1]
    padded = Visibility(keys=KEYS).runs(ROWS, 2, LENGTH, KEYS.device)
    assert padded.query_index is None
    assert padded.query_bounds.tolist() == [0, 2, 4, 6]
    assert padded.key_bounds.tolist() == [0, 7, 11, 16]
    assert (padded.longest_query, padded.longest_key) == (2, 7)
    dense = Visibility().runs(2, 3, 5, KEYS.device)
    assert (dense.query_bounds.tolist(), dense.key_bounds.tolist()) == ([0, 3, 6], [0, 5, 10])
    with pytest.raises(ValueError, match="BlockCausal isn't made of runs"):
        VISIBILITIES["blocks"].runs(ROWS, LENGTH, LENGTH, KEYS.device)


def test_runs_are_found_once_for_all_layers() -> None:
    visibility = Visibility(segments=SEGMENTS)
    assert visibility.runs(3, 7, 7, KEYS.device) is visibility.runs(3, 7, 7, KEYS.device)


def test_padding_needs_no_square_mask() -> None:
    keys = torch.ones(2, 50, dtype=torch.bool)
    mask = Visibility(keys=keys).mask
    assert mask is not None
    assert mask.shape == (2, 1, 1, 50)
    assert Visibility().mask is None
    assert Visibility(causal=True).mask is None


HOPPER = Case("cuda", torch.bfloat16, 128, Structure.DENSE, capability=(9, 0), varlen=("window_size", "enable_gqa"))
CPU = Case("cpu", torch.float32, 64, Structure.DENSE)
BOTH = frozenset({FLASH_2, FLASH_3})


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (CPU, "sdpa"),
        (replace(CPU, causal=True), "sdpa"),
        (replace(CPU, structure=Structure.PADDED), "sdpa"),
        (replace(CPU, structure=Structure.PACKED), "segments"),
        (replace(CPU, structure=Structure.PACKED, cells_per_run=100.0), "sdpa"),
        (replace(CPU, structure=Structure.PACKED, compiling=True), "sdpa"),
        (replace(CPU, structure=Structure.STRUCTURED), "sdpa"),
        (replace(CPU, structure=Structure.STRUCTURED, union_gain=1.5), "union"),
        (replace(CPU, structure=Structure.STRUCTURED, union_gain=1.5, compiling=True), "sdpa"),
        (replace(CPU, device="mps", structure=Structure.PACKED), "segments"),
        (HOPPER, "sdpa"),
        (replace(HOPPER, installed=BOTH), "flash"),
        (replace(HOPPER, installed=BOTH, capability=(8, 0)), "sdpa"),
        (replace(HOPPER, installed=frozenset({FLASH_2})), "sdpa"),
        (replace(HOPPER, structure=Structure.PADDED), "sdpa"),
        (replace(HOPPER, structure=Structure.PACKED), "varlen"),
        (replace(HOPPER, structure=Structure.PACKED, compiling=True), "varlen"),
        (replace(HOPPER, structure=Structure.PACKED, installed=frozenset({FLASH_2}), capability=(8, 6)), "flash"),
        (replace(HOPPER, structure=Structure.PACKED, installed=frozenset({FLASH_3}), capability=(8, 0)), "varlen"),
        (replace(HOPPER, structure=Structure.PACKED, capability=(7, 5)), "segments"),
        (replace(HOPPER, structure=Structure.PACKED, dtype=torch.float32), "segments"),
        (replace(HOPPER, structure=Structure.PACKED, dtype=torch.float32, compiling=True), "flex"),
        (replace(HOPPER, structure=Structure.PACKED, head_dim=36), "segments"),
        (replace(HOPPER, structure=Structure.STRUCTURED), "flex"),
    ],
)
def test_what_auto_takes(case: Case, expected: str) -> None:
    assert kernel_for(case) == expected
    kernel = kernel_by_name(expected)
    assert kernel.unfit(case) is None


def test_the_case_of_queries() -> None:
    q = torch.zeros(1, 1, 8, 16, requires_grad=True)
    case = Case.of(q, Visibility(segments=torch.tensor([[0] * 4 + [1] * 4]), causal=True))
    assert case == Case("cpu", torch.float32, 16, Structure.PACKED, causal=True, grad=True, cells_per_run=32.0)
    with torch.no_grad():
        assert not Case.of(q, Visibility()).grad


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("varlen", {"device": "cpu", "capability": None}, "got cpu, torch.bfloat16, width 128; use 'auto' or 'sdpa'"),
        ("flash", {"capability": (7, 5)}, r"got cuda 7\.5, torch.bfloat16"),
        ("flash", {"dtype": torch.float32}, r"got cuda 9\.0, torch.float32"),
        ("varlen", {"head_dim": 264}, "width 264"),
        ("varlen", {"structure": Structure.STRUCTURED}, "can't compute block structure; use 'auto', 'flex' or 'sdpa'"),
        ("segments", {"structure": Structure.STRUCTURED}, "'segments' can't compute block structure"),
        ("flex", {"device": "cpu", "grad": True}, "no backward pass on the CPU"),
        ("flex", {"device": "mps"}, "needs a CPU or a CUDA device; got mps"),
    ],
)
def test_a_named_kernel_says_why_it_cannot(name: str, change: dict[str, Any], reason: str) -> None:
    found = kernel_by_name(name).unfit(replace(HOPPER, **change))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


def reference_varlen(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, stops: Tensor, most: int, most_k: int, causal: bool
) -> Tensor:
    """FlashAttention's contract over runs, (N, H, d)."""
    assert starts.dtype == stops.dtype == torch.int32
    parts = []
    for (a, b), (c, d) in zip(pairwise(starts), pairwise(stops), strict=True):
        assert b - a <= most
        assert d - c <= most_k
        run = q[a:b], k[c:d], v[c:d]
        x, y, z = (part.transpose(0, 1)[None] for part in run)
        parts.append(F.scaled_dot_product_attention(x, y, z, is_causal=causal, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(parts)


def reference_dense(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU in name only: the kernels' own functions are replaced by references that run anywhere."""
    monkeypatch.setattr(Kernel, "check", lambda *_: None)
    monkeypatch.setattr(
        Case,
        "of",
        classmethod(lambda cls, q, visibility: replace(HOPPER, structure=visibility.structure, installed=BOTH)),
    )


RUNNABLE = [name for name in VISIBILITIES if "blocks" not in name]


@pytest.mark.parametrize("layout", RUNNABLE)
@pytest.mark.usefixtures("on_hopper")
def test_what_torch_varlen_is_asked(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen_attn(*arguments: Any, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool) -> Tensor:
        assert enable_gqa
        return reference_varlen(*arguments, causal={(-1, -1): False, (-1, 0): True}[window_size])

    offer_varlen(monkeypatch, varlen_attn)
    visibility = replace_kept(VISIBILITIES[layout])
    compare(TorchVarlen(), inputs(groups=2), visibility, real(visibility))


@pytest.mark.parametrize("layout", RUNNABLE)
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.usefixtures("on_hopper")
def test_what_flash_attn_is_asked(layout: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_sums(function: Any) -> Any:  # as early releases of version 3 do
        return lambda *arguments, **options: (function(*arguments, **options), None)

    functions = {"flash_attn_func": reference_dense, "flash_attn_varlen_func": reference_varlen}
    if version == 3:
        functions = {name: with_sums(function) for name, function in functions.items()}
    else:
        monkeypatch.setattr("llada.backbones.attention.flash.prefers_version_3", lambda case: False)
    name = "flash_attn" if version == 2 else "flash_attn_interface"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))  # type: ignore[arg-type]
    visibility = replace_kept(VISIBILITIES[layout])
    compare(FlashAttention(), inputs(groups=2), visibility, real(visibility))


@pytest.mark.usefixtures("on_hopper")
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llada.backbones.attention.flash.prefers_version_3", lambda case: False)
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match="pip install flash-attn --no-build-isolation; or use 'auto'"):
        FlashAttention()(*inputs(), Visibility())


def test_a_function_may_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "mine", lambda q, k, v, visibility: plain_attention(q, k, v, visibility) * 2)
    kernel = kernel_by_name("mine")
    assert isinstance(kernel, Kernel)
    torch.testing.assert_close(kernel(*inputs(), Visibility()), 2 * plain_attention(*inputs(), Visibility()))
    with pytest.raises(ValueError, match="'flush' is unknown; choose one of 'auto', 'plain'"):
        kernel_by_name("flush")


def test_a_subclass_with_a_mask_of_its_own_goes_to_no_kernel_that_would_ignore_it() -> None:
    class Diagonal(Visibility):
        @property
        def mask(self) -> Tensor:  # type: ignore[override]
            return torch.eye(LENGTH, dtype=torch.bool)[None, None]

    assert Diagonal().structure is Structure.STRUCTURED
    arguments = inputs(grad=False)
    for name in ("auto", "sdpa", "flex"):
        torch.testing.assert_close(kernel_by_name(name)(*arguments, Diagonal()), arguments[2])


def test_a_subclass_with_a_rule_of_its_own_has_the_mask_of_the_rule() -> None:
    class Banded(Visibility):
        def grid(self) -> tuple[Tensor, Tensor, Tensor]:
            return indices(1, LENGTH, LENGTH, None)

        def rule(self) -> Rule:
            return lambda row, head, query, key: (query - key).abs() + 0 * row <= 1

    mask = Banded().mask
    assert mask is not None
    assert torch.equal(mask[0, 0], torch.ones(LENGTH, LENGTH).triu(-1).tril(1).bool())
    assert Banded().structure is Structure.STRUCTURED
    for name in ("auto", "sdpa", "flex"):
        compare(kernel_by_name(name), inputs(grad=False), Banded(), torch.ones(1))


RULES: dict[str, Visibility] = {
    **VISIBILITIES,
    "blocks_all": BlockCausal(keys=KEYS, segments=SEGMENTS, query_blocks=BLOCKS.expand(3, -1), key_blocks=BLOCKS),
    "blocks_region": BlockCausal(keys=KEYS, query_blocks=BLOCKS[:, 2:5], key_blocks=BLOCKS),
    "blocks_index": BlockCausal(query_blocks=BLOCKS[0, torch.tensor([[0, 3], [6, 5], [2, 2]])], key_blocks=BLOCKS),
    "copies": TwoCopies(blocks=BLOCKS),
    "copies_padding": TwoCopies(keys=KEYS, blocks=(torch.arange(LENGTH) - torch.tensor([[0], [2], [0]])) // 2),
    "copies_segments": TwoCopies(segments=SEGMENTS, blocks=BLOCKS),
    "copies_all": TwoCopies(keys=KEYS, segments=SEGMENTS, blocks=BLOCKS),
}


def sees(visibility: Visibility, row: int, query: int, key: int) -> bool:
    """The definition, token by token."""
    keys, segments = visibility.keys, visibility.segments
    at, to = (query % LENGTH, key % LENGTH) if isinstance(visibility, TwoCopies) else (query, key)
    if keys is not None and not keys[row, to]:
        return False
    if segments is not None and segments[row, at] != segments[row, to]:
        return False
    if isinstance(visibility, TwoCopies):
        own, other = (int(visibility.blocks.expand(ROWS, -1)[row, column]) for column in (at, to))
        noisy, seen_is_noisy = query < LENGTH, key < LENGTH
        if noisy:
            return own == other if seen_is_noisy else other < own
        return not seen_is_noisy and other <= own
    if isinstance(visibility, BlockCausal):
        blocks = visibility.query_blocks.expand(ROWS, -1), visibility.key_blocks.expand(ROWS, -1)
        return bool(blocks[1][row, key] <= blocks[0][row, query])
    return key <= query or not visibility.causal


@pytest.mark.parametrize("name", RULES)
def test_mask_and_rule_are_the_definition(name: str) -> None:
    visibility = replace_kept(RULES[name])
    queries, columns = LENGTH, LENGTH
    if isinstance(visibility, BlockCausal):
        queries = visibility.query_blocks.shape[1]
    if isinstance(visibility, TwoCopies):
        queries = columns = 2 * LENGTH
    shape = ROWS, queries, columns
    expected = torch.tensor([sees(visibility, *index) for index in product(*map(range, shape))]).view(shape)
    row, query, key = indices(*shape, None)
    rule = visibility.rule()(row, torch.zeros_like(row), query, key)
    assert torch.equal(rule.expand(ROWS, 1, queries, columns)[:, 0], expected)
    if name in ("full", "causal"):  # left to the kernel
        assert visibility.mask is None
        return
    assert visibility.mask is not None
    assert visibility.mask is visibility.mask  # kept for all layers
    assert torch.equal(visibility.mask.expand(ROWS, 1, queries, columns)[:, 0], expected)
    assert (visibility.mask.shape[2] == 1) == (name == "padding")


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["", "packed"])
def test_two_copies_by_blocks(segments: Tensor | None) -> None:
    visibility = TwoCopies(keys=KEYS, segments=segments, blocks=BLOCKS)
    arguments = inputs(queries=2 * LENGTH, columns=2 * LENGTH, grad=False)
    counts = KEYS.repeat(1, 2)[:, None, :, None]
    for name in ("flex", "auto", "sdpa"):
        compare(kernel_by_name(name), arguments, visibility, counts)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", VISIBILITIES)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "plain"])
def test_half_precision_on_a_gpu(name: str, groups: int, layout: str) -> None:
    visibility = on_gpu(VISIBILITIES[layout])
    arguments = inputs(groups=groups, dtype=torch.bfloat16, device="cuda", width=64)
    kernel = kernel_by_name(name)
    if kernel.unfit(Case.of(arguments[0], visibility)) is not None:
        with pytest.raises(ValueError, match="use 'auto'"):
            kernel(*arguments, visibility)
        return
    if name == "flash":
        pytest.importorskip("flash_attn")
    compare(kernel, arguments, visibility, real(visibility).cuda().bfloat16(), atol=3e-2, rtol=3e-2)


def on_gpu(visibility: Visibility) -> Visibility:
    fields = ("keys", "segments", "query_blocks", "key_blocks")
    return replace(visibility, **{f: x.cuda() for f in fields if (x := getattr(visibility, f, None)) is not None})

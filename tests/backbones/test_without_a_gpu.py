"""What a GPU would be asked, without one: fake CUDA tensors through compiled blocks, and kernels that torch offers."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch._dynamo.utils import counters

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention import offered
from llada.backbones.attention.kernel import Case, Structure, repeated
from llada.backbones.attention.kernels import kernel_by_name, kernel_for, plain_attention
from llada.backbones.attention.varlen import SegmentLoop, TorchVarlen
from llada.backbones.attention.visibility import Runs, Visibility
from llada.module import DiffusionLM
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.training.callbacks import Compile
from tests.fake_cuda import CUDA, fake_cuda, moved, offer_varlen, whole_numbers

HOPPER = Case("cuda", torch.bfloat16, 64, Structure.PACKED, capability=(9, 0))
RELEASES: dict[str, tuple[str, ...] | None] = {
    "2.6": None,  # no attention over runs
    "2.10": ("is_causal", "return_aux", "scale"),
    "2.11": ("return_aux", "scale", "window_size"),
    "2.13": ("return_aux", "scale", "window_size", "enable_gqa"),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    offered.forget()
    yield
    torch._dynamo.reset()
    offered.forget()


def small(**options: Any) -> BidirectionalTransformer:
    return BidirectionalTransformer(50, width=32, num_layers=2, num_heads=4, **options)


def runs() -> Runs:
    bounds = torch.empty(4, dtype=torch.int32, device=CUDA)
    return Runs(None, bounds, 16, None, bounds, 16)


@pytest.mark.parametrize(("layout", "groups"), [("causal", 4), ("runs", 2)])
def test_blocks_compile_without_flash_attn(layout: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if layout == "causal" and torch.version.cuda is not None and not torch.cuda.is_available():
        pytest.skip(
            "a torch that was built with CUDA asks the driver which kernel of its own to take, and none is here"
        )
    monkeypatch.setattr(offered, "find_spec", lambda name: None)
    model = small(num_kv_heads=groups, causal=layout == "causal")
    with fake_cuda():
        moved(model)
        if layout == "causal":
            model.compile(backend="eager", fullgraph=True)
        else:  # the switch of the command line; breaks are counted below
            trained = DiffusionLM(model, MaskingProcess(49))
            Compile(dynamic=None, backend="eager").setup(Trainer(accelerator="cpu", logger=False), trained, "fit")
        visibility = Visibility(causal=model.causal)
        if layout == "runs":
            visibility = Visibility(segments=whole_numbers(2, 16))
            visibility.once("runs", runs)
        hidden = model.run(whole_numbers(2, 16), torch.arange(16, device=CUDA), visibility)
        assert (hidden.device.type, hidden.dtype, hidden.shape) == ("cuda", torch.bfloat16, (2, 16, 32))
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("layout", ["padded", "packed padded"])
def test_batches_share_the_graphs_of_compiled_blocks(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a GPU: a stand-in for its kernel over runs, and batches that differ in lengths, padding and runs."""

    def of(cls: type[Case], q: Tensor, visibility: Visibility) -> Case:
        return replace(HOPPER, structure=visibility.structure, varlen=RELEASES["2.13"])

    def prepare(self: Visibility, tokens: Tensor) -> None:
        if self.structure is Structure.PACKED:
            self.runs(*tokens.shape, tokens.shape[1], tokens.device)

    monkeypatch.setattr(Case, "of", classmethod(of))
    monkeypatch.setattr(Visibility, "prepare", prepare)
    offer_varlen(monkeypatch, lambda q, k, v, *_, **__: (q + k) * v)
    model, generator = small(), torch.Generator().manual_seed(0)
    model.compile(backend="eager", fullgraph=True, dynamic=True)
    for step in range(10):
        length = 16 + int(torch.randint(9, (), generator=generator))
        batch = {"tokens": torch.randint(49, (3, length), generator=generator)}
        if "packed" in layout:
            batch["segment_ids"] = (torch.rand(3, length, generator=generator) < 0.2).long().cumsum(1)
        if "padded" in layout:
            batch["attention_mask"] = torch.arange(length) < torch.randint(5, 15, (3, 1), generator=generator)
        random = RowRandom.for_step(0, step, torch.arange(3), 3)
        NELBO()(model, MaskingProcess(49), batch, random=random).loss.backward()
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 2  # the last block computes chosen tokens only


@pytest.mark.parametrize("release", RELEASES)
def test_auto_takes_what_a_release_of_torch_offers(release: str) -> None:
    case = replace(HOPPER, varlen=RELEASES[release])
    assert kernel_for(case) == ("segments" if release == "2.6" else "varlen")
    assert kernel_for(replace(case, compiling=True)) == ("flex" if release == "2.6" else "varlen")
    assert kernel_for(replace(case, installed=(offered.FLASH_2,))) == "flash"
    for compiling in (False, True):
        chosen = replace(case, compiling=compiling)
        assert kernel_by_name(kernel_for(chosen)).unfit(chosen) is None
    reason = kernel_by_name("varlen").unfit(case)
    assert (reason is None) == (release != "2.6")
    assert reason is None or "needs torch 2.10 or newer" in reason


@pytest.mark.parametrize("release", [name for name in RELEASES if RELEASES[name]])
@pytest.mark.parametrize("causal", [False, True])
def test_a_release_is_asked_only_what_it_takes(release: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = RELEASES[release]
    assert takes is not None

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, *bounds: Any, **options: Any) -> Tensor:
        assert options.keys() <= set(takes)
        assert q.shape[1] == k.shape[1] or options["enable_gqa"]
        assert (options.get("window_size") == (-1, 0) or options.get("is_causal", False)) == causal
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)[0].transpose(0, 1)

    offer_varlen(monkeypatch, varlen_attn)
    monkeypatch.setattr(TorchVarlen, "check", lambda *_: None)
    monkeypatch.setattr(Case, "of", classmethod(lambda *_: replace(HOPPER, varlen=takes)))
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    visibility = Visibility(segments=torch.zeros(1, 6, dtype=torch.long), causal=causal)
    torch.testing.assert_close(TorchVarlen()(q, k, v, visibility), plain_attention(q, k, v, visibility))


def test_what_this_torch_offers() -> None:
    arguments = offered.varlen_arguments()
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    assert (arguments is None) == (version < (2, 10))
    assert arguments is None or {"query", "cu_seq_q"} <= set(arguments)


@pytest.mark.parametrize("error", ["ImportError('undefined symbol: _ZN3c10')", "OSError('libcudart')", "RuntimeError"])
def test_a_broken_package_is_told_once_and_done_without(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {error}\n")
    (package / "flash_attn_interface.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=r"flash_attn is installed but can't be imported.*--no-build-isolation"):
        assert offered.installed() == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert offered.installed() == ()


def test_a_package_of_that_name_without_its_module_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention 4, for one; and nothing is imported to find out."""
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert offered.installed() == ()


def test_a_package_that_works_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn_interface.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert offered.installed() == (offered.FLASH_3,)
    finally:
        sys.modules.pop("flash_attn_interface", None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("capability", [(9, 0), (7, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_queries_never_meet_the_formula_on_a_gpu(
    masked: bool, capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the fused kernels only FlashAttention takes unequal heads: half precision, Ampere or newer, no mask."""
    seen: list[SimpleNamespace] = []

    def asked(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append(SimpleNamespace(q=q, k=k, v=v, **options))
        return q

    with fake_cuda(capability):
        q, k, v = (torch.empty(2, heads, 8, 64, dtype=dtype, device=CUDA) for heads in (4, 2, 2))
        keys = torch.empty(2, 8, dtype=torch.bool, device=CUDA) if masked else None
        monkeypatch.setattr(F, "scaled_dot_product_attention", asked)
        kernel_by_name("sdpa")(q, k, v, Visibility(keys=keys))
    flash = dtype == torch.bfloat16 and capability >= (8, 0) and not masked
    (call,) = seen
    assert (call.k.shape[1], call.v.shape[1], call.enable_gqa) == ((2, 2, True) if flash else (4, 4, False))


def test_repeated_heads_are_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    visibility = Visibility(segments=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    expected = SegmentLoop()(q, k, v, visibility)
    torch.testing.assert_close(SegmentLoop()(q, *repeated(q, k, v), visibility), expected)

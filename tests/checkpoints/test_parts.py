"""A network that is split over ranks reads from a released checkpoint what each rank keeps, and no more."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter
from llada.checkpoints.released import parts, write_adapter
from llada.checkpoints.released.pretrained import Found, look_into, read_pretrained
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.initial_weights import _fill_split
from llada.training.parallel import DATA, TENSOR, place

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 4, "hidden_width": 24}
LAYOUTS = {
    "llada": ("llada", SIZES),
    "tied": ("llada", {**SIZES, "tie_embeddings": True}),
    "fused queries, keys and values": (
        "llada2",
        {**SIZES, "num_experts": 4, "experts_per_token": 2, "qk_norm": True, "block_length": 4, "dense_layers": 1,
         "dense_width": 20, "router": GroupedRouter(2, 1), "rotary_dim": 2, "num_kv_heads": 2},
    ),
}  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many numbers each slice had that was read."""
    numbers: list[int] = []
    original = parts.SliceReader.__call__

    def counted(self: Any, span: list[slice]) -> torch.Tensor:
        values = original(self, span)
        numbers.append(values.numel())
        return values

    monkeypatch.setattr(parts.SliceReader, "__call__", counted)
    yield numbers
    if dist.is_initialized():
        dist.destroy_process_group()


def saved(folder: Path, name: str) -> Path:
    layout, sizes = LAYOUTS[name]
    torch.manual_seed(0)
    DiffusionLM(BidirectionalTransformer(33, **sizes), MaskingProcess(32)).save_pretrained(folder / "m", layout=layout)
    return folder / "m"


def split(found: Found, rank: int, data: int, tensor: int, adapter: Path | None = None) -> BidirectionalTransformer:
    """The network as one of the ranks has it; nothing is sent. PyTorch keeps the rank of a mesh, so one per size."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=data * tensor, store=FakeStore())
    mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=(DATA, TENSOR))
    place(found.backbone, mesh, CPU, seed=0, weights=partial(_fill_split, found, adapter))
    return found.backbone


@pytest.mark.parametrize(
    ("name", "rank", "data", "tensor"),
    [
        ("llada", 2, 3, 1),
        ("llada", 6, 7, 1),  # with more ranks than rows of some parameters have
        ("llada", 1, 1, 2),
        ("llada", 3, 2, 2),
        ("tied", 4, 5, 1),
        ("fused queries, keys and values", 1, 4, 1),
    ],
)
def test_a_rank_has_its_part_and_has_read_nothing_else(
    tmp_path: Path, read: list[int], name: str, rank: int, data: int, tensor: int
) -> None:
    folder = saved(tmp_path, name)
    whole = {key: value.detach() for key, value in read_pretrained(folder).backbone.named_parameters()}
    backbone, kept = split(look_into(folder), rank, data, tensor), 0
    for key, ours in backbone.named_parameters():
        assert isinstance(ours, DTensor)
        if tensor == 1:
            parts_of_ranks = [*whole[key].chunk(data), *[whole[key][:0]] * data]
            assert torch.equal(ours.to_local(), parts_of_ranks[rank]), key
        expected = distribute_tensor(whole[key], ours.device_mesh, ours.placements, src_data_rank=None)
        assert torch.equal(ours.to_local(), expected.to_local()), key
        kept += ours.to_local().numel()
    assert sum(read) == kept


def test_a_further_row_for_the_mask(tmp_path: Path, read: list[int]) -> None:
    folder = saved(tmp_path, "llada")
    whole = read_pretrained(folder, mask_token_id=33).backbone.embedding.weight
    assert len(whole) == 34
    ours = split(look_into(folder, 33), 1, 2, 1).embedding.weight
    assert torch.equal(ours.to_local(), whole[17:])


def test_another_dtype_than_the_stored_one(tmp_path: Path, read: list[int]) -> None:
    folder = saved(tmp_path, "llada")
    whole = read_pretrained(folder).backbone
    found = look_into(folder)
    found.backbone.to(torch.bfloat16)
    found.backbone.head.requires_grad_(False)
    backbone = split(found, 5, 6, 1)
    ours = [p.to_local() for p in backbone.parameters()]
    assert {p.dtype for p in ours} == {torch.bfloat16}
    assert not backbone.head.weight.requires_grad
    assert torch.equal(ours[0], whole.embedding.weight[30:].bfloat16())


def adapter(folder: Path, backbone: BidirectionalTransformer) -> Path:
    """Additions to matrices that are split by rows and by columns, and two parameters that replace the stored ones."""
    random = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    chosen = ["blocks.0.attention.q_proj", "blocks.1.feed_forward.down_proj", "head"]
    pairs = {path: (noise(3, shapes[f"{path}.weight"][1]), noise(shapes[f"{path}.weight"][0], 3)) for path in chosen}
    write_adapter(folder, backbone, None, pairs, dict.fromkeys(chosen, 6.0))
    file = folder / "adapter_model.safetensors"
    whole = {"base_model.model.embedding.weight": noise(*shapes["embedding.weight"])}
    save_file({**load_file(file), **whole, "base_model.model.final_norm.weight": noise(16)}, file)
    return folder


@pytest.mark.parametrize(("rank", "data", "tensor"), [(2, 3, 1), (1, 1, 2), (3, 2, 2)])
def test_a_rank_adds_its_part_of_an_adapter(tmp_path: Path, read: list[int], rank: int, data: int, tensor: int) -> None:
    folder = saved(tmp_path, "llada")
    before = read_pretrained(folder).backbone
    added = adapter(tmp_path / "adapter", before)
    expected = dict(read_pretrained(folder, adapter=added).backbone.named_parameters())
    read.clear()
    backbone = split(look_into(folder), rank, data, tensor, added)
    changed = 0
    for (name, ours), plain in zip(backbone.named_parameters(), before.parameters(), strict=True):
        part = distribute_tensor(expected[name].detach(), ours.device_mesh, ours.placements, src_data_rank=None)
        torch.testing.assert_close(ours.to_local(), part.to_local(), rtol=1e-6, atol=1e-6, msg=name)
        changed += not torch.equal(expected[name], plain)
    assert changed == 5
    replaced = [backbone.embedding.weight, backbone.final_norm.weight]
    assert sum(read) == sum(p.to_local().numel() for p in [*backbone.parameters(), *replaced])

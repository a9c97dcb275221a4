"""A network that is split over ranks reads from a released checkpoint what each rank keeps, and no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from llada.backbones import BidirectionalTransformer
from llada.backbones.router import GroupedRouter
from llada.checkpoints.released import parts
from llada.checkpoints.released.pretrained import Found, look_into, read_pretrained
from llada.module import DiffusionLM
from llada.process import MaskingProcess
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
    original = parts._Reader.__call__

    def counted(self: Any, span: list[slice]) -> torch.Tensor:
        values = original(self, span)
        numbers.append(values.numel())
        return values

    monkeypatch.setattr(parts._Reader, "__call__", counted)
    yield numbers
    if dist.is_initialized():
        dist.destroy_process_group()


def saved(folder: Path, name: str) -> Path:
    layout, sizes = LAYOUTS[name]
    torch.manual_seed(0)
    DiffusionLM(BidirectionalTransformer(33, **sizes), MaskingProcess(32)).save_pretrained(folder / "m", layout=layout)
    return folder / "m"


def split(found: Found, rank: int, data: int, tensor: int) -> BidirectionalTransformer:
    """The network as one of the ranks has it; nothing is sent. PyTorch keeps the rank of a mesh, so one per size."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=data * tensor, store=FakeStore())
    mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=(DATA, TENSOR))
    place(found.backbone, mesh, CPU, seed=0, weights=lambda backbone, device: found.fill(backbone, None, device))
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

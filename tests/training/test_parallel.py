"""Splitting a model changes nothing: FSDP2 and tensor parallelism at two gloo processes equal one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.consolidate import consolidate
from llada.checkpoints.describe import describe
from llada.checkpoints.released import read_pretrained
from llada.checkpoints.released.options import LoadOptions
from llada.denoiser import Denoiser, as_denoiser
from llada.heads import Chunked
from llada.module import DiffusionLM
from llada.objectives import CertaintyForcing, IndependentMasks
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.training.initial_weights import InitialWeights
from llada.training.muon import MuonAdamW
from llada.training.parallel import DATA, TENSOR, place, replicas, split_tensors
from llada.training.weights import write
from tests.ranks import run_two_ranks
from tests.scripts.train_sharded import SIZES, STEPS, VOCAB, WINDOW, Recorder, fit, half_way, sharded

Results = dict[str, dict[str, torch.Tensor]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


def skip_without_events() -> None:
    """Skip the test where sharded modules can't be run on CPUs."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip(f"torch {torch.__version__} computes with shards on GPUs only: its streams of CPUs have no events")


@pytest.fixture(scope="module")
def runs(folder: Path) -> Results:
    """What one process gives without and with the strategy, and what two give."""
    skip_without_events()
    one: Results = {"whole": fit("auto", 1), "one": fit(sharded(1), 1, folder / "one")}
    one["whole muon"] = fit("auto", 1, optimizer=MuonAdamW)
    torch.manual_seed(9)
    released = BidirectionalTransformer(VOCAB, **SIZES)
    DiffusionLM(released, MaskingProcess(VOCAB - 1)).save_pretrained(folder / "released", layout="llada")
    run_two_ranks("train_sharded.py", folder)
    two = torch.load(folder / "two.pt", weights_only=True)
    one["back"] = fit(sharded(1), 1, resume=half_way(folder / "two"))
    one["bfloat16"] = fit(sharded(1), 1, precision="bf16-mixed")
    dist.destroy_process_group()
    return {**one, **two}


def assert_same(run: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    micro, steps = len(run["losses"]), len(run["gradients"])
    torch.testing.assert_close(run["losses"], expected["losses"][-micro:], rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(run["gradients"], expected["gradients"][-steps:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run["weights"], expected["weights"], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["one", "data", "tensor", "copies"])
def test_any_split_begins_and_learns_like_the_whole(runs: Results, name: str) -> None:
    assert len(runs[name]["losses"]) == STEPS * WINDOW
    assert torch.equal(runs[name]["first"], runs["whole"]["first"])
    assert_same(runs[name], runs["whole"])


def test_the_runs_did_what_they_are_about(runs: Results) -> None:
    """Weights moved, gradients were clipped, losses differ from step to step, and ranks held only their part."""
    whole = runs["whole"]
    assert (whole["weights"] - whole["first"]).abs().max() > 1e-3
    torch.testing.assert_close(whole["gradients"].norm(dim=1), torch.full((STEPS,), 0.5))
    assert whole["losses"].unique().numel() == STEPS * WINDOW
    assert runs["data"]["num_local"] == whole["num_local"] // 2
    assert runs["copies"]["num_local"] == whole["num_local"]
    assert whole["num_local"] / 2 < runs["tensor"]["num_local"] < whole["num_local"] * 0.52  # the norms are on both


def test_checkpoints_load_into_another_number_of_ranks(runs: Results, folder: Path) -> None:
    assert len(list(half_way(folder / "two").glob("*.distcp"))) == 2
    assert len(runs["resumed"]["losses"]) == len(runs["back"]["losses"]) == 2 * WINDOW
    assert_same(runs["resumed"], runs["whole"])
    assert_same(runs["back"], runs["whole"])


def test_released_weights_are_read_by_the_ranks_that_keep_them(runs: Results, folder: Path) -> None:
    whole = read_pretrained(folder / "released").backbone
    assert torch.equal(runs["released"]["first"], torch.cat([p.detach().flatten() for p in whole.parameters()]))
    assert runs["released"]["num_local"] == len(runs["released"]["first"]) // 2
    assert not torch.equal(runs["released"]["weights"], runs["released"]["first"])


def test_muon_turns_matrices_whole(runs: Results) -> None:
    """Its iterations are in bfloat16 and sum in another order; matrices turned shard by shard would be far off."""
    whole, split = runs["whole muon"], runs["muon"]
    moved = whole["weights"] - whole["first"]
    assert (moved - (runs["whole"]["weights"] - whole["first"])).norm() > 0.3 * moved.norm()
    assert (split["weights"] - whole["weights"]).norm() < 0.03 * moved.norm()
    torch.testing.assert_close(split["losses"], whole["losses"], rtol=1e-3, atol=1e-3)


def test_bfloat16_gathers_and_computes_in_bfloat16(runs: Results) -> None:
    """The loss is near the float32 one, and not equal to it: weights were rounded to 8 bits."""
    losses, exact = runs["bfloat16"]["losses"], runs["whole"]["losses"]
    torch.testing.assert_close(losses, exact, rtol=1e-2, atol=1e-2)
    assert (losses - exact).abs().max() > 1e-4


def test_a_distributed_checkpoint_becomes_one_file_that_rebuilds_the_model(runs: Results, folder: Path) -> None:
    path = half_way(folder / "two")
    with pytest.raises(ValueError, match=r"python -m llada.checkpoints.consolidate .*step=2\.ckpt"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="not a distributed checkpoint"):
        consolidate(folder, folder / "one_file.ckpt")
    consolidate(path, folder / "one_file.ckpt")
    assert "optimizer_states" not in read_checkpoint(folder / "one_file.ckpt")
    model = Recorder.load_from_checkpoint(folder / "one_file.ckpt")
    assert type(model.backbone) is BidirectionalTransformer
    assert model.seed == 5
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < (weights - runs["whole"]["weights"]).abs().max() < 0.01  # two steps later


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process as a mesh of one."""
    if dist.is_initialized():  # ``runs`` failed half-way, which is its own tests' failure
        dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=(DATA, TENSOR))
    dist.destroy_process_group()


def small(**options: Any) -> BidirectionalTransformer:
    with torch.device("meta"):
        return BidirectionalTransformer(VOCAB, width=16, num_layers=2, num_heads=2, hidden_width=32, **options)


@pytest.mark.parametrize(
    "options", [{"tie_embeddings": True}, {"convolution": 3}, {"num_experts": 4, "experts_per_token": 2}]
)
def test_weights_from_nothing_don_t_depend_on_the_mesh(mesh: DeviceMesh, options: dict[str, Any]) -> None:
    split, whole, other = small(**options), small(**options), small(**options)
    place(split, mesh, CPU, seed=3)
    place(whole, None, CPU, seed=3)
    place(other, None, CPU, seed=4)
    assert not any(p.is_meta for p in whole.parameters())
    assert (split.head.weight is split.embedding.weight) == bool(options.get("tie_embeddings"))
    for (name, ours), theirs, third in zip(
        split.named_parameters(), whole.parameters(), other.parameters(), strict=True
    ):
        assert isinstance(ours, DTensor)
        assert torch.equal(ours.full_tensor(), theirs), name
        assert torch.equal(theirs, third) == ("norm" in name), name


def test_hybrid_sharding_copies_between_groups_and_shards_within(mesh: DeviceMesh) -> None:
    split, whole = small(), small()
    place(split, mesh, CPU, seed=3, shard_size=1)
    place(whole, None, CPU, seed=3)
    for ours, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        assert isinstance(ours, DTensor)
        assert ours.placements == (Replicate(), Shard(0))
        assert torch.equal(ours.full_tensor(), theirs)
    with pytest.raises(ValueError, match="shard_size=2 must divide data_parallel_size=1"):
        place(small(), mesh, CPU, seed=3, shard_size=2)


def test_placing_draws_no_number_from_the_global_stream() -> None:
    state = torch.get_rng_state()
    place(small(), None, CPU, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_there_stay(mesh: DeviceMesh) -> None:
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    before, description = backbone.head.weight.detach().clone(), describe(backbone)
    place(backbone, mesh, CPU, seed=3)
    place(backbone, mesh, CPU, seed=3)  # as the Trainer does when it goes from fit to test
    assert torch.equal(backbone.head.weight.full_tensor(), before)
    assert describe(backbone) == description


def test_other_backbones_are_sharded_by_their_blocks(mesh: DeviceMesh) -> None:
    skip_without_events()
    backbone = DiffusionTransformer(VOCAB, width=16, num_layers=2, num_heads=2)
    tokens, sigma = torch.arange(8).view(1, 8), torch.zeros(1)
    before = backbone(tokens, sigma=sigma)
    place(backbone, mesh, CPU, seed=3)
    assert all(isinstance(block, FSDPModule) for block in backbone.blocks)
    torch.testing.assert_close(backbone(tokens, sigma=sigma), before)


@pytest.mark.parametrize("heads", ["separate", "tied", "with a bias"])
def test_the_head_is_gathered_for_the_loss_alone(mesh: DeviceMesh, heads: str) -> None:
    """In a group of its own, unless it is the embedding, which is gathered from the first layer on."""
    skip_without_events()
    options = {"separate": {}, "tied": {"tie_embeddings": True}, "with a bias": {"head_bias": True}}[heads]
    split, whole = small(**options), small(**options)
    place(split, mesh, CPU, seed=3)
    place(whole, None, CPU, seed=3)
    assert isinstance(split.head, FSDPModule) == (heads != "tied")
    seen = []
    hooked = split.final_norm.register_forward_hook(
        lambda *_: seen.append(tuple(isinstance(m.weight, DTensor) for m in (split.embedding, split.head)))
    )
    tokens = torch.arange(24).view(2, 12) % (VOCAB - 1)
    weights = torch.linspace(0.5, 1.5, 24)
    values = []
    for backbone in (split, whole):
        denoiser = as_denoiser(backbone, Chunked(chunk_elements=5 * VOCAB))
        first, _ = denoiser.weighted_nll(tokens, tokens, tokens >= 0, weights)
        # A second pass before the backward pass of the first, which autograd takes through the head itself.
        second = denoiser.token_nll(tokens.flip(1), tokens, tokens > 3).sum()
        certain = certainty_loss_of(denoiser, tokens)
        values.append(torch.stack([first, second, certain]).detach())
        (first + second + certain).backward()
    hooked.remove()
    assert seen == [(False, heads != "tied")] * 1 + [(False, False)] * 2  # whole from the loss to its backward pass
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-6)
    for (name, ours), theirs in zip(split.named_parameters(), whole.parameters(), strict=True):
        assert isinstance(ours, DTensor), name  # nothing stays gathered
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, rtol=1e-5, atol=1e-6, msg=name)


def certainty_loss_of(denoiser: Denoiser, tokens: torch.Tensor) -> torch.Tensor:
    """The loss of an objective that works on the head by itself."""
    random = RowRandom.from_seed(0, len(tokens))
    return CertaintyForcing(IndependentMasks())(denoiser, MaskingProcess(VOCAB - 1), tokens, random=random).numerator


def test_weights_to_be_quantised_are_refused_before_anything_is_read(mesh: DeviceMesh) -> None:
    model = DiffusionLM(small(), MaskingProcess(VOCAB - 1))
    model._device_mesh = mesh
    callback = InitialWeights("there/is-none", LoadOptions.of(quantise="nf4"))
    with pytest.raises(ValueError, match=r"quantise=nf4: quantised matrices can't be split .*; use the strategy ddp"):
        callback.setup(Trainer(logger=False, barebones=True), model, "fit")


def test_writing_whole_values_into_a_part(mesh: DeviceMesh) -> None:
    backbone = small()
    place(backbone, mesh, CPU, seed=3)
    values = torch.arange(16.0)
    write(backbone.final_norm.weight, values)
    assert torch.equal(backbone.final_norm.weight.full_tensor(), values)
    plain = nn.Parameter(torch.zeros(16))
    write(plain, values)
    assert torch.equal(plain, values)


def test_who_sees_which_rows(mesh: DeviceMesh) -> None:
    assert replicas(None, 8, 5) == (8, 5, None)
    assert replicas(mesh, 1, 0)[:2] == (1, 0)


class TwoRanks:
    """What `split_tensors` asks of a mesh."""

    def size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 1}, "tensor_parallel_size=2 must divide num_kv_heads=1"),
        ({"hidden_width": 33}, "tensor_parallel_size=2 must divide hidden_width=33"),
        ({"tie_embeddings": True}, "doesn't know head, a TiedHead; use FSDP2 alone"),
        ({"num_experts": 8}, r"doesn't know blocks\.0\.feed_forward, a MixtureOfExperts"),
        ({"convolution": 3}, r"doesn't know blocks\.0\.convolution, a ShortConvolution"),
    ],
)
def test_what_tensor_parallelism_refuses(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        backbone = BidirectionalTransformer(**{"vocab_size": VOCAB, "width": 16, "num_heads": 2, **options})
    with pytest.raises(ValueError, match=message):
        split_tensors(backbone, TwoRanks())  # type: ignore[arg-type]


def test_a_backbone_without_a_plan_or_without_weights_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor-parallel plan for Linear; use tensor_parallel_size=1"):
        split_tensors(nn.Linear(2, 2), TwoRanks())  # type: ignore[arg-type]
    with torch.device("meta"):
        stack, norm = nn.Sequential(nn.Linear(2, 2)), nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="Sequential can't be built on the meta device: it has no reset_parameters"):
        place(stack, None, CPU, seed=0)
    with pytest.raises(ValueError, match="BatchNorm1d can't be built on the meta device: it has buffers"):
        place(norm, None, CPU, seed=0)

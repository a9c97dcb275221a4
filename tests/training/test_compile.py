"""All the ways to compile a model: they compile what is run, change no number, and leave checkpoints as they were."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.training.callbacks import Compile
from llada.training.compiling import compile_blocks

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build() -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    return DiffusionLM(backbone, MaskingProcess(MASK), optimizer=partial(torch.optim.AdamW, lr=1e-2))


def fit(folder: Path, model: Any, *callbacks: Any) -> Trainer:
    tokens = torch.randint(MASK, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    data = DataLoader([{"tokens": row} for row in tokens], batch_size=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_compiled_backbone_is_run_and_changes_nothing(tmp_path: Path) -> None:
    plain, model = build(), build()
    counter = CompileCounterWithBackend("eager")
    model.backbone = torch.compile(model.backbone, backend=counter)
    fit(tmp_path, plain)
    trainer = fit(tmp_path, model)
    assert counter.frame_count >= 1
    assert counter.op_count > 10
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-5, atol=1e-6)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert type(again.backbone) is BidirectionalTransformer
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(weights(again), weights(model))


def test_the_switch_and_compile_in_place_compile_the_blocks(tmp_path: Path) -> None:
    switched, in_place, whole = build(), build(), build()
    Compile(backend="eager").setup(Trainer(accelerator="cpu", logger=False), switched, "fit")
    in_place.backbone.compile(backend="eager")
    whole.compile(backend="eager")
    for model in (switched, in_place, whole):
        assert all(block._compiled_call_impl is not None for block in model.backbone.blocks)
        assert model.backbone._compiled_call_impl is None


def test_a_backbone_that_was_compiled_before_is_taken_too() -> None:
    backbone = build().backbone
    model = DiffusionLM(torch.compile(backbone, backend="eager"), MaskingProcess(MASK))
    assert model.backbone is backbone
    assert backbone.blocks[0]._compiled_call_impl is not None


def test_single_parts_that_were_compiled_keep_their_names(tmp_path: Path) -> None:
    model, names = build(), list(build().state_dict())
    block = model.backbone.blocks[0]
    model.backbone.blocks[0] = torch.compile(block, backend="eager")
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path).predict(
        model, DataLoader(torch.full((2, LENGTH), 1), batch_size=2)
    )
    assert model.backbone.blocks[0] is block
    assert block._compiled_call_impl is not None
    assert list(model.state_dict()) == names


def test_what_has_no_blocks_is_named() -> None:
    with pytest.raises(ValueError, match=r"Linear has no nn\.ModuleList of blocks"):
        compile_blocks(nn.Linear(2, 2))


def draws(random: RowRandom, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    folded = random.fold_in(3, 1)
    return folded.uniform(5), folded.uniform_at(positions), random.shared_uniform(4)


def step_draws(step: int, rows: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return draws(RowRandom.for_step(7, step, rows, 4), positions)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_random_numbers_are_the_same_in_a_compiled_graph(backend: str) -> None:
    """Their constants of 64 bits are what compilers that fold integers stumble over."""
    compiled = torch.compile(step_draws, backend=backend)
    rows, positions = torch.arange(3), torch.tensor([[0, 2], [4, 1], [3, 3]])
    for step in (0, 5, 11):
        expected = step_draws(step, rows, positions)
        for found, wanted in zip(compiled(step, rows, positions), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.slow
def test_the_whole_module_may_be_compiled(tmp_path: Path) -> None:
    plain, model = build(), build()
    fit(tmp_path, plain)
    fit(tmp_path, torch.compile(model, backend="eager"))
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-5, atol=1e-6)

"""Matrices in 4 and 8 bits: the network computes with what every file shows, and only additions to it are trained."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.checkpoints.quantised import KINDS, make_whole, quantise, quantised_layers, whole_shapes
from llada.checkpoints.released.options import LoadOptions
from llada.text.loading import load_parts
from llada.training.adapters import write_run_adapter
from llada.training.callbacks import EMAWeightAveraging, LoRA
from tests.tiny_checkpoint import LAYERS, write_checkpoint

IDS = torch.arange(9)[None]
ROWS = [{"tokens": torch.tensor([i, 1, 2, 3, 4, i])} for i in range(4)]
TOLERANCE = {"nf4": 1e-4, "fp4": 1e-4, "int8": 0.2}
"""Of sums against matrices with additions beside them; int8 rounds the inputs, too."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("quantised") / "m")


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("peft", reason="the extra peft isn't installed")
    return pytest.importorskip("bitsandbytes", reason="the extra quantised isn't installed")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


class Trained(LoRA):
    """Keeps the logits of the last step, and a checkpoint."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.logits = logits(pl_module.eval())
        self.codes = [layer.weight.data.clone() for layer in quantised_layers(pl_module).values()]
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "run.ckpt")


def fit(model: DiffusionLM, folder: Path, *callbacks: Any, **options: Any) -> None:
    model.optimizer = partial(torch.optim.AdamW, lr=1e-2)
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu", max_steps=options.pop("max_steps", 3), callbacks=[*callbacks], default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(ROWS, batch_size=4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_what_the_network_computes_with(library: Any, folder: Path, tmp_path: Path, kind: Any) -> None:
    plain, model = DiffusionLM.from_pretrained(folder), DiffusionLM.from_pretrained(folder, quantise=kind)
    names = [name for name in plain.state_dict() if name.endswith("_proj.weight")]
    assert len(quantised_layers(model.backbone)) == len(names) == 7 * LAYERS
    assert whole_shapes(model.backbone) == whole_shapes(plain.backbone)
    state, original = model.state_dict(), plain.state_dict()
    assert list(state) == list(original)
    for name, tensor in state.items():
        step = (tensor - original[name]).abs().amax(-1) / original[name].abs().amax(-1)
        assert (0 < step.max() < {"nf4": 0.2, "fp4": 0.25, "int8": 0.005}[kind]) == (name in names), name
    model.save_pretrained(tmp_path / "out")
    again = DiffusionLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    torch.testing.assert_close(logits(again), logits(model), atol=TOLERANCE[kind], rtol=0)
    model.load_state_dict(state)  # the same numbers
    with pytest.raises(ValueError, match=r"other numbers for backbone\.blocks\.0\.attention\.q_proj\.weight"):
        model.load_state_dict(original)
    in_place = DiffusionLM.from_pretrained(folder)
    with torch.no_grad():
        quantise(in_place.backbone, kind)
    assert torch.equal(logits(in_place), logits(model))
    make_whole(in_place.backbone)
    assert all(type(m) is not type(model.backbone.blocks[0].attention.q_proj) for m in in_place.modules())
    assert torch.equal(logits(in_place), logits(again))


@pytest.mark.parametrize("kind", KINDS)
def test_additions_are_trained_saved_and_come_back(library: Any, folder: Path, tmp_path: Path, kind: Any) -> None:
    model = DiffusionLM.from_pretrained(folder, quantise=kind)
    before, codes = logits(model), [layer.weight.data.clone() for layer in quantised_layers(model).values()]
    adapters = Trained(rank=2, targets=["q_proj", "down_proj"])
    fit(model, tmp_path, adapters)
    assert (adapters.logits - before).abs().max() > 0.1
    assert len(codes) == len(adapters.codes)
    assert all(map(torch.equal, codes, adapters.codes))
    assert not quantised_layers(model)  # after fit, the sums are in the network itself
    torch.testing.assert_close(logits(model.eval()), adapters.logits, atol=TOLERANCE[kind], rtol=0)
    torch.testing.assert_close(
        logits(DiffusionLM.load_from_checkpoint(tmp_path / "run.ckpt")), logits(model), atol=1e-5, rtol=0
    )
    write_run_adapter(str(tmp_path / "run.ckpt"), str(tmp_path / "adapter"), "llada")
    again, _ = load_parts(str(folder), None, "cpu", None, LoadOptions(quantise=kind, adapter=str(tmp_path / "adapter")))
    assert torch.equal(logits(again), adapters.logits)
    again.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        logits(DiffusionLM.from_pretrained(tmp_path / "merged")), logits(model), atol=1e-5, rtol=0
    )
    with pytest.raises(ValueError, match=r"has low-rank additions already; .* LoRA\(adapter=\.\.\.\)"):
        fit(again, tmp_path, LoRA(rank=2))


def test_an_average_leaves_the_codes_alone(library: Any, folder: Path, tmp_path: Path) -> None:
    model = DiffusionLM.from_pretrained(folder, quantise="nf4")
    codes = [layer.weight.data.clone() for layer in quantised_layers(model).values()]
    seen: list[torch.Tensor] = []

    class Watch(EMAWeightAveraging):
        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            super().on_train_end(trainer, pl_module)
            seen.extend(layer.weight.data.clone() for layer in quantised_layers(pl_module).values())

    fit(model, tmp_path, LoRA(rank=2), Watch(decay=0.3), max_steps=4)
    assert len(seen) == len(codes)
    assert all(map(torch.equal, codes, seen))


def test_what_would_be_wrong_is_refused(library: Any, folder: Path, tmp_path: Path) -> None:
    model = DiffusionLM.from_pretrained(folder, quantise="nf4")
    with pytest.raises(ValueError, match=r"quantised matrices can't be trained; .*callbacks\+=LoRA"):
        fit(model, tmp_path)
    with pytest.raises(ValueError, match="quantised already"):
        quantise(model.backbone, "int8")
    with pytest.raises(ValueError, match=r"matrices of torch\.float64 can't be quantised"):
        DiffusionLM.from_pretrained(folder, quantise="nf4", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"Sequential has no linear layers in blocks \(nn\.ModuleList\)"):
        quantise(nn.Sequential(nn.Linear(4, 4)), "nf4")
    with pytest.raises(ValueError, match=r"rows .* aren't a multiple of 64 long; got \(96, 96\)\. Quantise to int8"):
        quantise(BidirectionalTransformer(8, width=96, num_layers=1, num_heads=2), "fp4")


def test_a_mixture_keeps_its_routers(library: Any) -> None:
    backbone = BidirectionalTransformer(8, width=64, num_layers=1, num_heads=2, num_experts=2, experts_per_token=1)
    whole = DiffusionLM(backbone, MaskingProcess(7))
    quantise(backbone, "nf4")
    names = quantised_layers(whole)
    assert sum("experts" in name for name in names) == 2 * 3
    assert not any("router" in name for name in names)


def test_a_kernel_that_is_missing_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward")
    logger.warning("another line")
    assert [record.message for record in caplog.records] == ["another line"]


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    backbone = BidirectionalTransformer(8, width=16, num_layers=1, num_heads=2)
    with pytest.raises(ImportError, match=r"pip install llada\[quantised\]"):
        quantise(backbone, "nf4")
    with pytest.raises(ValueError, match="quantised to nf4, fp4, int8; got '4bit'"):
        LoadOptions.of(quantise="4bit")

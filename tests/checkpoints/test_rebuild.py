"""A checkpoint gives back a model of the class that was saved, whichever class it is loaded through."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from llada.autoregressive import AutoregressiveLM
from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.module import DiffusionLM
from llada.process import MaskingProcess

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


class Scaled(DiffusionLM):
    """A model of one's own, with an argument more than the library's."""

    def __init__(self, backbone: torch.nn.Module, process: MaskingProcess, scale: float = 1.0, **parts: Any) -> None:
        super().__init__(backbone, process, **parts)
        self.scale = scale

    def evaluate(self, batch: Any, batch_idx: int) -> list[Any]:
        found = super().evaluate(batch, batch_idx)
        return [replace(output, nelbo=output.nelbo * self.scale) for output in found]


def small(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    return BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2, **options)


MODELS = {
    "diffusion": lambda: DiffusionLM(small(), MaskingProcess(MASK), bound_draws=2, seed=3),
    "autoregressive": lambda: AutoregressiveLM(small(causal=True, shift=True), MaskingProcess(MASK), seed=3),
    "own": lambda: Scaled(small(), MaskingProcess(MASK), scale=3.0, bound_draws=2, seed=3),
}


def rows() -> DataLoader[Any]:
    tokens = (torch.arange(16)[:, None] + torch.arange(LENGTH)) % (VOCAB - 1)
    return DataLoader([{"tokens": row} for row in tokens], batch_size=8)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", enable_checkpointing=False, default_root_dir=folder, **quiet, **options)


def numbers(model: DiffusionLM, folder: Path) -> Any:
    return trainer(folder).validate(model, rows(), verbose=False)


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionLM, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param]()
    run = trainer(folder, max_steps=2)
    run.fit(model, rows())
    run.save_checkpoint(folder / "model.ckpt")
    return model.eval(), folder / "model.ckpt"


@pytest.mark.parametrize("through", [DiffusionLM, None], ids=["DiffusionLM", "its own class"])
def test_class_and_numbers_come_back(
    saved: tuple[DiffusionLM, Path], through: type[DiffusionLM] | None, tmp_path: Path
) -> None:
    model, path = saved
    again = (through or type(model)).load_from_checkpoint(path)
    assert type(again) is type(model)
    assert not again.training
    assert numbers(again, tmp_path) == numbers(model, tmp_path)
    assert getattr(again, "scale", None) == getattr(model, "scale", None)


def test_an_argument_of_ones_own_can_be_replaced(tmp_path: Path) -> None:
    model = MODELS["own"]()
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, rows())
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt", scale=1.0, bound_draws=1)
    assert isinstance(again, Scaled)
    assert (again.scale, again.bound_draws, again.seed) == (1.0, 1, 3)
    with pytest.raises(ValueError, match=r"Scaled has no argument 'scal'; it has .*bound_draws.*scale"):
        DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt", scal=1.0)


def test_a_model_of_another_class_is_refused(saved: tuple[DiffusionLM, Path]) -> None:
    model, path = saved

    class Other(Scaled):
        pass

    with pytest.raises(ValueError, match=rf"{type(model).__name__}, which isn't a Other; load it with"):
        Other.load_from_checkpoint(path)


def changed(path: Path, folder: Path, **entries: Any) -> Path:
    checkpoint = read_checkpoint(path)
    torch.save({**checkpoint, "llada": {**checkpoint["llada"], **entries}}, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def test_loading_imports_nothing(
    saved: tuple[DiffusionLM, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not_imported.py").write_text("from llada import DiffusionLM\nclass Mine(DiffusionLM): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = changed(saved[1], tmp_path, class_path="not_imported.Mine")
    with pytest.raises(ValueError, match=r"import it first \(from not_imported import Mine\)"):
        DiffusionLM.load_from_checkpoint(path)
    assert "not_imported" not in sys.modules


def test_a_class_that_has_moved_is_loaded_through_itself(tmp_path: Path) -> None:
    model = MODELS["own"]()
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, rows())
    run.save_checkpoint(tmp_path / "model.ckpt")
    path = changed(tmp_path / "model.ckpt", tmp_path, class_path="__main__.Scaled")
    assert type(Scaled.load_from_checkpoint(path)) is Scaled
    with pytest.raises(ValueError, match=r"__main__\.Scaled isn't known.*Scaled\.load_from_checkpoint where"):
        DiffusionLM.load_from_checkpoint(path)


@pytest.mark.parametrize("class_path", ["subprocess.Popen", "llada.BidirectionalTransformer", "os.system", "llada"])
def test_what_is_no_model_is_refused(saved: tuple[DiffusionLM, Path], tmp_path: Path, class_path: str) -> None:
    with pytest.raises(ValueError, match=r"which isn't a DiffusionLM|isn't known|can't be imported"):
        DiffusionLM.load_from_checkpoint(changed(saved[1], tmp_path, class_path=class_path))


def test_other_formats_are_named(saved: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written by an earlier, unreleased version of llada \(format 1\)"):
        DiffusionLM.load_from_checkpoint(changed(saved[1], tmp_path, format=1))
    with pytest.raises(ValueError, match="has format 3, but this version reads 2; update llada"):
        DiffusionLM.load_from_checkpoint(changed(saved[1], tmp_path, format=3))

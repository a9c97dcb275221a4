"""A configuration that has changed since the checkpoint is obeyed or refused, and never ignored."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LinearLR

from llada.checkpoints.changes import ChangedParts, differences
from llada.checkpoints.checkpoint import read_checkpoint
from llada.module import DiffusionLM
from llada.objectives import llada_finetuning
from llada.process import MaskingProcess
from llada.training.lr_schedulers import WarmupCosine
from tests.checkpoints.test_rebuild import MASK, rows, small

ADAMW = partial(torch.optim.AdamW, lr=1e-2)
COSINE = partial(WarmupCosine, warmup_steps=2, total_steps=10)


def train(folder: Path, steps: int, *callbacks: Any, resume: Path | None = None, **parts: Any) -> Trainer:
    parts = {"optimizer": ADAMW, "lr_scheduler": COSINE} | parts
    model = DiffusionLM(small(), MaskingProcess(MASK), **parts)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet["enable_checkpointing"] = False
    run = Trainer(accelerator="cpu", max_steps=steps, callbacks=list(callbacks), default_root_dir=folder, **quiet)
    run.fit(model, rows(), ckpt_path=resume)
    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    train(folder, 4).save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return train(tmp_path_factory.mktemp("whole"), 6)


def rate(run: Trainer) -> float:
    return run.optimizers[0].param_groups[0]["lr"]


CHANGED = {
    "rate": ({"optimizer": partial(torch.optim.AdamW, lr=1e-3)}, r"optimizer\.lr was 0\.01 and is 0\.001"),
    "moments": ({"optimizer": partial(ADAMW, betas=(0.5, 0.9))}, r"optimizer\.betas was \[0\.9, 0\.999\] and is \[0"),
    "schedule": ({"lr_scheduler": partial(COSINE, total_steps=20)}, r"lr_scheduler\.total_steps was 10 and is 20"),
    "no schedule": ({"lr_scheduler": None}, r"lr_scheduler was .*WarmupCosine' and is None"),
    "other schedule": ({"lr_scheduler": LinearLR}, r"lr_scheduler was .*WarmupCosine' and is .*LinearLR'"),
}


@pytest.mark.parametrize(("parts", "message"), CHANGED.values(), ids=CHANGED)
def test_a_change_is_refused_obeyed_or_taken_back(
    saved: Path, whole: Trainer, parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{message}.*--changed_parts=configuration"):
        train(tmp_path, 6, resume=saved, **parts)

    obeyed = train(tmp_path, 6, ChangedParts("configuration"), resume=saved, **parts)
    anew = train(tmp_path, 6, **parts)
    for group, expected in zip(obeyed.optimizers[0].param_groups, anew.optimizers[0].param_groups, strict=True):
        options = {name for name in expected if name != "params"}
        assert {name: group[name] for name in options} == {name: expected[name] for name in options}
    assert obeyed.global_step == 6

    kept = train(tmp_path, 6, ChangedParts("checkpoint"), resume=saved, **parts)
    assert rate(kept) == rate(whole)
    for name, tensor in whole.lightning_module.state_dict().items():
        assert torch.equal(kept.lightning_module.state_dict()[name], tensor)
    kept.save_checkpoint(tmp_path / "kept.ckpt")
    assert read_checkpoint(tmp_path / "kept.ckpt")["llada"]["parts"] == read_checkpoint(saved)["llada"]["parts"]


def test_another_optimiser_cannot_take_over_the_moments(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can't go on with the moments of the first; .*--init_from"):
        train(tmp_path, 6, ChangedParts("configuration"), resume=saved, optimizer=partial(torch.optim.SGD, lr=0.1))


def test_other_parts_are_obeyed_and_listed(saved: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"other parts than it was begun with: objective\..*; seed was 0 and is 4"):
        run = train(tmp_path, 5, resume=saved, objective=llada_finetuning(), seed=4)
    assert run.lightning_module.objective == llada_finetuning()


def test_what_was_left_to_its_default_is_no_change(saved: Path, tmp_path: Path) -> None:
    spelt_out = partial(ADAMW, betas=(0.9, 0.999), eps=1e-8)
    assert train(tmp_path, 5, resume=saved, optimizer=spelt_out).global_step == 5
    first, second = ({"class_path": "x.Y", "init_args": {"b": [number]}} for number in (1, 2))
    assert differences("a", first, second) == ["a.b was [1] and is [2]"]

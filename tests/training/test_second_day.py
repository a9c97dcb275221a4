"""What users do to a training on the second day: each ends right, or with a sentence that has the fix."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.storage import AtomicCheckpointIO
from llada.training.callbacks import EMAWeightAveraging, LoRA

ROWS = torch.arange(24).reshape(4, 6) % 7


def build() -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(8, width=16, num_layers=1, num_heads=2)
    return DiffusionLM(backbone, MaskingProcess(7), optimizer=partial(torch.optim.AdamW, lr=1e-2))


def fit(rows: Any, model: DiffusionLM | None = None, **options: Any) -> Trainer:
    arguments = {name: options.pop(name) for name in ("ckpt_path",) if name in options}
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, log_every_n_steps=1,
        enable_model_summary=False, plugins=[AtomicCheckpointIO()], **{"max_steps": 2, **options},
    )  # fmt: skip
    trainer.fit(build() if model is None else model, DataLoader(rows, 2), **arguments)
    return trainer


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS + 3, r"holds the token \d, but the model knows 8, 0 to 7; give the backbone the tokenizer's vocab_size"),
        (ROWS[:, :0], r"got tokens of shape \(2, 0\)"),
    ],
)
def test_a_loader_that_doesnt_fit_gets_a_sentence(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(rows)


def test_a_run_without_anything_to_learn_says_so_once() -> None:
    rows = [{"input_ids": row, "labels": torch.full_like(row, -100)} for row in ROWS]
    with pytest.warns(UserWarning, match="no token of step 0 may change: labels are -100") as told:
        fit(rows)
    assert sum("may change" in str(warning.message) for warning in told) == 1


def test_a_model_without_anything_to_train_is_refused() -> None:
    model = build()
    model.freeze()
    with pytest.raises(ValueError, match=r"all parameters are frozen; model\.unfreeze\(\)"):
        fit(ROWS, model)


def freeze_embedding(model: DiffusionLM) -> None:
    model.backbone.embedding.requires_grad_(False)


AVERAGE: Callable[[], Any] = partial(EMAWeightAveraging, 0.5)


@pytest.mark.parametrize(
    ("first", "then", "change", "message"),
    [
        ([AVERAGE], [], None, "holds averaged weights, and this run doesn't average; add EMAWeightAveraging"),
        ([partial(LoRA, 1)], [], None, "was trained with LoRA; add it to the callbacks"),
        ([], [partial(LoRA, 1)], None, "written without LoRA, .*--init_from"),
        ([], [], freeze_embedding, r"holds an optimiser of 12 parameters .*this run trains 11 in groups of"),
        ([], [AVERAGE], None, None),
    ],
)
def test_resuming_with_other_callbacks_or_parameters(
    first: list[Any], then: list[Any], change: Any, message: str | None, tmp_path: Path
) -> None:
    if any(getattr(made, "func", None) is LoRA for made in [*first, *then]):
        pytest.importorskip("peft", reason="the extra peft isn't installed")
    fit(ROWS, callbacks=[make() for make in first]).save_checkpoint(tmp_path / "run.ckpt")
    model = build()
    if change is not None:
        change(model)
    again = {"callbacks": [make() for make in then], "max_steps": 3, "ckpt_path": tmp_path / "run.ckpt"}
    if message is None:
        assert fit(ROWS, model, **again).global_step == 3
        return
    with pytest.raises(ValueError, match=message):
        fit(ROWS, model, **again)


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, path = fit(ROWS), tmp_path / "run.ckpt"
    trainer.save_checkpoint(path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left") as error:
        trainer.save_checkpoint(path)
    assert error.value.filename == str(path)
    assert [found.name for found in tmp_path.iterdir()] == ["run.ckpt"]
    assert path.read_bytes() == before


def test_a_device_that_isnt_there_is_no_damage(tmp_path: Path) -> None:
    fit(ROWS).save_checkpoint(tmp_path / "run.ckpt")
    if torch.cuda.is_available():
        pytest.skip("the device is there")
    with pytest.raises(ValueError, match=r"run\.ckpt can't be placed on cuda, which isn't there; use 'cpu'"):
        read_checkpoint(tmp_path / "run.ckpt", "cuda", mmap=False)

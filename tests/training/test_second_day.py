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
from llada.checkpoints.newest import newest_readable
from llada.checkpoints.storage import AtomicCheckpointIO
from llada.training.callbacks import EMAWeightAveraging, LoRA, SaveAtEnd

ROWS = torch.arange(24).reshape(4, 6) % 7


def build(cls: type[DiffusionLM] = DiffusionLM) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(8, width=16, num_layers=1, num_heads=2)
    return cls(backbone, MaskingProcess(7), optimizer=partial(torch.optim.AdamW, lr=1e-2))


def fit(rows: Any, model: DiffusionLM | None = None, **options: Any) -> Trainer:
    arguments = {name: options.pop(name) for name in ("ckpt_path",) if name in options}
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        **{"max_steps": 2, "log_every_n_steps": 1, "enable_checkpointing": False, **options},
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


@pytest.mark.parametrize(
    "options", [{"gradient_clip_val": -1.0}, {"accumulate_grad_batches": 0}, {"check_val_every_n_epoch": 0}]
)
def test_values_that_the_trainer_does_not_look_at_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=rf"{next(iter(options))} must be above 0.*; got {next(iter(options.values()))}"
    ):
        fit(ROWS, **options)


def test_a_run_may_log_no_step_but_the_last() -> None:
    assert "train/loss" in fit(ROWS, log_every_n_steps=0).callback_metrics


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


def test_weights_alone_are_no_place_to_go_on_from(tmp_path: Path) -> None:
    fit(ROWS).save_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"run\.ckpt holds weights alone .* begin with its weights instead"):
        fit(ROWS, max_steps=3, ckpt_path=tmp_path / "run.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loops", None, "its entry 'loops' isn't what a run goes on from; begin with its weights instead: --init_from"),
        ("loops", {"fit_loop": {"state_dict": {}}}, "its entry 'loops' isn't"),
        ("callbacks", [], "its entry 'callbacks' isn't"),
        ("global_step", "2", "its entry 'global_step' isn't"),
        ("optimizer_states", [{}], "its entry 'optimizer_states' isn't"),
        ("lr_schedulers", None, "its entry 'lr_schedulers' isn't"),
        ("pytorch-lightning_version", None, r"doesn't say which Lightning wrote it"),
        (
            "state_dict",
            torch.int8,
            "holds backbone.embedding.weight in torch.int8, but the model has it in",
        ),
    ],
)
def test_a_file_that_lacks_what_a_run_goes_on_from(name: str, value: Any, message: str, tmp_path: Path) -> None:
    fit(ROWS).save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    if isinstance(value, torch.dtype):
        value = {key: weight.to(value) for key, weight in content[name].items()}
    torch.save({**content, name: value}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=rf"run\.ckpt .*{message}"):
        fit(ROWS, max_steps=3, ckpt_path=tmp_path / "run.ckpt")
    if name == "state_dict":
        with pytest.raises(ValueError, match=message):
            DiffusionLM.load_from_checkpoint(tmp_path / "run.ckpt")


def test_the_newest_checkpoint_is_not_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop.ckpt").symlink_to("loop.ckpt")
    with pytest.raises(ValueError, match=r"loop\.ckpt is a link that leads nowhere"):
        newest_readable([tmp_path])
    fit(ROWS).save_checkpoint(tmp_path / "run.ckpt")
    with pytest.warns(UserWarning, match=r"going on from .*run\.ckpt, since .*loop\.ckpt is a link that leads nowhere"):
        assert newest_readable([tmp_path]) == tmp_path / "run.ckpt"


class Spoilt(DiffusionLM):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * torch.nan


def test_the_end_of_a_run_says_how_many_steps_were_left_out(tmp_path: Path) -> None:
    model, end = build(Spoilt), SaveAtEnd()
    model.on_nonfinite = "skip"
    with pytest.warns(UserWarning, match="the optimiser step is left out"):
        fit(ROWS, model, callbacks=[end], enable_checkpointing=True, default_root_dir=tmp_path)
    assert "; 2 of 2 steps were left out, whose numbers weren't finite\n" in str(end.ending)


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

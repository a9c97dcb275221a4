"""Whatever saves a checkpoint, wherever in a window of micro-batches: a run that goes on from it is the same run."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.data.loader import training_loader
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.lr_schedulers import WarmupCosine

VOCAB, LENGTH, BATCH, MASK = 12, 8, 2, 11
EPOCH = 14  # micro-batches


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return EPOCH * BATCH

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        tokens = (torch.tensor(indices)[:, None] + torch.arange(LENGTH)) % MASK
        lengths = torch.tensor(indices)[:, None] % 3
        return {"tokens": tokens, "maskable": torch.arange(LENGTH) >= lengths}


def model() -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=8, num_layers=1, num_heads=2)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    scheduler = partial(WarmupCosine, warmup_steps=2, total_steps=20)
    return DiffusionLM(backbone, MaskingProcess(MASK), optimizer=optimizer, lr_scheduler=scheduler)


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends a run after some micro-batches of it, as a signal that nobody can catch would."""

    def __init__(self, after: int, during: bool = False) -> None:
        self.left, self.during = after, during

    def on_train_batch_start(self, *_: Any) -> None:
        if self.during and self.left == 0:
            raise Killed

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.during:
            raise Killed


def steps(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="model", every_n_train_steps=1, enable_version_counter=False)


def clock(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "model", train_time_interval=timedelta(0), enable_version_counter=False)


def errors(folder: Path) -> ModelCheckpoint:
    options: dict[str, Any] = {"save_on_exception": True, "every_n_train_steps": 1000}
    return ModelCheckpoint(folder, filename="model", enable_version_counter=False, **options)


def train(folder: Path, *callbacks: Callback, resume: Path | None = None, window: int = 2, **options: Any) -> Any:
    options = {"max_steps": 16} | options
    run = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        default_root_dir=folder,
        accumulate_grad_batches=window,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        **options,
    )
    trained = model()
    validation = DataLoader([{"tokens": torch.arange(LENGTH)}] * 2, batch_size=2)
    loaders = {"val_dataloaders": validation} if "val_check_interval" in options else {}
    with suppress(Killed):
        run.fit(trained, training_loader(Rows(), BATCH, 0, 0), ckpt_path=resume, **loaders)
    return run, trained


def state(run: Trainer, trained: DiffusionLM) -> list[Tensor]:
    moments = [value for entry in run.optimizers[0].state_dict()["state"].values() for value in entry.values()]
    return [tensor.clone() for tensor in [*trained.state_dict().values(), *moments]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[Tensor]]:
    known: dict[int, list[Tensor]] = {}

    def of(window: int) -> list[Tensor]:
        if window not in known:
            known[window] = state(*train(tmp_path_factory.mktemp("whole"), window=window))
        return known[window]

    return of


@pytest.mark.parametrize(
    ("saving", "window", "kills", "during"),
    [
        (steps, 2, (9, 9), False),
        (steps, 2, (11, 3, 9), True),
        (steps, 3, (7, 1, 1, 5), False),
        (clock, 2, (1, 9, 1), False),
        (errors, 2, (9, 10, 1), False),
        (errors, 2, (9, 10, 1), True),
        (errors, 1, (3, 3), True),
    ],
)
def test_any_number_of_interruptions_leaves_no_trace(
    saving: Callable[[Path], ModelCheckpoint],
    window: int,
    kills: tuple[int, ...],
    during: bool,
    tmp_path: Path,
    uninterrupted: Callable[[int], list[Tensor]],
) -> None:
    path = None
    for after in kills:
        train(tmp_path, Kill(after, during), saving(tmp_path), resume=path, window=window)
        path = tmp_path / "model.ckpt" if (tmp_path / "model.ckpt").exists() else None
    assert path is not None
    again = state(*train(tmp_path, resume=path, window=window))
    assert all(torch.equal(a, b) for a, b in zip(again, uninterrupted(window), strict=True))


def test_a_validation_in_mid_window_may_save(tmp_path: Path, uninterrupted: Callable[[int], list[Tensor]]) -> None:
    saving = ModelCheckpoint(tmp_path, filename="model", enable_version_counter=False)
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None}
    train(tmp_path, Kill(10), saving, **options)
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == 4
    again = state(*train(tmp_path, resume=tmp_path / "model.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(again, uninterrupted(2), strict=True))


def epochs(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="model", enable_version_counter=False)


@pytest.mark.parametrize(("after", "validated"), [(14, False), (15, True)])
def test_what_is_saved_at_the_end_of_an_epoch_goes_on(
    after: int, validated: bool, tmp_path: Path, uninterrupted: Callable[[int], list[Tensor]]
) -> None:
    options: dict[str, Any] = {"val_check_interval": 1.0} if validated else {}
    train(tmp_path, Kill(after, during=True), epochs(tmp_path), **options)
    assert read_checkpoint(tmp_path / "model.ckpt")["global_step"] == 7 * (after // 14)
    again = state(*train(tmp_path, resume=tmp_path / "model.ckpt", **options))
    assert all(torch.equal(a, b) for a, b in zip(again, uninterrupted(2), strict=True))


@pytest.mark.parametrize("ended", [{"max_steps": 3}, {"max_steps": 9}, {"max_epochs": 1, "max_steps": -1}])
def test_a_run_that_had_ended_goes_on(
    ended: dict[str, int], tmp_path: Path, uninterrupted: Callable[[int], list[Tensor]]
) -> None:
    """In mid-epoch or at the end of one, saved by the Trainer afterwards, and with twice as many steps later."""
    run, _ = train(tmp_path, **ended)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = state(*train(tmp_path, resume=tmp_path / "model.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(again, uninterrupted(2), strict=True))


def test_two_callbacks_save_one_run(tmp_path: Path, uninterrupted: Callable[[int], list[Tensor]]) -> None:
    """The last step, and every fourth for good: each goes on, whichever of the two had saved it."""

    def both() -> list[Callback]:
        every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1, enable_version_counter=False)
        return [every, steps(tmp_path)]

    train(tmp_path, Kill(11), *both())
    train(tmp_path, Kill(9), *both(), resume=tmp_path / "step=4.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "step=4.ckpt", "step=8.ckpt"]
    for name in ("model.ckpt", "step=8.ckpt"):
        again = state(*train(tmp_path, resume=tmp_path / name))
        assert all(torch.equal(a, b) for a, b in zip(again, uninterrupted(2), strict=True))


def test_averaged_weights_resume_too(tmp_path: Path) -> None:
    def average() -> EMAWeightAveraging:
        return EMAWeightAveraging(decay=0.5)

    whole = train(tmp_path, average())[1].state_dict()
    train(tmp_path, average(), Kill(9), steps(tmp_path))
    train(tmp_path, average(), Kill(9), steps(tmp_path), resume=tmp_path / "model.ckpt")
    again = train(tmp_path, average(), resume=tmp_path / "model.ckpt")[1].state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())

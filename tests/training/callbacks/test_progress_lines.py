"""Where no bar can be drawn, lines say how far a training is."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from llada.training.callbacks import ProgressLines
from llada.training.callbacks.progress_lines import clock


def test_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr("llada.training.callbacks.progress_lines.time.monotonic", lambda: now)
    trainer = SimpleNamespace(global_step=10, max_steps=1010, is_global_zero=True, num_val_batches=[4])
    trainer.callback_metrics = {"train/loss": torch.tensor(4.5)}
    callback = ProgressLines(seconds=8)
    callback.on_train_start(trainer, None)
    for _ in range(40):
        now += 0.5
        trainer.global_step += 1
        callback.on_train_batch_end(trainer)
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.splitlines() == [
        "step 26 of 1,010, loss 4.500, about 8:12 to go",
        "step 42 of 1,010, loss 4.500, about 8:04 to go",
    ]
    now += 20.0
    callback.on_validation_batch_end(trainer, None, None, None, 1)
    trainer.is_global_zero = False
    now += 20.0
    callback.on_train_batch_end(trainer)
    assert capsys.readouterr().err == "validation, batch 2 of 4\n"


@pytest.mark.parametrize(
    ("state", "checking", "told"),
    [
        (TrainerFn.FITTING, False, "step 20 of 45, val/nll 5.351, val/bits_per_byte 4.121\n"),
        (TrainerFn.FITTING, True, ""),
        (TrainerFn.VALIDATING, False, ""),  # which ends with a table
    ],
)
def test_what_a_validation_found_has_a_line(
    capsys: pytest.CaptureFixture[str], state: TrainerFn, checking: bool, told: str
) -> None:
    found = {"train/loss": 5.4, "val/nll": 5.3512, "val/bits_per_byte": 4.1207}
    trainer = SimpleNamespace(progress_bar_metrics=found, state=SimpleNamespace(fn=state), sanity_checking=checking)
    trainer.global_step, trainer.max_steps, trainer.is_global_zero = 20, 45, True
    ProgressLines().on_validation_end(trainer, None)
    assert capsys.readouterr().err == told


def test_what_is_refused_and_how_time_is_written() -> None:
    with pytest.raises(ValueError, match="seconds must be above 0; got 0"):
        ProgressLines(0)
    assert [clock(seconds) for seconds in (3.2, 65, 7207)] == ["0:03", "1:05", "2:00:07"]

"""Kill runs again and again, go on with them, and compare what comes out with a run that nobody has killed.

    python -m benchmarks.soak                                  # ten runs of every setting, three kills each
    python -m benchmarks.soak --runs 1 --settings plain,window # short

A run is killed (SIGKILL, or SIGTERM where the setting says so) after a random number of micro-batches and a random
part of a second more, so that kills also hit the writing of checkpoints. It goes on from the newest checkpoint that can
be read. At its end, weights, optimiser state and the average are compared bit by bit with those of a whole run; and no
temporary file may be left. Runs are forks of this process, so it needs a system that can fork.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.newest import newest_readable
from llada.checkpoints.storage import AtomicCheckpointIO
from llada.data.loader import training_loader
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import EMAWeightAveraging, SaveAtEnd
from llada.training.lr_schedulers import WarmupCosine

LENGTH, MASK, BATCH, EPOCH, STEPS = 16, 31, 2, 23, 40
RESULT = "end.pt"


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        window: micro-batches of a step.
        every: what makes a `ModelCheckpoint` save.
        average: makes the callback that averages weights, if there is one.
        workers: processes of the data loader.
        signal: by which the run is ended.
        trainer: further options.
        temporary: folder for ``TMPDIR``; None: as it is.
    """

    window: int = 1
    every: dict[str, Any] = field(default_factory=lambda: {"every_n_train_steps": 1})
    average: Callable[[], Callback] | None = None
    workers: int = 0
    signal: int = signal.SIGKILL
    trainer: dict[str, Any] = field(default_factory=dict)
    temporary: str | None = None


SETTINGS = {
    "plain": Setting(),
    "window": Setting(window=2),
    "window of three": Setting(window=3, every={"every_n_train_steps": 2}),
    "by the clock": Setting(window=2, every={"train_time_interval": timedelta(milliseconds=20)}),
    "validation in mid-window": Setting(
        window=2, every={}, trainer={"val_check_interval": 3, "check_val_every_n_epoch": None}
    ),
    "average": Setting(window=2, average=partial(EMAWeightAveraging, 0.9)),
    "average that begins late": Setting(average=partial(EMAWeightAveraging, 0.9, update_starting_at_step=15)),
    "workers": Setting(window=2, workers=2),
    "asked to end": Setting(window=3, every={"every_n_train_steps": 7}, signal=signal.SIGTERM),
    "foreign TMPDIR": Setting(window=2, temporary="/dev/shm"),
}


class Rows(torch.utils.data.Dataset[Any]):
    """Rows whose prompts have different lengths, so that micro-batches weigh differently."""

    def __len__(self) -> int:
        return EPOCH * BATCH

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Rows (B, L) by their numbers."""
        numbers = torch.tensor(indices)[:, None]
        return {"tokens": (numbers + torch.arange(LENGTH)) % MASK, "maskable": torch.arange(LENGTH) >= numbers % 5}


class Tell(Callback):
    """Writes a byte for every micro-batch."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_batch_start(self, *_: Any) -> None:
        """Say that a micro-batch begins."""
        os.write(self.pipe, b".")


def train(setting: Setting, folder: Path, pipe: int) -> None:
    """Train to the end, from the newest checkpoint if there is one, and write the end to a file."""
    if setting.temporary is not None and Path(setting.temporary).is_dir():
        os.environ["TMPDIR"] = tempfile.tempdir = setting.temporary
    keep = ModelCheckpoint(folder, filename="model", enable_version_counter=False, **setting.every)
    averages = [] if setting.average is None else [setting.average()]
    run = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        accumulate_grad_batches=setting.window,
        gradient_clip_val=1.0,
        callbacks=[*averages, Tell(pipe), keep, SaveAtEnd()],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **setting.trainer,
    )
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(MASK + 1, width=32, num_layers=2, num_heads=2)
    model = DiffusionLM(
        backbone,
        MaskingProcess(MASK),
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        lr_scheduler=partial(WarmupCosine, warmup_steps=5, total_steps=STEPS),
    )
    validation = DataLoader([{"tokens": torch.arange(LENGTH)}] * 4, batch_size=2)
    loaders = training_loader(Rows(), BATCH, setting.workers, 0)
    run.fit(model, loaders, validation, ckpt_path=newest_readable([folder]))
    torch.save([model.state_dict(), run.optimizers[0].state_dict()], folder / RESULT)


def forked(setting: Setting, folder: Path, kill_after: int | None) -> int:
    """Train in a fork of this process, and kill it after some micro-batches; its exit status, or minus the signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            train(setting, folder, writer)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)
    os.close(writer)
    seen = 0
    while kill_after is not None and seen < kill_after and os.read(reader, 1):
        seen += 1
    if kill_after is not None and seen == kill_after:
        time.sleep(random.random() * 0.02)
        os.kill(child, setting.signal)
    status = os.waitpid(child, 0)[1]  # not the pipe's end: a killed loader's processes hold it for seconds more
    os.close(reader)
    return os.waitstatus_to_exitcode(status)


def same(first: Any, second: Any) -> bool:
    """Whether two nested results are equal bit by bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def survive(setting: Setting, folder: Path, kills: int, whole: Any) -> dict[str, Any]:
    """One run that is killed several times: how often it was, whether it ended the same, and what it left."""
    done, expected = 0, (-setting.signal, 128 + setting.signal)
    for _ in range(kills):
        status = forked(setting, folder, random.randint(1, STEPS * setting.window // kills))
        done += status in expected
        if status not in (0, *expected):
            return {"kills": done, "identical": False, "left": [], "failed": status}
    status = forked(setting, folder, None)
    left = [path.name for path in folder.iterdir() if path.name not in ("model.ckpt", RESULT)]
    identical = status == 0 and same(torch.load(folder / RESULT, weights_only=True), whole)
    return {"kills": done, "identical": identical, "left": left, "failed": status}


def soak(names: list[str], runs: int, kills: int, seed: int) -> list[dict[str, Any]]:
    """Every setting several times; one line each with the runs, kills, and how many ended the same."""
    random.seed(seed)
    lines = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        (folder / "whole").mkdir()
        assert forked(SETTINGS[name], folder / "whole", None) == 0, f"the setting {name!r} doesn't train"
        whole = torch.load(folder / "whole" / RESULT, weights_only=True)
        results = []
        for number in range(runs):
            (folder / str(number)).mkdir()
            results.append(survive(SETTINGS[name], folder / str(number), kills, whole))
        shutil.rmtree(folder)
        lines.append(
            {
                "setting": name,
                "runs": runs,
                "kills": sum(result["kills"] for result in results),
                "identical": sum(result["identical"] for result in results),
                "left": sorted({name for result in results for name in result["left"]}),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status says whether all runs ended the same and left nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.soak")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="names, with commas between them")
    parser.add_argument("--runs", type=int, default=10, help="of every setting")
    parser.add_argument("--kills", type=int, default=3, help="of a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = soak(options.settings.split(","), options.runs, options.kills, options.seed)
    runs, identical = (sum(line[key] for line in lines) for key in ("runs", "identical"))
    left = any(line["left"] for line in lines)
    print(f"{identical} of {runs} runs ended as if nobody had killed them{'; files were left behind' if left else ''}")
    return int(identical < runs or left)


if __name__ == "__main__":
    raise SystemExit(main())

"""Training that ends when a model has stopped improving, not when a budget is spent; a stopped run goes on.

    looks = Looks(measure, Patience(factor=1.6), folder)   # ``measure(model)`` is a number, the lower the better
    curve = train(model, batches, optimizer, looks)        # ``batches(epoch)`` lists the batches of an epoch
    curve.best.epoch, curve.looks, curve.ended             # and ``model`` has the weights of its best look

The patience is a factor: training ends once it has gone on for so many times the steps of its best look. So a model
that improves slowly is given as much longer as it is slower, and the rule is the same for both. Looks lie further apart
as training goes on, at steps that grow by a fixed factor.

After every look the whole run is written to ``folder/last.ckpt``; the next call reads it and goes on with the same
batches, noise and dropout as if nothing had happened.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from examples.claims.twins import QUIET
from llada import DiffusionLM
from llada.cli.quiet import quiet

Batches = Callable[[int], Sequence[dict[str, Tensor]]]
"""The batches of an epoch, by its number; the same whenever it is asked."""

IMPROVED, CAPPED = "stopped improving", "reached the cap"


@dataclass(frozen=True)
class Patience:
    """When to look, and when to end.

    Args:
        factor: ends after ``factor`` times the steps of the best look; above 1.
        spacing: of looks: the steps of one over those of the look before; above 1.
        least: steps before which training doesn't end.
        most: steps at which it ends in any case.
    """

    factor: float = 1.6
    spacing: float = 1.15
    least: int = 100
    most: int = 20_000

    def due(self, step: int, last: int) -> bool:
        """Whether to look at a step, given the step of the last look."""
        return step >= self.spacing * last or step >= self.most

    def ended(self, step: int, best: int) -> str | None:
        """Why training ends after a look, or None."""
        if step >= max(self.least, self.factor * best):
            return IMPROVED
        return CAPPED if step >= self.most else None


@dataclass(frozen=True)
class Look:
    """What one look saw.

    Attributes:
        epoch: passes that were complete.
        step: of the optimiser.
        value: what was measured.
        seconds: of the processor, looks included, since the start.
    """

    epoch: int
    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Curve:
    """A finished training.

    Attributes:
        looks: all of them.
        ended: `IMPROVED` or `CAPPED`.
    """

    looks: list[Look]
    ended: str

    @property
    def best(self) -> Look:
        """The first of the lowest looks, whose weights the model has."""
        return min(self.looks, key=lambda look: look.value)


class Looks(Callback):
    """Measures at the ends of epochs, keeps the best weights, and ends training.

    Args:
        measure: of the model in evaluation mode, without gradients; the lower the better.
        patience: when to look and to end.
        folder: of ``last.ckpt``; None: a stopped run begins again.
        seed: of whatever draws from PyTorch's own stream, such as dropout, begun anew in every step.
    """

    def __init__(
        self,
        measure: Callable[[DiffusionLM], float],
        patience: Patience = Patience(),
        folder: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.measure, self.patience, self.folder, self.seed = measure, patience, folder, seed
        self.looks: list[Look] = []
        self.weights: dict[str, Tensor] = {}
        self.ended: str | None = None
        self._before, self._started = 0.0, time.process_time()

    @property
    def checkpoint(self) -> Path | None:
        """The file to go on from, if it is there."""
        path = None if self.folder is None else self.folder / "last.ckpt"
        return path if path is not None and path.exists() else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the looks."""
        return {"looks": [asdict(look) for look in self.looks], "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; a run that had ended goes on if the patience has become longer."""
        self.looks = [Look(**look) for look in state_dict["looks"]]
        self.weights = state_dict["weights"]
        self.ended = self.patience.ended(self.looks[-1].step, Curve(self.looks, "").best.step)
        self._before = self.looks[-1].seconds

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Dropout's stream depends on the step alone, so that it is the same after a stop."""
        torch.manual_seed(1_000_003 * self.seed + trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look if it is time."""
        if not self.patience.due(trainer.global_step, self.looks[-1].step if self.looks else 0):
            return
        assert isinstance(pl_module, DiffusionLM)
        pl_module.eval()
        with torch.no_grad():
            value = self.measure(pl_module)
        pl_module.train()
        if not self.looks or value < min(look.value for look in self.looks):
            self.weights = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}
        seconds = self._before + time.process_time() - self._started
        self.looks.append(Look(trainer.current_epoch + 1, trainer.global_step, value, round(seconds, 2)))
        self.ended = self.patience.ended(trainer.global_step, Curve(self.looks, "").best.step)
        trainer.should_stop = self.ended is not None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(self.folder / "last.ckpt")


class Passes(LightningDataModule):
    """Epochs by their number."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        """The batches of the current epoch."""
        assert self.trainer is not None
        return DataLoader(list(self.batches(self.trainer.current_epoch)), batch_size=None)  # type: ignore[arg-type]


@quiet()
def train(model: DiffusionLM, batches: Batches, looks: Looks) -> Curve:
    """Train until the looks say that it is enough; the model then has the weights of the best of them.

    Args:
        model: with its optimiser; changed.
        batches: of every epoch.
        looks: the rule, and the folder of a run that may have been stopped.

    Raises:
        RuntimeError: if training was stopped from outside, as by Ctrl-C.
    """
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[looks],
        **QUIET,
    )
    checkpoint = looks.checkpoint
    if checkpoint is not None:
        looks.load_state_dict(_stored(checkpoint))
    if looks.ended is None:
        trainer.fit(model, Passes(batches), ckpt_path=checkpoint)
    if looks.ended is None:
        raise RuntimeError("training was stopped before it ended; the same call goes on from its last look")
    model.load_state_dict(looks.weights)
    return Curve(looks.looks, looks.ended)


def _stored(checkpoint: Path) -> dict[str, Any]:
    states: dict[str, dict[str, Any]] = torch.load(checkpoint, weights_only=True)["callbacks"]
    (state,) = (state for name, state in states.items() if name.startswith("Looks"))
    return state

"""A loss spike: see it, take the weights of a while ago, and go on behind the batches that made it.

A step's loss x is a spike if it is far above those of the last steps, measured by their median m and their median
absolute deviation d, which a spike itself hardly moves:

    x > m + threshold 1.4826 d        (1.4826 d estimates a standard deviation)

Reference: Chowdhery et al., "PaLM", arXiv 2204.02311, section 5.1: restart from before a spike, and skip its batches.
"""

import statistics
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

NORMAL = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""


class LossSpike(Callback):
    """Takes a run back to a copy of its weights and its optimiser where the loss jumps, and goes on from there.

    The copies are in the host's memory, two of them, made every ``every`` steps; after a spike the older one is
    restored, which is ``every`` to ``2 every`` steps old, since the newer one may have the cause in it. The data, the
    learning-rate schedule and the step counter aren't taken back: the batches that led to the spike aren't seen again.
    Every rank decides by the same number, the loss over all of them. Reading it waits for the device once per step.

    A checkpoint holds both copies, so a run that is resumed goes back to where it would have gone back without the
    interruption. Such a checkpoint is about three times as large. Copies of a model that is split over ranks (FSDP2,
    tensor parallelism) can't be stored, since each rank has only its own part of them.

    A loss that is no number never gets here: see ``on_nonfinite`` of `llada.module.DiffusionLM`.

    Args:
        threshold: robust standard deviations above the median from which a loss is a spike.
        window: optimiser steps whose losses are compared with; none is a spike before there are half as many.
        every: optimiser steps between two copies.
        max_rollbacks: more of them than this within ``window`` steps end the run.
        store_copies: put the copies into checkpoints; without them a resumed run begins with one copy, of its first
            weights, and goes back no further than to these.

    Raises:
        ValueError: if a number is out of its range; in training, if going back doesn't help.
    """

    def __init__(
        self,
        threshold: float = 10.0,
        window: int = 200,
        every: int = 100,
        max_rollbacks: int = 3,
        store_copies: bool = True,
    ) -> None:
        if not threshold > 0.0 or window < 4 or every < 1 or max_rollbacks < 1:
            raise ValueError(
                "threshold must be above 0, window 4 or more, every and max_rollbacks 1 or more; got "
                f"{threshold=}, {window=}, {every=}, {max_rollbacks=}"
            )
        self.threshold, self.window, self.every, self.max_rollbacks = threshold, window, every, max_rollbacks
        self.store_copies, self._resumed = store_copies, False
        self.rollbacks: list[int] = []
        self._losses: deque[float] = deque(maxlen=window)
        self._copies: deque[dict[str, Any]] = deque(maxlen=2)
        self._seen = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the first copy, unless the run goes on with those of a checkpoint.

        Raises:
            ValueError: if the model isn't a `llada.module.DiffusionLM`, or copies of its parts can't be stored.
        """
        if not hasattr(pl_module, "training_loop"):
            raise ValueError(f"LossSpike needs a DiffusionLM, which knows the loss of a step; got {type(pl_module)}")
        if self.store_copies and any(isinstance(tensor, DTensor) for tensor in _tensors(pl_module)):
            raise ValueError("copies of a model that is split over ranks can't be stored; set store_copies=False")
        if not self._resumed:
            self._copies.clear()
            self._copies.append(_copy(trainer, pl_module))
        self._resumed, self._seen = False, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Compare the loss of a step that has just been made, and go back or make a copy.

        Raises:
            ValueError: if the loss jumps again and again.
        """
        if trainer.global_step == self._seen or pl_module.training_loop.step is None:
            return
        self._seen = trainer.global_step
        loss = float(pl_module.training_loop.step.loss)
        if self.is_spike(loss):
            self._go_back(trainer, pl_module, loss)
            return
        self._losses.append(loss)
        if self._seen % self.every == 0:
            self._copies.append(_copy(trainer, pl_module))

    def is_spike(self, loss: float) -> bool:
        """Whether a loss is far above the last ones.

        Args:
            loss: of a step.
        """
        if len(self._losses) < self.window // 2:
            return False
        median = statistics.median(self._losses)
        deviation = NORMAL * statistics.median(abs(one - median) for one in self._losses)
        return loss > median + self.threshold * max(deviation, 1e-3 * abs(median))

    def state_dict(self) -> dict[str, Any]:
        """The last losses, and the copies if they are to be stored."""
        copies = list(self._copies) if self.store_copies else []
        return {"losses": list(self._losses), "rollbacks": list(self.rollbacks), "copies": copies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing."""
        self._losses.extend(state_dict["losses"])
        self.rollbacks = list(state_dict["rollbacks"])
        self._copies = deque(state_dict.get("copies", ()), maxlen=2)
        self._resumed = bool(self._copies)

    def _go_back(self, trainer: Trainer, module: LightningModule, loss: float) -> None:
        median = statistics.median(self._losses)
        self.rollbacks.append(trainer.global_step)
        recent = [step for step in self.rollbacks if step > trainer.global_step - self.window]
        if len(recent) > self.max_rollbacks:
            raise ValueError(
                f"the training loss jumped to {loss:.4g}, from a median of {median:.4g}, {len(recent)} times within "
                f"{self.window} steps (steps {recent}); going back doesn't help: lower the learning rate, or look at "
                "the data of these steps"
            )
        copy = self._copies[0]
        _restore(trainer, module, copy)
        self._copies.clear()
        self._copies.append(copy)
        rank_zero_warn(
            f"the training loss jumped to {loss:.4g} at step {trainer.global_step - 1}, from a median of {median:.4g}; "
            f"going on with the weights and the optimiser of step {copy['step']}"
        )
        module.log("train/rollbacks", float(len(self.rollbacks)))


@torch.no_grad()
def _copy(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What training changes, as far as this rank holds it, in the host's memory."""
    states = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return {
        "step": trainer.global_step,
        "tensors": [_local(tensor).to("cpu", copy=True) for tensor in _tensors(module)],
        "optimizers": tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), states),
    }


@torch.no_grad()
def _restore(trainer: Trainer, module: LightningModule, copy: dict[str, Any]) -> None:
    for tensor, stored in zip(_tensors(module), copy["tensors"], strict=True):
        _local(tensor).copy_(stored)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    for optimizer, state, own in zip(trainer.optimizers, copy["optimizers"], rates, strict=True):
        optimizer.load_state_dict(tree_map_only(Tensor, Tensor.clone, state))
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate  # the schedule goes on


def _tensors(module: LightningModule) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor

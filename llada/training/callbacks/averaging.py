"""Averages of the weights over the steps, which are what is validated, saved and sampled from."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA
from torch import Tensor
from typing_extensions import override

HIDDEN = "averaged_parameters"
"""Entry of a checkpoint: averages of trained parameters that aren't in its ``state_dict``."""


class EMAWeightAveraging(LightningEMA):
    """Lightning's exponential moving average, except that weights which nothing was averaged into yet are never used.

    With ``update_starting_at_step=k`` Lightning's average is the untrained network for k steps, and is validated and
    saved as the model all the same. Here the weights of training are the model until the first update, with which the
    average begins. A run that fails in a validation gets its own weights back, and trained parameters that a state
    dictionary doesn't show, such as those of `LoRA`, are averaged before and after a resume.

    Args:
        decay: share of the average that a step keeps.
        update_every_n_steps: steps from one update to the next.
        update_starting_at_step: first step of the average, counted from 0; None: the first one.
        update_starting_at_epoch: first epoch at whose end it is updated; None: none.
        use_buffers: whether buffers are averaged, too.
        device: where the average is kept; None: beside the model.

    Examples:
        >>> from llada.training.callbacks import EMAWeightAveraging
        >>> callback = EMAWeightAveraging(decay=0.9999, update_starting_at_step=1000)
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        use_buffers: bool = True,
        device: str | None = None,
    ) -> None:
        super().__init__(
            device, use_buffers, decay, update_every_n_steps, update_starting_at_step, update_starting_at_epoch
        )
        self._swapped = False

    @property
    def _has_begun(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._swapped = False
        if stage == "fit":
            self._check_order(trainer)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None and self._average_model.avg_fn is not None:
            self._average_model.avg_fn = partial(_average, self._average_model.avg_fn)

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_begun and not self._swapped:
            self._swap_models(pl_module)
            self._swapped = True

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_back(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._swap_back(pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_begun:
            super().on_train_end(trainer, pl_module)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return
        if not self._has_begun:
            checkpoint[HIDDEN] = {}
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[HIDDEN] = {
            name: parameter.detach().clone()
            for name, parameter in self._average_model.module.named_parameters()
            if parameter.requires_grad and name not in checkpoint["state_dict"]
        }

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is not None and "averaging_state" not in checkpoint and HIDDEN in checkpoint:
            self._average_model.module.load_state_dict(checkpoint["state_dict"])  # saved before the first update
            return
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None:
            parameters = dict(self._average_model.module.named_parameters())
            with torch.no_grad():
                for name, value in checkpoint.get(HIDDEN, {}).items():
                    parameters[name].copy_(value)

    def _swap_back(self, pl_module: LightningModule) -> None:
        if self._swapped:
            self._swap_models(pl_module)
            self._swapped = False

    def _check_order(self, trainer: Trainer) -> None:
        from llada.training.callbacks.lora import LoRA

        names = [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
        lora = [place for place, cls in enumerate(names) if issubclass(cls, LoRA)]
        own = [place for place, cls in enumerate(names) if issubclass(cls, LightningEMA)]
        if lora and own and min(own) < max(lora):
            raise ValueError(
                "the average is made of the weights as they are when it comes in, so LoRA must stand in front of "
                "EMAWeightAveraging in the list of callbacks"
            )


def _average(rule: Callable[..., Tensor], average: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """The rule's average; of codes, such as those of quantised weights, and counts there is none: the value itself."""
    return rule(average, value, count) if value.is_floating_point() else value

"""What happens to a model when a Trainer takes it, before any hook runs."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from llada.checkpoints.changes import ChangedParts
from llada.training.compiling import without_compilers
from llada.training.hooks import surround
from llada.training.plain import make_plain
from llada.training.resume_point import ResumePoint


def attach(module: Any, trainer: Trainer, base: Any) -> None:
    """Put the model's loop in front of the Trainer's callbacks, and keep our part of the hooks that only modules have.

    Args:
        module: a `llada.module.DiffusionLM`.
        trainer: which has just been given the module.
        base: the class whose hooks are ours, of which the module may be a subclass.
    """
    without_compilers(module)
    module.training_loop.attach(trainer)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for kind in (ChangedParts, ResumePoint):
        if not any(isinstance(callback, kind) for callback in callbacks):
            callbacks.insert(1, kind())
    surround(module, "on_save_checkpoint", base.on_save_checkpoint.__get__(module), make_plain)
    surround(module, "on_load_checkpoint", base.on_load_checkpoint.__get__(module))
    # Lightning takes any configure_model for one that shards, and says so where weights are averaged.
    meta = any(parameter.is_meta for parameter in module.backbone.parameters())
    if meta or isinstance(trainer.strategy, ModelParallelStrategy) or is_overridden("configure_model", module):
        surround(module, "configure_model", after=module._place)
    if trainer.state.fn == TrainerFn.FITTING and module._loaded:
        module._loaded = False
        train_again(module)


def train_again(module: nn.Module) -> None:
    """Training mode for a model that was loaded for evaluation, and is still wholly in that mode.

    Parts whose parameters are all frozen stay in evaluation mode, and nothing is changed where somebody has chosen
    modes since the model was loaded.

    Args:
        module: the model.
    """
    if any(part.training for part in module.modules()):
        return
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()

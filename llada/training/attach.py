"""What happens to a model when a Trainer takes it, before any hook runs."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from llada.checkpoints.changes import ChangedParts
from llada.training.compiling import without_compilers
from llada.training.hooks import surround
from llada.training.plain import make_plain
from llada.training.resume_point import ResumePoint
from llada.training.weights import widen


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
    half = is_mixed(trainer) and any(p.is_floating_point() and p.itemsize == 2 for p in module.parameters())
    split = isinstance(trainer.strategy, ModelParallelStrategy)
    if meta or half or split or is_overridden("configure_model", module):
        surround(module, "configure_model", after=module._place)
    if trainer.state.fn == TrainerFn.FITTING and module._loaded:
        module._loaded = False
        train_again(module)


def is_mixed(trainer: Trainer) -> bool:
    """Whether weights are trained in float32 and computed with in half precision."""
    return trainer.state.fn == TrainerFn.FITTING and str(trainer.precision).endswith("-mixed")


def keep_in_float32(module: Any) -> None:
    """Under mixed precision, make the trained weights float32 and say so; callbacks have frozen the others by now.

    Args:
        module: a `llada.module.DiffusionLM` with its Trainer.
    """
    if is_mixed(module.trainer) and (changed := widen(module)):
        precision = module.trainer.precision
        rank_zero_warn(
            f"precision={precision} trains weights in float32: {changed} parameters were in half precision and have "
            f'been converted, which doubles their memory. Train in it with precision="{precision[:-6]}-true"'
        )


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

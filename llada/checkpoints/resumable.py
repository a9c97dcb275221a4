"""Whether a file holds all that a run goes on from, found out before the Trainer takes it apart.

The Trainer goes without what isn't there, so that a run would begin its data or its averages anew without a word.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

ALONE = "begin with its weights instead: --init_from"


def check_resumable(checkpoint: Mapping[str, Any], trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint without the optimiser, the callbacks or the place of a run.

    Args:
        checkpoint: as it was read.
        trainer: of the run that is to go on.
        weights: the model's own, by name.

    Raises:
        ValueError: naming the file, and what it lacks or has otherwise.
    """
    path = trainer.ckpt_path
    whole = trainer.strategy.lightning_restore_optimizer  # elsewhere the ranks have read their parts by now
    if whole and "optimizer_states" not in checkpoint:
        raise ValueError(f"{path} holds weights alone (save_weights_only), so no run can go on from it; {ALONE}")
    looks = {"callbacks": _mapping, "loops": lambda value: _is_place(value, trainer), "global_step": _number}
    looks |= {"optimizer_states": _optimizers, "lr_schedulers": _mappings} if whole else {}
    for name, is_right in looks.items():
        if name not in checkpoint or not is_right(checkpoint[name]):
            raise ValueError(f"{path} is damaged: its entry {name!r} isn't what a run goes on from; {ALONE}")
    check_kinds(checkpoint.get("state_dict", {}), weights, str(path))


def check_kinds(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], path: object) -> None:
    """Refuse stored weights of another kind of number than the model's: whole ones or complex ones, say.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in stored.items():
        if name in own and _kind(tensor) != _kind(own[name]):
            raise ValueError(f"{path} holds {name} in {tensor.dtype}, but the model has it in {own[name].dtype}")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _mappings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_mapping, value))


def _number(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _optimizers(value: Any) -> bool:
    return _mappings(value) and all(
        _mapping(state.get("state")) and _mappings(state.get("param_groups")) for state in value
    )


def _is_place(loops: Any, trainer: Trainer) -> bool:
    """Whether all counters of this version's loop are there."""
    place: Any = loops.get("fit_loop") if _mapping(loops) else None
    return _mapping(place) and all(_mapping(place.get(name)) for name in trainer.fit_loop.state_dict())

"""What a configuration says otherwise than the checkpoint that a run goes on from: obeyed or refused, never ignored.

The Trainer restores the optimiser's and the schedule's numbers from a checkpoint, so that a new learning rate in the
configuration would have no effect. Other parts, such as the objective, are those of the configuration anyway.
"""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from typing_extensions import override

from llada.checkpoints.checkpoint import PARTS_KEY
from llada.checkpoints.describe import build, constructor_hints, describe, describe_arguments
from llada.checkpoints.known import known_class

Choice = Literal["refuse", "configuration", "checkpoint"]
RESTORED = ("optimizer", "lr_scheduler")
LOW_RANK = "LoRA"
"""Under which a checkpoint keeps low-rank additions."""


class ChangedParts(Callback):
    """Compares the parts of a run with those of the checkpoint that it goes on from.

    Changes of the optimiser and the schedule are refused, or one of the two sides holds from here on; those of other
    parts are obeyed, with a warning that lists them. `llada.DiffusionLM` brings one along that refuses.

    Args:
        choice: "refuse"; "configuration": the new optimiser's options with the old moments, and the new schedule as if
            it had been in use from the beginning; "checkpoint": the old ones.
    """

    def __init__(self, choice: Choice = "refuse") -> None:
        self.choice = choice
        self._groups: list[list[dict[str, Any]]] = []
        self._stored: list[list[int]] = []
        self._obey = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stored = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer, stored in zip(trainer.optimizers, self._stored, strict=False):
            own = _sizes(optimizer.param_groups)
            if own != stored:
                raise ValueError(
                    f"{trainer.ckpt_path} holds an optimiser of {sum(stored)} parameters in groups of {stored}, and "
                    f"this run trains {sum(own)} in groups of {own}; train the same ones, or begin with its weights "
                    "instead: --init_from"
                )
        self._groups = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._obey = False
        if trainer.state.fn != TrainerFn.FITTING:
            return
        _check_callbacks(trainer, checkpoint)
        self._stored = [_sizes(state.get("param_groups", [])) for state in checkpoint.get("optimizer_states", [])]
        if PARTS_KEY not in checkpoint:
            return
        stored, own = checkpoint[PARTS_KEY]["parts"], describe_arguments(pl_module)
        found = {name: differences(name, stored.get(name), own.get(name)) for name in sorted({*stored, *own})}
        others = [line for name, lines in found.items() if name not in RESTORED for line in lines]
        scheduled = {place for callback in trainer.callbacks for place in getattr(callback, "schedules", ())}  # type: ignore[attr-defined]
        others = [line for line in others if line.split(" was ")[0] not in scheduled]
        if others:
            warnings.warn(f"this run goes on with other parts than it was begun with: {_listed(others)}", stacklevel=2)
        changed = [line for name in RESTORED for line in found.get(name, [])]
        if not changed:
            return
        if self.choice == "refuse":
            raise ValueError(
                f"the checkpoint was trained with another optimiser or schedule: {_listed(changed)}. Set "
                "--changed_parts=configuration to go on with the new ones, or --changed_parts=checkpoint to go on with "
                "the old ones (in Python the callback llada.checkpoints.changes.ChangedParts)"
            )
        if self.choice == "checkpoint":
            _take_back(pl_module, stored)
            return
        if _class_path(stored.get("optimizer")) != _class_path(own.get("optimizer")):
            raise ValueError(
                f"{_listed(changed)}: another optimiser can't go on with the moments of the first; begin with the "
                "weights instead: --init_from"
            )
        self._obey, checkpoint["lr_schedulers"] = True, []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._obey:
            return
        self._obey = False
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, options in zip(optimizer.param_groups, groups, strict=True):
                group.update(options)
        for config in trainer.lr_scheduler_configs:
            steps = trainer.global_step if config.interval == "step" else trainer.current_epoch
            if isinstance(config.scheduler, ReduceLROnPlateau):
                continue
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                for _ in range(steps // config.frequency):
                    config.scheduler.step()


def differences(name: str, stored: Any, own: Any) -> list[str]:
    """Where two descriptions of a part differ, one line each.

    Args:
        name: of the part.
        stored: that of the checkpoint.
        own: that of the configuration.
    """
    first, second = dict(_flat(_filled(stored), name)), dict(_flat(_filled(own), name))
    return [
        f"{place} was {_shown(first, place)} and is {_shown(second, place)}"
        for place in sorted({*first, *second})
        if not _same(first.get(place, _ABSENT), second.get(place, _ABSENT))
    ]


_ABSENT = object()


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) or (first != first and second != second)  # not a number either time


def _shown(values: dict[str, Any], place: str) -> str:
    return repr(values[place]) if place in values else "absent"


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The plain values of a description, by their places."""
    if isinstance(value, dict) and "class_path" in value:
        yield name, value["class_path"]
        value = value.get("init_args", {})
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from _flat(item, f"{name}[{place}]")
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def _filled(description: Any) -> Any:
    """A description with the defaults of its class, which one side may have left out."""
    cls = known_class(description.get("class_path")) if isinstance(description, dict) else None
    if cls is None:
        return description
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.default is not parameter.empty:
            found[name] = describe(parameter.default)
    return {**description, "init_args": found | description.get("init_args", {})}


def _check_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to go on without the callbacks that have made the weights of a checkpoint what they are, or with new ones.

    Raises:
        ValueError: naming the callback.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    keys = {callback.state_key for callback in callbacks}
    begin = "begin with its weights instead: --init_from"
    if "current_model_state" in checkpoint and not any(isinstance(one, WeightAveraging) for one in callbacks):
        raise ValueError(
            f"{trainer.ckpt_path} holds averaged weights, and this run doesn't average; add EMAWeightAveraging to the "
            f"callbacks as it was, or {begin}"
        )
    stored = checkpoint.get("callbacks", {})
    if LOW_RANK in keys and LOW_RANK not in stored:
        raise ValueError(f"{trainer.ckpt_path} was written without LoRA, so it can't be resumed with it; {begin}")
    if LOW_RANK in stored and LOW_RANK not in keys:
        raise ValueError(f"{trainer.ckpt_path} was trained with LoRA; add it to the callbacks as it was, or {begin}")


def _sizes(groups: list[dict[str, Any]]) -> list[int]:
    """How many parameters there are in each group of an optimiser."""
    return [len(group["params"]) for group in groups]


def _class_path(description: Any) -> Any:
    return description.get("class_path") if isinstance(description, dict) else None


def _take_back(pl_module: Any, stored: dict[str, Any]) -> None:
    """Give a model the optimiser and schedule of a checkpoint."""
    hints = constructor_hints(type(pl_module))
    for name in RESTORED:
        setattr(pl_module, name, build(stored[name], hints[name], f"parts.{name}"))


def _listed(lines: list[str]) -> str:
    shown = "; ".join(lines[:8])
    return shown if len(lines) <= 8 else f"{shown}; and {len(lines) - 8} more"

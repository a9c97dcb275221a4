"""The parts of a model as hyper-parameters: flat for loggers, plain data for checkpoints."""

from collections.abc import Iterator, Mapping
from typing import Any

from llada.checkpoints.describe import describe

ENDING = "hyper_parameters"
"""Of the entries in which a checkpoint holds what ``save_hyperparameters`` has noted, of the module and of the data."""


def flat_parts(model: Any) -> dict[str, Any]:
    """Every argument of every part by its path, as loggers want it.

    ``{"backbone": "llada.backbones.BidirectionalTransformer", "backbone.width": 256, ..., "seed": 0}``

    Args:
        model: the module.

    Raises:
        ValueError: if a part can't be described, see `llada.checkpoints.describe.describe`.
    """
    return dict(_flat(describe(model)["init_args"], ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and set(value) == {"class_path", "init_args"}:
        yield path, value["class_path"]
        value = value["init_args"]
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}.{index}")
    else:
        yield path, value


def describe_hyperparameters(checkpoint: dict[str, Any]) -> None:
    """Put descriptions in the place of the parts that ``save_hyperparameters`` has put into a checkpoint.

    What can't be described is left to `llada.training.plain`; the model's own parts are in the checkpoint anyway.

    Args:
        checkpoint: to be changed.
    """
    for key in [key for key in checkpoint if str(key).endswith(ENDING)]:
        checkpoint[key] = {str(name): _described(value) for name, value in dict(checkpoint[key]).items()}
    for key in [key for key in checkpoint if str(key).endswith("hparams_type")]:
        del checkpoint[key]  # a class, which only omegaconf's containers need


def _described(value: Any) -> Any:
    try:
        return describe(value)
    except ValueError:
        return value

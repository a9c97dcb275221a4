"""The parameters of a model in the groups that an optimiser treats differently, and its learning rate."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

HEADS = {"head", "lm_head"}


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Hidden matrices; other matrices, such as embedding and head; and vectors (norms, biases), which don't decay.

    The groups are as an optimiser takes them. Those of hidden matrices are marked by ``is_hidden``.

    Raises:
        ValueError: if all parameters are frozen.
    """
    hidden = _hidden_matrices(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("there is nothing to train: all parameters are frozen; model.unfreeze() frees them")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p in hidden], "is_hidden": True},
        {"params": [p for p in parameters if p.ndim >= 2 and p not in hidden], "is_hidden": False},
        {"params": [p for p in parameters if p.ndim < 2], "is_hidden": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _hidden_matrices(module: nn.Module) -> set[Tensor]:
    """The matrices of linear layers that lead from activations to activations."""
    tables = {owner.weight for owner in module.modules() if isinstance(owner, nn.Embedding)}
    layers = [owner for name, owner in module.named_modules() if HEADS.isdisjoint(name.split("."))]
    return {layer.weight for layer in layers if isinstance(layer, nn.Linear)} - tables


def learning_rate(optimizer: Callable[..., Any]) -> float:
    """The learning rate that an optimiser will have.

    Args:
        optimizer: its class, a `functools.partial` of it, or a function that makes it.

    Raises:
        AttributeError: if neither it nor its default is known.
    """
    if isinstance(optimizer, partial) and "lr" in optimizer.keywords:
        return float(optimizer.keywords["lr"])
    makers = [optimizer.func, *optimizer.args] if isinstance(optimizer, partial) else [optimizer]
    for maker in reversed(makers):
        parameter = inspect.signature(maker).parameters.get("lr") if callable(maker) else None
        if parameter is not None and isinstance(parameter.default, float | int):
            return float(parameter.default)
    raise AttributeError(f"the optimiser {optimizer} has no lr and no default of it; give it as an argument")


def with_learning_rate(optimizer: Callable[..., Any], lr: float) -> Callable[..., Any]:
    """The same optimiser with another learning rate; unchanged if it has none that is known.

    Args:
        optimizer: as in `learning_rate`.
        lr: the rate.
    """
    try:
        learning_rate(optimizer)
    except AttributeError:
        return optimizer
    return partial(optimizer, lr=lr)


FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
"""Optimisers of PyTorch that have one kernel for all parameters."""


def made(optimizer: Callable[..., Any], groups: list[dict[str, Any]]) -> Any:
    """The optimiser of these groups, fused where its parameters are on CUDA and nothing else was asked for.

    The usual way makes temporary tensors of the size of all parameters.

    Args:
        optimizer: as in `learning_rate`.
        groups: see `parameter_groups`.
    """
    result = optimizer([dict(group) for group in groups])  # it writes its defaults into what it is given
    asked = [result.defaults.get(name) for name in ("fused", "foreach")]
    on_cuda = all(p.is_floating_point() and p.device.type == "cuda" for group in groups for p in group["params"])
    if type(result) not in FUSED or any(value is not None for value in asked) or not on_cuda:
        return result
    result = optimizer(groups, fused=True)
    # Its kernel could undo the scaling of gradients, and so Lightning refuses to clip them; let it be undone before.
    result._step_supports_amp_scaling = False
    return result

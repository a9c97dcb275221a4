"""The parameters of a model in the groups that an optimiser treats differently."""

from typing import Any

from torch import Tensor, nn

HEADS = {"head", "lm_head"}


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Hidden matrices; other matrices, such as embedding and head; and vectors (norms, biases), which don't decay.

    The groups are as an optimiser takes them. Those of hidden matrices are marked by ``is_hidden``.
    """
    hidden = _hidden_matrices(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
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

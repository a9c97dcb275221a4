"""Low-rank additions beside the matrices of a network (extra ``peft``), put in, shown as sums, and taken out again.

    W x  ->  W x + s B A x        A: (r, in), B: (out, r),  s = alpha / r, or alpha / sqrt(r)

For everybody else the network stays as it is: its ``state_dict`` holds the sums W + s B A under the usual names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llada.checkpoints.quantised import is_quantised, make_whole, whole_layer


class Addition(NamedTuple):
    """What is added to a matrix.

    Attributes:
        a: (r, in); of an embedding (r, V).
        b: (out, r); of an embedding (D, r).
        alpha: scale before it is divided by the rank.
        rank_stabilised: whether it is divided by the root of the rank instead.
        transposed: whether the sum is B A transposed, as an embedding's is.
    """

    a: Tensor
    b: Tensor
    alpha: float
    rank_stabilised: bool
    transposed: bool = False

    def sum(self, span: Sequence[slice] = (slice(None), slice(None))) -> Tensor:
        """The addition to the matrix, in float32, or float64 for float64 factors.

        Args:
            span: rows and columns of the matrix that are wanted.
        """
        dtype = torch.promote_types(self.a.dtype, torch.float32)
        rank = len(self.a)
        scale = self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)
        rows, columns = reversed(span) if self.transposed else span
        product = self.b[rows].to(dtype) @ self.a[:, columns].to(dtype)
        return scale * (product.T if self.transposed else product)


def config_of(additions: Mapping[str, Addition]) -> dict[str, Any]:
    """Arguments of PEFT's configuration for additions that are there, by the paths of their matrices."""
    first = next(iter(additions.values()))
    return {
        "r": len(first.a),
        "lora_alpha": first.alpha,
        "rank_pattern": {name: len(addition.a) for name, addition in additions.items()},
        "alpha_pattern": {name: addition.alpha for name, addition in additions.items()},
        "target_modules": list(additions),
        "use_rslora": first.rank_stabilised,
    }


def put_in(
    network: nn.Module, arguments: Mapping[str, Any], begun: Mapping[str, Addition], dropout: float
) -> list[Any]:
    """Put additions in; everything else of the network is frozen.

    Args:
        network: without additions.
        arguments: of PEFT's configuration.
        begun: additions to begin with, by the paths of their matrices; others begin at nothing.
        dropout: of their inputs.

    Returns:
        Handles of the hooks that show the sums, to be removed by `take_out`.

    Raises:
        ImportError: without the extra.
        ValueError: if there are additions in it already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install llada[peft]") from error
    check_bare(network)
    inject_adapter_in_model(LoraConfig(**arguments, lora_dropout=dropout), network)
    for name, addition in begun.items():
        layer: Any = network.get_submodule(name)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(addition.a)
            layer.lora_B["default"].weight.copy_(addition.b)
    return [
        network.register_state_dict_post_hook(_show_sums),
        network.register_load_state_dict_pre_hook(_keep_own),
    ]


def check_bare(network: nn.Module) -> None:
    """Refuse a network that has additions already.

    Raises:
        ValueError: with the way to go on from them.
    """
    if any(".lora_" in name for name, _ in network.named_parameters()):
        raise ValueError(
            "the network has low-rank additions already; load it without the adapter, and go on from that by "
            "LoRA(adapter=...), --trainer.callbacks.adapter"
        )


def take_out(network: nn.Module, hooks: list[Any]) -> None:
    """Add the additions to the matrices, and leave the network with usual layers; quantised ones become whole."""
    for hook in hooks:
        hook.remove()
    for name, layer in list(layers_of(network)):
        base = layer.get_base_layer()
        if is_quantised(base):
            base = whole_layer(base)
            with torch.no_grad():
                base.weight += layer.get_delta_weight("default")
        else:
            layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, base)
    make_whole(network)


def layers_of(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with additions, and their paths."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer))


@torch.no_grad()
def _show_sums(network: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Replace frozen matrices and additions in a state by the sums."""
    for name, layer in layers_of(network):
        path = f"{prefix}{name}."
        whole = state[f"{path}base_layer.weight"]
        sums = whole + layer.get_delta_weight("default").to(whole.dtype)
        bias = state.get(f"{path}base_layer.bias")
        for key in [key for key in state if key.startswith(path)]:
            del state[key]
        state[f"{path}weight"] = sums
        if bias is not None:
            state[f"{path}bias"] = bias


def _keep_own(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Leave frozen matrices and additions as they are when the state of a checkpoint is loaded."""
    for name, layer in layers_of(network):
        path = f"{prefix}{name}."
        for key in [key for key in state if key.startswith(path)]:
            del state[key]
        state.update({f"{path}{key}": value.detach() for key, value in layer.named_parameters()})

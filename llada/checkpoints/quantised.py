"""Frozen matrices in 4 or 8 bits, by bitsandbytes (extra ``quantised``): the base of QLoRA, or a model on a small GPU.

    nf4, fp4    blocks of 64 weights: w ~ s_block c[code], with 16 values c; the scales s in 8 bits themselves
    int8        rows: w ~ s_row code / 127; the inputs of the matrix are rounded likewise, each row by itself,
                from float16

Only the linear layers of the repeated blocks are quantised; embedding, norms, routers and the head stay as they are.
For everybody else the network stays what it was: its ``state_dict``, and so whatever is saved, holds whole matrices
under the usual names, and they are those that it computes with, not those that it was loaded from.

Reference: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314; "LLM.int8()", arXiv
2208.07339, section 2, without its outliers, which would make a row depend on its neighbours.
"""

import logging
import sys
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from llada.backbones.mixture import MixtureOfExperts

Quantisation = Literal["nf4", "fp4", "int8"]
KINDS = get_args(Quantisation)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 64
"""Weights of 4 bits that share a scale. Blocks run on from row to row, but for the kernels of some CPUs (AVX-512)."""


def _tells(record: logging.LogRecord) -> bool:
    """Whether a line of the library's log is worth showing.

    It tells of the inputs' rounding at every call, and when it is imported, that a faster kernel nobody asked for isn't
    installed.
    """
    return not any(words in str(record.msg) for words in ("inputs will be cast", "Failed to load CPU gemm"))


for _name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
    logging.getLogger(_name).addFilter(_tells)  # at once, for PEFT imports the library, too


def check_kind(kind: Any) -> None:
    """Refuse another word than those of `Quantisation`.

    Raises:
        ValueError: naming them.
    """
    if kind not in KINDS:
        raise ValueError(f"weights can be quantised to {', '.join(KINDS)}; got {kind!r}")


def quantise(network: nn.Module, kind: Quantisation) -> None:
    """Quantise the linear layers in the blocks of a network, in place, one matrix at a time.

    Layers on the meta device become ones that `stored_form` fills.

    Args:
        network: with its blocks in an `nn.ModuleList`, on the device where it is to stay.
        kind: to what.

    Raises:
        ImportError: without the extra.
        ValueError: if the kind is unknown, there are no such layers, or as `stored_form` says.
    """
    check_kind(kind)
    if quantised_layers(network):
        raise ValueError("the network is quantised already")
    chosen = _linear_layers(network)
    if not chosen:
        raise ValueError(f"{type(network).__name__} has no linear layers in blocks (nn.ModuleList) to be quantised")
    for name, layer in chosen.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, _quantised(layer, kind))
    network.is_loaded_in_8bit, network.is_loaded_in_4bit = kind == "int8", kind != "int8"  # type: ignore[assignment]  # for PEFT
    network.register_state_dict_post_hook(_show_whole)


def quantised_layers(network: nn.Module) -> dict[str, Any]:
    """The quantised layers of a network by their paths; none where bitsandbytes was never imported."""
    library = sys.modules.get("bitsandbytes")
    if library is None:
        return {}
    kinds = (library.nn.Linear4bit, library.nn.Linear8bitLt)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is such a layer itself."""
    return "" in quantised_layers(module)


def stored_form(layer: nn.Module, leaf: str, values: Tensor) -> nn.Parameter | None:
    """What a quantised layer keeps of a whole matrix; None if its parameter is no such matrix.

    Args:
        layer: which has the parameter.
        leaf: name of the parameter in it.
        values: (out, in), on the device where the layer is to stay.

    Raises:
        ValueError: if the numbers are of another type than float32, bfloat16 or float16, or rows of 4 bits on a CPU
            aren't made of whole blocks.
    """
    if leaf != "weight" or not is_quantised(layer):
        return None
    if values.dtype not in DTYPES:
        raise ValueError(
            f"matrices of {values.dtype} can't be quantised, but those of float32, bfloat16 and float16 can (--dtype)"
        )
    old: Any = layer.weight
    options = {name: getattr(old, name) for name in ("compress_statistics", "quant_type") if hasattr(old, name)}
    if options and values.device.type == "cpu" and values.shape[-1] % BLOCK:
        raise ValueError(
            f"on a CPU, bitsandbytes reads 4 bits wrongly where rows of a matrix aren't a multiple of {BLOCK} long; "
            f"got {tuple(values.shape)}. Quantise to int8, or on a GPU"
        )
    new: Any = type(old)(values, requires_grad=False, **options)
    layer.whole_dtype = values.dtype  # type: ignore[assignment]
    return new.to(values.device)


def whole_weight(layer: Any) -> Tensor:
    """The matrix that a quantised layer computes with, (out, in), in the dtype that it was quantised from."""
    weight = layer.weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(layer.whole_dtype)
    scales = layer.state.SCB if weight.SCB is None else weight.SCB
    return (weight.data.float() * (scales[:, None] / 127.0)).to(layer.whole_dtype)


def whole_layer(layer: Any) -> nn.Linear:
    """A usual layer that computes with the same matrix; for int8, without the rounding of its inputs."""
    with torch.device("meta"):
        whole = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    whole.weight = nn.Parameter(whole_weight(layer))
    whole.bias = layer.bias
    return whole.train(layer.training)


def make_whole(network: nn.Module) -> None:
    """Replace all quantised layers by usual ones with the same matrices, in place."""
    for name, layer in quantised_layers(network).items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, whole_layer(layer))


def whole_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters by their names, of quantised ones as the matrices that they stand for."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    for name, layer in quantised_layers(network).items():
        shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes


def whole_parameters(network: nn.Module) -> dict[str, Tensor]:
    """All parameters by their names, quantised ones whole and with their additions; of several names the first."""
    names = {name: parameter.detach() for name, parameter in network.named_parameters()}
    if not quantised_layers(network) and not any(".base_layer." in name for name in names):
        return names
    shown = {name: tensor for name, tensor in network.state_dict().items() if name not in dict(network.named_buffers())}
    tied = {name for name, _ in network.named_parameters(remove_duplicate=False)} - names.keys()
    return {name: tensor for name, tensor in shown.items() if name not in tied}


def check_trainable(network: nn.Module) -> None:
    """Refuse to train a quantised network without additions: its matrices stay as they are.

    Raises:
        ValueError: with the fix.
    """
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if quantised_layers(network) and not any(".lora_" in name for name in trained):
        raise ValueError(
            "quantised matrices can't be trained; train additions to them, --trainer.callbacks+=LoRA (in Python "
            "llada.training.callbacks.LoRA), or load the model without quantise"
        )


def _linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Plain linear layers in lists of blocks, but for routers, whose small matrices decide who computes."""
    lists = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.ModuleList))
    routers = {id(module.router) for module in network.modules() if isinstance(module, MixtureOfExperts)}
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Linear and name.startswith(lists or ("/",)) and id(module) not in routers
    }


def _quantised(layer: nn.Linear, kind: Quantisation) -> nn.Module:
    try:
        from bitsandbytes.nn import Linear4bit, Linear8bitLt
    except ImportError as error:
        raise ImportError(
            "weights in 4 or 8 bits need the package bitsandbytes: pip install llada[quantised]"
        ) from error
    sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
    with torch.device("meta"):
        if kind == "int8":
            new: Any = Linear8bitLt(*sizes, bias, has_fp16_weights=False)
        else:
            new = Linear4bit(*sizes, bias, quant_type=kind)
            new.support_avx512bf16_for_cpu = False  # which repacks the matrices in an evaluation
    new.weight.requires_grad_(False)
    if not layer.weight.is_meta:
        new.weight = stored_form(new, "weight", layer.weight.detach())
    new.bias = layer.bias
    new.register_load_state_dict_pre_hook(_keep_stored)
    return new.train(layer.training)


def _show_whole(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Show whole matrices in a state in place of codes and scales."""
    for name, layer in quantised_layers(network).items():
        path = f"{prefix}{name}."
        parts = [key for key in state if key.startswith(f"{path}weight.")] + [f"{path}SCB", f"{path}weight_format"]
        for key in parts:
            state.pop(key, None)
        state[f"{path}weight"] = whole_weight(layer)


def _keep_stored(layer: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave a quantised matrix as it is where a state holds the same one, and refuse another.

    Raises:
        ValueError: if it is another one.
    """
    given = state.get(f"{prefix}weight")
    if given is None or not given.is_floating_point():
        return
    own = whole_weight(layer)
    if given.shape != own.shape or not torch.equal(given.to(own), own):
        raise ValueError(
            f"the state holds other numbers for {prefix}weight than the quantised matrix; load whole weights into a "
            "whole network and quantise that, or begin with the same checkpoint and kind as the first time"
        )
    state[f"{prefix}weight"] = layer.weight.data

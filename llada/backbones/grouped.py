"""All experts of a mixture in three products, each of a group of rows with its own expert's matrix.

    y_n = down_e (silu(gate_e x_n) * up_e x_n),      e the expert of row n; rows stand expert by expert

Where each expert's rows end stays on the device, so nothing waits for it, and an expert costs no kernels of its own.

Shapes: N rows, D width, F width inside of an expert, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones.layers import SwiGLU

BYTES = 16
"""Rows of matrices must be a multiple of it."""


def fits(rows: Tensor, experts: nn.ModuleList) -> bool:
    """Whether the product exists for these rows and experts: bfloat16 on a GPU, SwiGLU without bias, torch 2.10.

    Args:
        rows: (N, D), before autocast.
        experts: of a mixture; one that an adapter has changed is computed alone.
    """
    if rows.device.type != "cuda" or not hasattr(F, "grouped_mm") or _dtype(rows) != torch.bfloat16:
        return False
    return plain(experts)


def plain(experts: nn.ModuleList) -> bool:
    """Whether all experts are the same `SwiGLU` without bias, with rows of a multiple of `BYTES` in bfloat16."""
    shapes = set()
    for expert in experts:
        if type(expert) is not SwiGLU:
            return False
        layers = expert.gate_proj, expert.up_proj, expert.down_proj
        if any(type(layer) is not nn.Linear or layer.bias is not None for layer in layers):
            return False
        shapes.add(tuple(expert.gate_proj.weight.shape))
    return len(shapes) == 1 and all(2 * size % BYTES == 0 for size in next(iter(shapes)))


def swiglu(rows: Tensor, counts: Tensor, experts: nn.ModuleList) -> Tensor:
    """What the experts make of their rows, (N, D).

    Args:
        rows: (N, D), expert by expert.
        counts: (E,) int64, how many are whose.
        experts: as `fits` accepts.
    """
    ends, dtype = counts.cumsum(0).int(), _dtype(rows)
    rows = rows.to(dtype)

    def product(x: Tensor, name: str) -> Tensor:
        matrices = torch.stack([getattr(expert, name).weight for expert in experts]).to(dtype)
        return F.grouped_mm(x, matrices.transpose(-2, -1), offs=ends)

    return product(F.silu(product(rows, "gate_proj")) * product(rows, "up_proj"), "down_proj")


def _dtype(rows: Tensor) -> torch.dtype:
    """In which products are computed: autocast's, where it is on."""
    device = rows.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype

"""Slopes of curves by automatic differentiation, wherever they are asked for.

Under ``torch.inference_mode`` older PyTorch (2.7 for one) finds slopes of 0: `torch.func` sees tensors that can't have
any. Newer ones do. Whatever finds a slope with `torch.func` is marked here, so that no other file has to know.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

_Curve = TypeVar("_Curve")
_Slopes = TypeVar("_Slopes")


def finds_slopes(function: Callable[[_Curve, Tensor], _Slopes]) -> Callable[[_Curve, Tensor], _Slopes]:
    """Let a function of a curve and of times find slopes under ``torch.inference_mode``, too.

    Args:
        function: from anything and times, of any shape, to what it finds by `torch.func` at these times.
    """

    @wraps(function)
    def found(curve: _Curve, t: Tensor) -> _Slopes:
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return function(curve, t)
        with torch.inference_mode(False):
            return function(curve, t.clone())

    return found

"""Masked-diffusion language models from interchangeable parts, on PyTorch Lightning.

A `NoiseSchedule` is the curve alpha(t). A `MaskingProcess` is that curve and the mask token. An `Objective` turns
model, process and clean tokens into a loss, a `Sampler` turns model, process and partly masked tokens into tokens. A
backbone maps tokens to logits, and `DiffusionLM` is the LightningModule that holds one of each.

The names below are loaded when they are first used, so that ``import llada`` alone costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_EXPORTS` loads, spelt out for editors and type checkers
    from llada.autoregressive import AutoregressiveLM
    from llada.backbones import BidirectionalTransformer
    from llada.module import DiffusionLM
    from llada.noise import LinearSchedule, NoiseSchedule
    from llada.objectives import NELBO, Objective
    from llada.process import AbsorbingHybridProcess, HybridProcess, MaskingProcess, Process, UniformProcess
    from llada.random import RowRandom
    from llada.samplers import Sampler

__version__ = "0.1.0"

__all__ = [
    "NELBO",
    "AbsorbingHybridProcess",
    "AutoregressiveLM",
    "BidirectionalTransformer",
    "DiffusionLM",
    "HybridProcess",
    "LinearSchedule",
    "MaskingProcess",
    "NoiseSchedule",
    "Objective",
    "Process",
    "RowRandom",
    "Sampler",
    "UniformProcess",
    "__version__",
]

_EXPORTS = {
    "NELBO": "llada.objectives",
    "AbsorbingHybridProcess": "llada.process",
    "AutoregressiveLM": "llada.autoregressive",
    "BidirectionalTransformer": "llada.backbones",
    "DiffusionLM": "llada.module",
    "HybridProcess": "llada.process",
    "LinearSchedule": "llada.noise",
    "MaskingProcess": "llada.process",
    "NoiseSchedule": "llada.noise",
    "Objective": "llada.objectives",
    "Process": "llada.process",
    "RowRandom": "llada.random",
    "Sampler": "llada.samplers",
    "UniformProcess": "llada.process",
}


def __getattr__(name: str) -> object:
    """Load a top-level name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The loaded names and those still to be loaded."""
    return sorted({*globals(), *__all__})

"""Noise processes: what happens to a token, forward and back."""

from llada.process.columns import Edit
from llada.process.hybrid import AbsorbingHybridProcess, HybridProcess
from llada.process.insertion import InsertionProcess, Thinned
from llada.process.masked import MaskingProcess
from llada.process.noised import Noised, check_maskable
from llada.process.parameterisation import LeaveOneOut, ScoreDenoiser
from llada.process.process import Process
from llada.process.shares import Rates, Shares
from llada.process.uniform import UniformProcess

__all__ = [
    "AbsorbingHybridProcess",
    "Edit",
    "HybridProcess",
    "InsertionProcess",
    "LeaveOneOut",
    "MaskingProcess",
    "Noised",
    "Process",
    "Rates",
    "ScoreDenoiser",
    "Shares",
    "Thinned",
    "UniformProcess",
    "check_maskable",
]

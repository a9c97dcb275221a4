"""Noise processes: what happens to a token, forward and back."""

from llada.process.masked import MaskingProcess
from llada.process.process import Noised, Process, Shares, check_maskable
from llada.process.uniform import UniformProcess

__all__ = ["MaskingProcess", "Noised", "Process", "Shares", "UniformProcess", "check_maskable"]

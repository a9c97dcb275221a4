"""Noise schedules alpha(t), and how training draws its times."""

from llada.noise.arccos import ArccosSchedule
from llada.noise.cosine import CosineSchedule, CosineSquaredSchedule, MDLMCosineSchedule
from llada.noise.gaussian import ArgmaxSchedule
from llada.noise.geometric import GeometricSchedule, LinearSigmaSchedule
from llada.noise.linear import LinearSchedule
from llada.noise.logarithmic import LogarithmicSchedule
from llada.noise.polynomial import PolynomialSchedule, PowerSchedule
from llada.noise.rescaled import RescaledSchedule
from llada.noise.schedule import NoiseSchedule
from llada.noise.times import AntitheticTimes, StratifiedTimes, SystematicTimes, TimeSampler, UniformTimes

__all__ = [
    "AntitheticTimes",
    "ArccosSchedule",
    "ArgmaxSchedule",
    "CosineSchedule",
    "CosineSquaredSchedule",
    "GeometricSchedule",
    "LinearSchedule",
    "LinearSigmaSchedule",
    "LogarithmicSchedule",
    "MDLMCosineSchedule",
    "NoiseSchedule",
    "PolynomialSchedule",
    "PowerSchedule",
    "RescaledSchedule",
    "StratifiedTimes",
    "SystematicTimes",
    "TimeSampler",
    "UniformTimes",
]

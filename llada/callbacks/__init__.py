"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.callbacks.low_rank import LowRankAdapters
from llada.callbacks.speed import Speed
from llada.callbacks.unigram_bias import UnigramBias
from llada.callbacks.widening_noise import WideningNoise

__all__ = ["LowRankAdapters", "Speed", "UnigramBias", "WideningNoise"]

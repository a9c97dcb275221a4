"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.training.callbacks.lora import LoRA
from llada.training.callbacks.speed import Speed
from llada.training.callbacks.unigram_bias import UnigramBias
from llada.training.callbacks.widening_noise import WideningNoise

__all__ = ["LoRA", "Speed", "UnigramBias", "WideningNoise"]

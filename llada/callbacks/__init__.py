"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.callbacks.unigram_bias import UnigramBias

__all__ = ["UnigramBias"]

"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.training.callbacks.compile import Compile
from llada.training.callbacks.lora import LoRA
from llada.training.callbacks.loss_spike import LossSpike
from llada.training.callbacks.speed import Speed

__all__ = ["Compile", "LoRA", "LossSpike", "Speed"]

"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.training.callbacks.averaging import EMAWeightAveraging
from llada.training.callbacks.compile import Compile
from llada.training.callbacks.frozen_reference import FrozenReference
from llada.training.callbacks.lora import LoRA
from llada.training.callbacks.loss_spike import LossSpike
from llada.training.callbacks.preferences import Preferences
from llada.training.callbacks.save_at_end import SaveAtEnd
from llada.training.callbacks.speed import Speed

__all__ = ["Compile", "EMAWeightAveraging", "FrozenReference", "LoRA", "LossSpike", "Preferences", "SaveAtEnd", "Speed"]

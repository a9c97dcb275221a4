"""What can be plugged into the Lightning Trainer beside its own callbacks."""

from llada.training.callbacks.averaging import EMAWeightAveraging
from llada.training.callbacks.block_lengths import BlockLengths
from llada.training.callbacks.compile import Compile
from llada.training.callbacks.curriculum import TokenCurriculum
from llada.training.callbacks.distillation_rounds import DistillationRounds
from llada.training.callbacks.frozen_reference import FrozenReference
from llada.training.callbacks.lora import LoRA
from llada.training.callbacks.loss_spike import LossSpike
from llada.training.callbacks.preferences import Preferences
from llada.training.callbacks.progress_lines import ProgressLines
from llada.training.callbacks.rewards import Rewards
from llada.training.callbacks.save_at_end import SaveAtEnd
from llada.training.callbacks.speed import Speed
from llada.training.callbacks.unigram_bias import UnigramBias
from llada.training.callbacks.widening_attention import WideningAttention

__all__ = [
    "BlockLengths",
    "Compile",
    "DistillationRounds",
    "EMAWeightAveraging",
    "FrozenReference",
    "LoRA",
    "LossSpike",
    "Preferences",
    "ProgressLines",
    "Rewards",
    "SaveAtEnd",
    "Speed",
    "TokenCurriculum",
    "UnigramBias",
    "WideningAttention",
]

"""Released checkpoints in and out, of the families of `llada.checkpoints.released.families`, and PEFT's adapters.

`DiffusionLM.from_pretrained` and `DiffusionLM.save_pretrained` are the way in; this package reads and writes the parts.
"""

from llada.checkpoints.released.adapter import merge_adapter
from llada.checkpoints.released.adapter_out import write_adapter
from llada.checkpoints.released.families import LAYOUTS
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.lightning_mdlm import read_mdlm_checkpoint
from llada.checkpoints.released.pretrained import Pretrained, read_pretrained
from llada.checkpoints.released.pretrained_out import write_pretrained

__all__ = [
    "LAYOUTS",
    "Layout",
    "Pretrained",
    "merge_adapter",
    "read_mdlm_checkpoint",
    "read_pretrained",
    "write_adapter",
    "write_pretrained",
]

"""Released checkpoints in and out: LLaDA, LLaDA-MoE, Dream, MDLM, and autoregressive LLaMA and Qwen as a start.

`DiffusionLM.from_pretrained` and `DiffusionLM.save_pretrained` are the way in; this package reads and writes the parts.
"""

from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.lightning_mdlm import read_mdlm_checkpoint
from llada.checkpoints.released.pretrained import LAYOUTS, Pretrained, read_pretrained, write_pretrained

__all__ = ["LAYOUTS", "Layout", "Pretrained", "read_mdlm_checkpoint", "read_pretrained", "write_pretrained"]

"""Released checkpoints in and out: LLaDA, LLaDA-MoE, Dream, MDLM, and autoregressive LLaMA and Qwen as a start."""

from llada.interop.layout import Layout
from llada.interop.lightning_mdlm import from_mdlm_checkpoint
from llada.interop.pretrained import LAYOUTS, from_pretrained, save_pretrained

__all__ = ["LAYOUTS", "Layout", "from_mdlm_checkpoint", "from_pretrained", "save_pretrained"]

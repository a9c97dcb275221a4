"""Diffusion models with the body and the names of an autoregressive family: what sets each apart is its convention.

    family           body             shift  blocks                      mask
    a2d-qwen2        Qwen2            no     none (every token sees all)  in the tokenizer
    a2d-qwen3        Qwen3            no     none                         in the tokenizer
    a2d-llama        LLaMA            no     none                         in the tokenizer
    sdar             Qwen3            no     ``block_size`` (4)           in the configuration
    Fast_dLLM_Qwen   Qwen2            yes    ``bd_size`` (32)             in the tokenizer

Reference: dLLM's ``A2D`` configurations, SDAR's ``configuration_sdar.py`` (arXiv 2510.06303), Fast-dLLM v2's
``configuration.py`` (arXiv 2509.26328).
"""

from llada.checkpoints.released.autoregressive import QWEN2_DEFAULTS, QWEN3_DEFAULTS, WINDOW
from llada.checkpoints.released.llama import LlamaStyleLayout

A2D_QWEN2 = LlamaStyleLayout(
    "a2d-qwen2",
    "a2d-qwen2",
    "A2DQwen2LMHeadModel",
    qkv_bias=True,
    shift=False,
    body="qwen2",
    written=WINDOW,
    defaults=QWEN2_DEFAULTS,
)
A2D_QWEN3 = LlamaStyleLayout(
    "a2d-qwen3",
    "a2d-qwen3",
    "A2DQwen3LMHeadModel",
    qkv_bias=False,
    qk_norm=True,
    shift=False,
    body="qwen3",
    written=WINDOW,
    defaults=QWEN3_DEFAULTS,
)
A2D_LLAMA = LlamaStyleLayout("a2d-llama", "a2d-llama", "A2DLlamaLMHeadModel", qkv_bias=False, shift=False, body="llama")
SDAR = LlamaStyleLayout(
    "sdar",
    "sdar",
    "SDARForCausalLM",
    qkv_bias=False,
    qk_norm=True,
    shift=False,
    body="qwen3",
    block_field="block_size",
    known=("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"),
    written=WINDOW,
    defaults=QWEN3_DEFAULTS,
)
FAST_DLLM = LlamaStyleLayout(
    "fast_dllm",
    "Fast_dLLM_Qwen",
    "Fast_dLLM_QwenForCausalLM",
    qkv_bias=True,
    body="qwen2",
    block_field="bd_size",
    written=WINDOW,
    defaults={**QWEN2_DEFAULTS, "bd_size": 32},
)

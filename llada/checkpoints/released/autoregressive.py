"""Autoregressive LLaMA, Qwen2 and Qwen3 checkpoints, and what the families with their bodies share with them."""

from llada.checkpoints.released.llama import LlamaStyleLayout

WINDOW = {"max_window_layers": None, "sliding_window": None, "use_sliding_window": False}
QWEN2_DEFAULTS = {"num_key_value_heads": 32}
QWEN3_DEFAULTS = {"num_key_value_heads": 32, "head_dim": 128}
QWEN2 = LlamaStyleLayout(
    "qwen2", "qwen2", "Qwen2ForCausalLM", qkv_bias=True, autoregressive=True, written=WINDOW, defaults=QWEN2_DEFAULTS
)
QWEN3 = LlamaStyleLayout(
    "qwen3", "qwen3", "Qwen3ForCausalLM", qkv_bias=False, qk_norm=True, autoregressive=True, written=WINDOW,
    defaults=QWEN3_DEFAULTS,
)  # fmt: skip
LLAMA = LlamaStyleLayout("llama", "llama", "LlamaForCausalLM", qkv_bias=False, autoregressive=True)

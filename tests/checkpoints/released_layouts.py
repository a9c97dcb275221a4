"""The file layouts of released checkpoints: fields of config.json, names and shapes of tensors, names of shards.

No weights, and no line of anybody's code: facts only. Each entry says where they are from.

    seen    the configuration, as a public copy of the released file has it
    told    from the family's public loaders and descriptions, which agree; the file itself wasn't at hand
    assumed the same as its sibling's, which its authors say it shares

The names of tensors were seen for LLaDA, Dream, MDLM (golden checkpoints made by the official code), A2D, SDAR
(transformers' Qwen3) and Fast-dLLM v2 (described as Qwen2's); the others are told.
"""

from dataclasses import dataclass, field
from typing import Any

Shape = tuple[str, ...]
Names = dict[str, Shape]

LLADA: Names = {
    "model.transformer.wte.weight": ("V", "D"),
    "model.transformer.ln_f.weight": ("D",),
    "model.transformer.ff_out.weight": ("V", "D"),
    "model.transformer.blocks.{n}.attn_norm.weight": ("D",),
    "model.transformer.blocks.{n}.ff_norm.weight": ("D",),
    "model.transformer.blocks.{n}.q_proj.weight": ("Q", "D"),
    "model.transformer.blocks.{n}.k_proj.weight": ("K", "D"),
    "model.transformer.blocks.{n}.v_proj.weight": ("K", "D"),
    "model.transformer.blocks.{n}.attn_out.weight": ("D", "Q"),
    "model.transformer.blocks.{n}.ff_proj.weight": ("F", "D"),
    "model.transformer.blocks.{n}.up_proj.weight": ("F", "D"),
    "model.transformer.blocks.{n}.ff_out.weight": ("D", "F"),
}
BODY: Names = {
    "model.embed_tokens.weight": ("V", "D"),
    "model.norm.weight": ("D",),
    "model.layers.{n}.input_layernorm.weight": ("D",),
    "model.layers.{n}.post_attention_layernorm.weight": ("D",),
    "model.layers.{n}.self_attn.q_proj.weight": ("Q", "D"),
    "model.layers.{n}.self_attn.k_proj.weight": ("K", "D"),
    "model.layers.{n}.self_attn.v_proj.weight": ("K", "D"),
    "model.layers.{n}.self_attn.o_proj.weight": ("D", "Q"),
}
HEAD: Names = {"lm_head.weight": ("V", "D")}
DENSE: Names = {
    "model.layers.{n}.mlp.gate_proj.weight": ("F", "D"),
    "model.layers.{n}.mlp.up_proj.weight": ("F", "D"),
    "model.layers.{n}.mlp.down_proj.weight": ("D", "F"),
}
BIASES: Names = {
    "model.layers.{n}.self_attn.q_proj.bias": ("Q",),
    "model.layers.{n}.self_attn.k_proj.bias": ("K",),
    "model.layers.{n}.self_attn.v_proj.bias": ("K",),
}
NORMS: Names = {
    "model.layers.{n}.self_attn.q_norm.weight": ("d",),
    "model.layers.{n}.self_attn.k_norm.weight": ("d",),
}
EXPERTS: Names = {
    "model.layers.{n}.mlp.gate.weight": ("E", "D"),
    "model.layers.{n}.mlp.experts.{e}.gate_proj.weight": ("F", "D"),
    "model.layers.{n}.mlp.experts.{e}.up_proj.weight": ("F", "D"),
    "model.layers.{n}.mlp.experts.{e}.down_proj.weight": ("D", "F"),
}
LLADA2: Names = {
    "model.word_embeddings.weight": ("V", "D"),
    "model.norm.weight": ("D",),
    "lm_head.weight": ("V", "D"),
    "model.layers.{n}.input_layernorm.weight": ("D",),
    "model.layers.{n}.post_attention_layernorm.weight": ("D",),
    "model.layers.{n}.attention.query_key_value.weight": ("QKV", "D"),
    "model.layers.{n}.attention.query_layernorm.weight": ("d",),
    "model.layers.{n}.attention.key_layernorm.weight": ("d",),
    "model.layers.{n}.attention.dense.weight": ("D", "Q"),
    "model.layers.{dense}.mlp.gate_proj.weight": ("I", "D"),
    "model.layers.{dense}.mlp.up_proj.weight": ("I", "D"),
    "model.layers.{dense}.mlp.down_proj.weight": ("D", "I"),
    "model.layers.{mixed}.mlp.gate.weight": ("E", "D"),
    "model.layers.{mixed}.mlp.gate.expert_bias": ("E",),
    "model.layers.{mixed}.mlp.shared_experts.gate_proj.weight": ("F", "D"),
    "model.layers.{mixed}.mlp.shared_experts.up_proj.weight": ("F", "D"),
    "model.layers.{mixed}.mlp.shared_experts.down_proj.weight": ("D", "F"),
}
LLADA2_EXPERTS: Names = {
    "model.layers.{mixed}.mlp.experts.{e}.gate_proj.weight": ("F", "D"),
    "model.layers.{mixed}.mlp.experts.{e}.up_proj.weight": ("F", "D"),
    "model.layers.{mixed}.mlp.experts.{e}.down_proj.weight": ("D", "F"),
}
LLADA2_STACKED: Names = {
    "model.layers.{mixed}.mlp.experts.gate_proj": ("E", "F", "D"),
    "model.layers.{mixed}.mlp.experts.up_proj": ("E", "F", "D"),
    "model.layers.{mixed}.mlp.experts.down_proj": ("E", "D", "F"),
}
DIT: Names = {
    "backbone.vocab_embed.embedding": ("V", "D"),
    "backbone.sigma_map.mlp.0.weight": ("C", "256"),
    "backbone.sigma_map.mlp.0.bias": ("C",),
    "backbone.sigma_map.mlp.2.weight": ("C", "C"),
    "backbone.sigma_map.mlp.2.bias": ("C",),
    "backbone.rotary_emb.inv_freq": ("r",),
    "backbone.blocks.{n}.norm1.weight": ("D",),
    "backbone.blocks.{n}.norm2.weight": ("D",),
    "backbone.blocks.{n}.attn_qkv.weight": ("3D", "D"),
    "backbone.blocks.{n}.attn_out.weight": ("D", "D"),
    "backbone.blocks.{n}.mlp.0.weight": ("4D", "D"),
    "backbone.blocks.{n}.mlp.0.bias": ("4D",),
    "backbone.blocks.{n}.mlp.2.weight": ("D", "4D"),
    "backbone.blocks.{n}.mlp.2.bias": ("D",),
    "backbone.blocks.{n}.adaLN_modulation.weight": ("6D", "C"),
    "backbone.blocks.{n}.adaLN_modulation.bias": ("6D",),
    "backbone.output_layer.norm_final.weight": ("D",),
    "backbone.output_layer.linear.weight": ("V", "D"),
    "backbone.output_layer.linear.bias": ("V",),
    "backbone.output_layer.adaLN_modulation.weight": ("2D", "C"),
    "backbone.output_layer.adaLN_modulation.bias": ("2D",),
}
LITGPT: Names = {
    "lm_head.weight": ("V", "D"),
    "transformer.wte.weight": ("W", "D"),
    "transformer.ln_f.weight": ("D",),
    "transformer.h.{n}.norm_1.weight": ("D",),
    "transformer.h.{n}.attn.attn.weight": ("3D", "D"),
}


@dataclass(frozen=True)
class Released:
    """One release.

    Args:
        source: "seen", "told" or "assumed", see above.
        config: content of config.json; None where there is none.
        names: tensors, with {n} for the layer, {dense} and {mixed} for one without or with experts, {e} for the expert.
        tokenizer: files beside the weights that name special tokens.
        options: what the caller has to say.
        expected: attributes of the backbone, and "mask".
        warns: what the warning says; "" for none.
        refused: why it isn't loaded; "" if it is.
    """

    source: str
    config: dict[str, Any] | None
    names: Names
    tokenizer: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    warns: str = ""
    refused: str = ""


LLADA_8B: dict[str, Any] = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
                 "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
    "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
    "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mask_token_id": 126336, "max_sequence_length": 4096, "mlp_hidden_size": 12288,
    "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32,
    "n_layers": 32, "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5,
    "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "transformers_version": "4.46.3", "use_cache": False, "vocab_size": 126464, "weight_tying": False,
}  # fmt: skip
DREAM_7B: dict[str, Any] = {
    "architectures": ["DreamModel"], "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584,
    "initializer_range": 0.02, "intermediate_size": 18944, "mask_token_id": 151666, "max_position_embeddings": 131072,
    "max_window_layers": 28, "model_type": "Dream", "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "pad_token_id": 151643, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN25_15B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 12,
    "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
LLAMA2_7B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float16", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
SDAR_17B: dict[str, Any] = {
    "architectures": ["SDARForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig", "AutoModel": "modeling_sdar.SDARModel",
                 "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "attention_bias": False, "attention_dropout": 0.0, "attn_implementation": "flex_attention", "bos_token_id": 151643,
    "debug": False, "eos_token_id": 151643, "block_size": 4, "mask_token_id": 151669, "ep_size": 1,
    "fuse_cross_entropy": True, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 6144, "max_position_embeddings": 32768, "max_window_layers": 28, "micro_forward": False,
    "model_type": "sdar", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "skip_checkpoint": False,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.4",
    "use_cache": False, "use_deepep": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
LLADA_MOE: dict[str, Any] = {
    "architectures": ["LLaDAMoEModelLM"], "attention_bias": False, "clip_qkv": None, "dense_intermediate_size": 8192,
    "eos_token_id": 156892, "expert_intermediate_size": 1024, "hidden_act": "silu", "hidden_size": 2048,
    "max_position_embeddings": 8192, "model_type": "llada", "moe_layer_freq": [1] * 16,
    "moe_router_enable_expert_bias": False, "moe_router_score_function": "softmax", "norm_topk_prob": None,
    "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
    "num_key_value_heads": 16, "output_router_logits": False, "pad_token_id": 156892, "partial_rotary_factor": 1,
    "qk_layernorm": True, "rms_norm_eps": 1e-5, "rope_theta": 50000, "routed_scaling_factor": 1,
    "router_aux_loss_coef": 0.01, "router_num_group": None, "router_topk_group": None,
    "shared_expert_intermediate_size": None, "tie_word_embeddings": False, "vocab_size": 157184,
}  # fmt: skip
MDLM_OWT: dict[str, Any] = {
    "architectures": ["MDLM"],
    "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig", "AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
    "cond_dim": 128, "dropout": 0.1, "hidden_dim": 768, "model_length": 1024, "model_type": "mdlm", "n_blocks": 12,
    "n_heads": 12, "return_dict": True, "time_conditioning": False, "torch_dtype": "float32", "vocab_size": 50258,
}  # fmt: skip
BD3LM_OWT: dict[str, Any] = {
    **MDLM_OWT, "architectures": ["BD3LM"], "attn_backend": "sdpa", "block_size": 16, "cross_attn": True,
    "adaln": True, "causal": False, "model_type": "bd3lm", "sampling_eps_max": 0.999, "sampling_eps_min": 0.001,
    "var_min": True,
}  # fmt: skip
SDAR_30B: dict[str, Any] = {
    **SDAR_17B, "architectures": ["SDARMoeForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_sdar_moe.SDARMoeConfig", "AutoModel": "modeling_sdar_moe.SDARMoeModel",
                 "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM"},
    "decoder_sparse_step": 1, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "sdar_moe",
    "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}  # fmt: skip
QWEN3_30B: dict[str, Any] = {
    **QWEN3_06B, "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1, "hidden_size": 2048,
    "intermediate_size": 6144, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
    "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False,
    "router_aux_loss_coef": 0.001, "tie_word_embeddings": False,
}  # fmt: skip
LLADA2_MINI: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"], "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
                 "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
                 "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
    "num_hidden_layers": 20, "hidden_size": 2048, "intermediate_size": 5120, "first_k_dense_replace": 1,
    "hidden_act": "silu", "max_position_embeddings": 16384, "model_type": "llada2_moe_veomni",
    "moe_intermediate_size": 512, "norm_topk_prob": True, "num_experts_per_tok": 8, "norm_head": False,
    "num_attention_heads": 16, "num_experts": 256, "num_key_value_heads": 4, "rope_theta": 600000,
    "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.3",
    "use_bias": False, "use_rmsnorm": True, "rms_norm_eps": 1e-6, "head_dim": 128, "num_shared_experts": 1,
    "use_cache": False, "use_qkv_bias": False, "embedding_dropout": 0.0, "norm_softmax": False,
    "output_dropout": 0.0, "vocab_size": 157184, "rotary_dim": 64, "using_split_qkv_in_self_attention": False,
    "router_dtype": "fp32", "moe_router_enable_expert_bias": True, "routed_scaling_factor": 2.5, "n_group": 8,
    "topk_group": 4, "score_function": "sigmoid", "initializer_range": 0.02, "max_window_layers": 28,
    "output_router_logits": False, "pad_token_id": 156892, "partial_rotary_factor": 0.5,
    "use_sliding_window": False,
}  # fmt: skip
A2D = {
    "auto_map": {"AutoConfig": "modeling_qwen3.A2DQwen3Config"},
    "dtype": "bfloat16",
    "transformers_version": "4.57.0",
}
MASK: dict[str, Any] = {"tokenizer_config.json": {"mask_token": "<|mask|>", "eos_token": "<|im_end|>"}}


def at(token: str, index: int, file: str = "added_tokens.json") -> dict[str, Any]:
    """A tokenizer's file that gives a token its id."""
    return {file: {token: index}}


LAYOUTS: dict[str, Released] = {
    "LLaDA-8B-Instruct": Released("seen", LLADA_8B, LLADA, expected={"shift": False, "mask": 126336}),
    "LLaDA-8B-Instruct, patched for variable lengths": Released(
        "seen", LLADA_8B | {"flash_attention": True, "flash_attn_varlen": True, "torch_dtype": "bfloat16"}, LLADA,
        expected={"mask": 126336}, warns="flash_attn_varlen",
    ),
    "LLaDA-1.5": Released("assumed", LLADA_8B, LLADA, expected={"shift": False, "block_length": None}),
    "iLLaDA-8B": Released(
        "told",
        LLADA_8B | {"n_kv_heads": 8, "mlp_hidden_size": 14336, "vocab_size": 155136, "embedding_size": 155136,
                    "weight_tying": True, "max_sequence_length": 8192, "mask_token_id": 5},
        {name: shape for name, shape in LLADA.items() if name != "model.transformer.ff_out.weight"},
        expected={"tie_embeddings": True, "mask": 5},
    ),
    "LLaDA in LLaMA's names": Released(
        "told", LLAMA2_7B | {"model_type": "llada", "mask_token_id": 126336}, BODY | DENSE | HEAD,
        refused=r"model_type='llada', but neither the field 'num_experts' \(llada_moe\) nor 'd_model' \(llada\)",
    ),
    "LLaDA-MoE-7B-A1B": Released(
        "told", LLADA_MOE, BODY | NORMS | EXPERTS | HEAD, at("<|mask|>", 156895),
        expected={"mask": 156895, "shift": False},
    ),
    "LLaDA-MoE-7B-A1B without a tokenizer": Released(
        "told", LLADA_MOE, BODY | NORMS | EXPERTS | HEAD, refused=r"give one with mask_token_id= \(--mask ID\)"
    ),
    "Dream-v0-Instruct-7B": Released("told", DREAM_7B, BODY | BIASES | DENSE | HEAD, expected={"shift": True}),
    "DiffuCoder-7B": Released("told", DREAM_7B, BODY | BIASES | DENSE | HEAD, expected={"mask": 151666}),
    "Dream-Coder-v0-7B": Released("assumed", DREAM_7B, BODY | BIASES | DENSE | HEAD, expected={"shift": True}),
    "DreamOn-v0-7B": Released(
        "told", DREAM_7B | {"expand_token_id": 151667}, BODY | BIASES | DENSE | HEAD, warns="expand_token_id"
    ),
    "Dream with blocks, which isn't shifted": Released(
        "told", DREAM_7B | {"block_size": 32, "mask_token_id": 151669}, BODY | BIASES | DENSE | HEAD,
        refused=r"block_size=32, which isn't understood .* \(block\)",
    ),
    "SDAR-1.7B-Chat": Released(
        "seen", SDAR_17B, BODY | NORMS | DENSE | HEAD, warns="attn_implementation",
        expected={"shift": False, "block_length": 4, "mask": 151669},
    ),
    "SDAR-8B-Chat": Released(
        "told",
        {name: value for name, value in SDAR_17B.items() if name != "block_size"}
        | {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36},
        BODY | NORMS | DENSE | HEAD, options={"block_length": 4}, expected={"block_length": 4}, warns="attn_impl",
    ),
    "SDAR-30B-A3B-Chat": Released(
        "told", SDAR_30B, BODY | NORMS | EXPERTS | HEAD, warns="attn_implementation",
        expected={"shift": False, "block_length": 4, "mask": 151669, "hidden_width": 768},
    ),
    "Qwen3-30B-A3B": Released(
        "told", QWEN3_30B, BODY | NORMS | EXPERTS | HEAD, options={"mask_token_id": 151669},
        expected={"shift": True, "experts_per_token": 8},
    ),
    "Qwen3-0.6B-diffusion-mdlm": Released(
        "told", QWEN3_06B | A2D | {"architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3"},
        BODY | NORMS | DENSE, MASK | at("<|mask|>", 151669), expected={"shift": False, "mask": 151669},
    ),
    "Qwen3-0.6B-diffusion-mdlm under the name of its body": Released(
        "told", QWEN3_06B | A2D | {"architectures": ["A2DQwen3LMHeadModel"], "mask_token_id": 151669},
        BODY | NORMS | DENSE, expected={"shift": False, "mask": 151669},
    ),
    "Qwen3-0.6B with a mask and no word of a shift": Released(
        "told", QWEN3_06B | {"mask_token_id": 151669}, BODY | NORMS | DENSE,
        refused="no field 'right_shift_logits' that says where its outputs are read",
    ),
    "Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm": Released(
        "told",
        QWEN25_15B | {"architectures": ["A2DQwen2LMHeadModel"], "hidden_size": 896, "intermediate_size": 4864,
                      "model_type": "a2d-qwen2", "num_attention_heads": 14, "num_hidden_layers": 24},
        BODY | BIASES | DENSE | HEAD, MASK | at("<|mask|>", 151665), warns="ties the head",
        expected={"shift": False, "mask": 151665, "tie_embeddings": False},
    ),
    "Llama-3.2-1B-diffusion": Released(
        "assumed", LLAMA2_7B | {"architectures": ["A2DLlamaLMHeadModel"], "model_type": "a2d-llama"},
        BODY | DENSE | HEAD, at("<|mask|>", 31999), expected={"shift": False, "mask": 31999},
    ),
    "Fast_dLLM_v2_1.5B": Released(
        "told",
        QWEN25_15B | {"architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 32, "model_type": "Fast_dLLM_Qwen",
                      "layer_types": ["full_attention"] * 28},
        BODY | BIASES | DENSE, at("|<MASK>|", 151665), expected={"shift": True, "block_length": 32, "mask": 151665},
    ),
    "DiffuLLaMA": Released(
        "told", LLAMA2_7B, BODY | DENSE | HEAD, options={"mask_token_id": 811}, expected={"shift": True, "mask": 811}
    ),
    "DiffuGPT": Released(
        "told", {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768}, {},
        refused="model_type='gpt2', which isn't one of .*HuggingFaceBackbone",
    ),
    "SMDM-1028M": Released("told", None, LITGPT, refused=r"there is no file .*config\.json"),
    "SMDM in LLaMA's names, the mask behind the vocabulary": Released(
        "assumed", LLAMA2_7B | {"mask_token_id": 32000},
        {**BODY, **DENSE, **HEAD, "model.embed_tokens.weight": ("W", "D")},
        options={"shift": False}, expected={"shift": False, "mask": 32000, "vocab_size": 32001}, warns="has no row",
    ),
    "mdlm-owt": Released("told", MDLM_OWT, DIT, expected={"mask": 50257, "block_length": None}),
    "bd3lm-owt-block_size16": Released("told", BD3LM_OWT, DIT, expected={"mask": 50257, "block_length": 16}),
    "Qwen2.5-1.5B-Instruct": Released(
        "told", QWEN25_15B, BODY | BIASES | DENSE, options={"mask_token_id": 151665}, expected={"shift": True}
    ),
    "Qwen2.5-7B-Instruct-1M": Released(
        "told", QWEN25_15B | {"dual_chunk_attention_config": {"chunk_size": 262144}}, BODY | BIASES | DENSE,
        options={"mask_token_id": 151665}, refused="--ignore_config_field dual_chunk_attention_config",
    ),
    "Qwen3-0.6B": Released("told", QWEN3_06B, BODY | NORMS | DENSE, options={"mask_token_id": 151669}),
    "MobileLLM-125M-HF": Released(
        "seen",
        LLAMA2_7B | {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30,
                     "num_key_value_heads": 3, "tie_word_embeddings": True, "is_llama_config": True, "pad_token_id": 0},
        BODY | DENSE, options={"mask_token_id": 31999}, warns="is_llama_config", expected={"tie_embeddings": True},
    ),
    "LLaMA-7B of early conversions": Released(
        "told", LLAMA2_7B | {"pad_token_id": -1, "max_position_embeddings": 2048},
        BODY | DENSE | HEAD | {"model.layers.{n}.self_attn.rotary_emb.inv_freq": ("r",)},
        options={"mask_token_id": 31999}, expected={"max_length": 2048},
    ),
    "LLaDA2.0-mini": Released(
        "told", LLADA2_MINI | {"model_type": "llada2_moe"}, LLADA2 | LLADA2_EXPERTS, at("<|mask|>", 156895),
        expected={"mask": 156895, "shift": False, "block_length": 32, "dense_layers": 1, "rotary_dim": 64},
    ),
    "LLaDA2.0-mini of dFactory": Released(
        "seen", LLADA2_MINI, LLADA2 | LLADA2_STACKED, at("<|mask|>", 156895), expected={"mask": 156895}
    ),
    "LLaDA2.1-flash": Released(
        "assumed",
        LLADA2_MINI | {"model_type": "llada2_moe", "num_hidden_layers": 32, "hidden_size": 4096,
                       "intermediate_size": 9216, "moe_intermediate_size": 1024, "num_attention_heads": 32},
        LLADA2 | LLADA2_EXPERTS, at("<|mask|>", 156895),
        expected={"mask": 156895, "width": 4096, "dense_width": 9216, "hidden_width": 1024, "shared_width": 1024},
    ),
    "LLaDA2 without a tokenizer": Released(
        "told", LLADA2_MINI, LLADA2 | LLADA2_STACKED, refused=r"give one with mask_token_id= \(--mask ID\)"
    ),
    "DiffusionGemma-26B-A4B": Released("told", {"model_type": "diffusion_gemma"}, {}, refused="isn't one of"),
    "Nemotron-Labs-Diffusion-8B": Released(
        "told", {"model_type": "nemotron_labs_diffusion"}, {}, refused="isn't one of"
    ),
}  # fmt: skip

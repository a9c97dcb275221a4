"""A checkpoint folder as released ones look, small enough to make in a test: LLaDA's layout, random weights."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
BOS, EOS, MASK, START_HEADER, END_HEADER, EOT = range(6)
VOCAB_SIZE, WIDTH, LAYERS, HEADS, HIDDEN, MAX_LENGTH = 352, 64, 2, 4, 64, 192
STORY = (
    "The little boy went down to the river and saw a boat.\n"
    "The boat was red, and the river was wide.\n\n"
    "His mother called him home; the boy ran up the hill to his mother.\n"
)
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
"""Does what LLaDA-8B-Instruct's template does, the header at the end included."""


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Train a byte-level tokenizer and write its files; the mask is named by `write_model` alone, as LLaDA has it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=340, special_tokens=list(SPECIAL), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([STORY] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[EOS], "add_bos_token": False}
    config |= {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": SPECIAL[BOS]}}))
    return folder


def write_model(folder: Path) -> Path:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": WIDTH,
        "embedding_size": VOCAB_SIZE,
        "eos_token_id": EOS,
        "include_bias": False,
        "include_qkv_bias": False,
        "layer_norm_type": "rms",
        "mask_token_id": MASK,
        "max_sequence_length": MAX_LENGTH,
        "mlp_hidden_size": HIDDEN,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "n_layers": LAYERS,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "vocab_size": VOCAB_SIZE,
        "weight_tying": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def write_checkpoint(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Write a whole checkpoint."""
    return write_model(write_tokenizer(folder, template))


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"wte": (VOCAB_SIZE, WIDTH), "ff_out": (VOCAB_SIZE, WIDTH), "ln_f": (WIDTH,)}
    for n in range(LAYERS):
        shapes |= {f"blocks.{n}.{name}": (WIDTH,) for name in ("attn_norm", "ff_norm")}
        shapes |= {f"blocks.{n}.{name}": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {f"blocks.{n}.{name}": (HIDDEN, WIDTH) for name in ("ff_proj", "up_proj")}
        shapes |= {f"blocks.{n}.ff_out": (WIDTH, HIDDEN)}
    return {
        f"model.transformer.{name}.weight": 1.0 + 0.1 * torch.randn(shape, generator=generator)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }

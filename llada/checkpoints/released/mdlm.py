"""MDLM's diffusion Transformer, in the form of its Hugging Face checkpoints; BD3LM's release shares the names.

With a block as long as the row, BD3LM is the same network. With shorter ones, a token sees its own block and the clean
blocks before it, which is what ``block_length`` computes: the model as it decodes, block by block. (In training, its
official code reads all blocks at once, from a clean copy of the row beside the noisy one.)

Reference: the released ``configuration_mdlm.py`` of arXiv 2406.07524; ``configuration_bd3lm.py`` of arXiv 2503.09573.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.dit import DiTLayout
from llada.checkpoints.released.fields import Config, check_others, flag, mask_id, whole
from llada.checkpoints.released.layout import Described
from llada.noise import LinearSchedule
from llada.process import MaskingProcess

USED = {
    "attn_backend",  # of the official code
    "block_size",
    "cond_dim",
    "dropout",
    "hidden_dim",
    "model_length",
    "n_blocks",
    "n_heads",
    "sampling_eps_max",
    "sampling_eps_min",
    "time_conditioning",
    "var_min",
    "vocab_size",
}
SERVED = {"cross_attn": (False, True), "adaln": (True,), "causal": (False,), "causal_attention": (False,)}


@dataclass(frozen=True)
class MDLMLayout(DiTLayout):
    """The layout of MDLM's Hugging Face checkpoints."""

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return ("mdlm", "bd3lm")

    @property
    @override
    def telltale(self) -> str:
        return "hidden_dim"

    @property
    @override
    def name(self) -> str:
        return "mdlm"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, USED, SERVED)
        length, timed = whole(config, "model_length"), flag(config, "time_conditioning", False)
        block = whole(config, "block_size", 1 if str(config["model_type"]).lower() == "bd3lm" else length)
        if block != length and (timed or length % block):
            raise ValueError(
                f"config.json has block_size={block}, but blocks must divide model_length={length} and can't be "
                "time-conditioned"
            )
        vocab_size = whole(config, "vocab_size")
        arguments = {**self.arguments(config, vocab_size), "block_length": None if block == length else block}
        process = MaskingProcess(
            mask_id({"mask_token_id": vocab_size - 1, **config}, mask_token_id),
            LinearSchedule(eps=1e-3),
            time_conditioned=timed,
            predicts_mask=False,
        )
        return Described(DiffusionTransformer, arguments, process)

    @override
    def write(self, backbone: nn.Module, process: Any) -> Config:
        sizes = self.fields(backbone)
        assert isinstance(backbone, DiffusionTransformer)
        if process.mask_token_id != backbone.vocab_size - 1:
            raise ValueError(
                f"the mdlm layout has its mask at the end of the vocabulary, {backbone.vocab_size - 1}, "
                f"not at {process.mask_token_id}"
            )
        config = {
            **sizes,
            "architectures": ["MDLM"],
            "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig", "AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
            "model_type": "mdlm",
            "return_dict": True,
            "time_conditioning": process.time_conditioned,
            "torch_dtype": "float32",
            "vocab_size": backbone.vocab_size,
        }
        return config if backbone.block_length is None else config | _of_bd3lm(backbone.block_length)


def _of_bd3lm(block_length: int) -> Config:
    """What BD3LM's configuration has beside MDLM's, or otherwise."""
    return {
        "architectures": ["BD3LM"],
        "attn_backend": "sdpa",
        "auto_map": {"AutoConfig": "configuration_bd3lm.BD3LMConfig", "AutoModelForMaskedLM": "modeling_bd3lm.BD3LM"},
        "block_size": block_length,
        "cross_attn": True,
        "model_type": "bd3lm",
        "sampling_eps_max": 0.999,
        "sampling_eps_min": 1e-3,
        "var_min": True,
    }

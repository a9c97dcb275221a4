"""GIDD: MDLM's diffusion Transformer under hybrid noise, in the form of its Hugging Face checkpoints.

The network is told the time itself. Its configuration doesn't name the mask, which its tokenizer does. With
``p_uniform`` 0 the official code still scatters a share of exp(-20), and so does this.

Reference: the released ``configuration_dit.py``, ``modeling_dit.py`` and ``diffusion_process.py`` of arXiv 2503.04482.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.dit import DiTLayout
from llada.checkpoints.released.fields import Config, check_others, mask_id, number, whole
from llada.checkpoints.released.layout import Described
from llada.process import HybridProcess, Process

LEAST = math.exp(-20.0)
TABLES = {"rotary_emb.cos_cached": torch.cos, "rotary_emb.sin_cached": torch.sin}


@dataclass(frozen=True)
class GIDDLayout(DiTLayout):
    """The layout of GIDD's Hugging Face checkpoints."""

    prefix: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "timestep_cond_dim",
        "max_seq_len",
        "attention_dropout",
    )
    processes: ClassVar[tuple[type[Process], ...]] = (HybridProcess,)

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return ("dit",)

    @property
    @override
    def telltale(self) -> str:
        return "timestep_cond_dim"

    @property
    @override
    def name(self) -> str:
        return "gidd"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, {*self.words, "vocab_size", "p_uniform", "t_eps"}, {})
        vocab_size, scatter = whole(config, "vocab_size"), number(config, "p_uniform", 0.0, zero=True)
        mask = mask_id(config, mask_token_id)
        process = HybridProcess(mask, vocab_size, max(scatter, LEAST), time_conditioned=True, tells_time=True)
        arguments = self.arguments({"attention_dropout": 0.0, **config}, vocab_size)
        return Described(DiffusionTransformer, arguments, process)

    @override
    def write(self, backbone: nn.Module, process: HybridProcess) -> Config:
        return {
            **self.fields(backbone),
            "architectures": ["DIT"],
            "auto_map": {"AutoConfig": "configuration_dit.DITConfig", "AutoModelForMaskedLM": "modeling_dit.DIT"},
            "mask_token_id": process.mask_token_id,
            "model_type": "dit",
            "p_uniform": 0.0 if process.scatter == LEAST else process.scatter,
            "t_eps": 1e-4,
            "torch_dtype": "float32",
            "vocab_size": backbone.vocab_size,
        }

    @override
    def constant(self, name: str, backbone: nn.Module) -> Tensor | None:
        """Cosines and sines of all angles, (1, L, 3, 1, d): for queries, for keys, and of 0 for values."""
        if name not in TABLES:
            return None
        assert isinstance(backbone, DiffusionTransformer)
        head_dim = backbone.width // backbone.num_heads
        waves = backbone.rope_theta ** -(torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.arange(backbone.max_length).float()[:, None] * waves
        turned = TABLES[name](torch.cat((angles, angles), -1))
        still = TABLES[name](torch.zeros_like(turned))
        return torch.stack((turned, turned, still), 1)[None, :, :, None]

    @override
    def constants(self, backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name in TABLES:
            table = self.constant(name, backbone)
            assert table is not None
            yield name, table

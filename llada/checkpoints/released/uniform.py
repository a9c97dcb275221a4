"""UDLM and Duo: MDLM's diffusion Transformer under uniform noise, in the form of their Hugging Face checkpoints.

Every row of the embedding is a token that noise may draw, a mask token among them if the tokenizer has one. The
networks give the leave-one-out posterior, as the bound teaches it. Which tokens are random, and the schedule, is what
the official code has; the files don't say it.

Reference: the released ``configuration_udlm.py`` and ``modeling_udlm.py`` of arXiv 2412.10193; ``trainer_base.py`` and
``models/dit.py`` of arXiv 2506.10892, whose release shares UDLM's names.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.dit import DiTLayout
from llada.checkpoints.released.fields import Config, check_others, flag, whole
from llada.checkpoints.released.layout import Described
from llada.noise import LinearSchedule
from llada.process import Process, UniformProcess


@dataclass(frozen=True)
class UniformLayout(DiTLayout):
    """Checkpoints of uniform diffusion.

    Args:
        kind: its ``model_type``.
        own: what its configurations have beside the sizes.
        served: fields of its own, and the values that can be served.
    """

    kind: str
    own: tuple[tuple[str, Any], ...] = ()
    served: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    processes: ClassVar[tuple[type[Process], ...]] = (UniformProcess,)

    @property
    @override
    def model_types(self) -> tuple[str, ...]:
        return (self.kind.lower(),)

    @property
    @override
    def telltale(self) -> str:
        return "hidden_dim"

    @property
    @override
    def name(self) -> str:
        return self.kind.lower()

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, {*self.words, *dict(self.own), "vocab_size", "time_conditioning"}, dict(self.served))
        if mask_token_id is not None:
            raise ValueError(f"{self.name} models have no mask; leave mask_token_id={mask_token_id} out")
        vocab_size = whole(config, "vocab_size")
        timed = flag(config, "time_conditioning", True)
        process = UniformProcess(vocab_size, LinearSchedule(eps=1e-3), time_conditioned=timed)
        return Described(DiffusionTransformer, self.arguments(config, vocab_size), process)

    @override
    def write(self, backbone: nn.Module, process: UniformProcess) -> Config:
        config = {**self.fields(backbone), **dict(self.own), "model_type": self.kind, "torch_dtype": "float32"}
        config["vocab_size"] = backbone.vocab_size
        if not (self.kind == "DUO" and process.time_conditioned):  # which its configurations don't say
            config["time_conditioning"] = process.time_conditioned
        return config


UDLM = UniformLayout(
    "udlm",
    (
        ("architectures", ["UDLM"]),
        ("auto_map", {"AutoConfig": "configuration_udlm.UDLMConfig", "AutoModelForMaskedLM": "modeling_udlm.UDLM"}),
        ("cfg_num_classes", -1),
        ("cfg", False),
    ),
    (("cfg", (False,)),),
)
DUO = UniformLayout(
    "DUO",
    (
        ("architectures", ["DUO"]),
        ("auto_map", {"AutoConfig": "config.DUOConfig", "AutoModelForMaskedLM": "model.DUO"}),
        ("causal", False),
        ("var_min", True),
    ),
    (("causal", (False,)),),
)

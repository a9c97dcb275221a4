"""SEDD with masks: a diffusion Transformer of log-scores, in the form of its checkpoints on the hub.

At a mask the score of a token y is the odds of y and the mask, and p_t(y) / p_t(mask) = xhat(y) / (exp(sigma) - 1). So
xhat is the softmax of the log-scores of all tokens but the mask. What the official code adds to all of them, which
depends on sigma alone, doesn't matter: the network is one of masked diffusion that is told sigma.

Its configuration is that of the training run, in parts, without a ``model_type``.

Reference: Lou et al., arXiv 2310.16834, and the released ``model/transformer.py``, ``graph_lib.py``, ``noise_lib.py``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from llada.backbones import DiffusionTransformer
from llada.checkpoints.released.arithmetic import shown
from llada.checkpoints.released.dit import DiTLayout
from llada.checkpoints.released.fields import Config, check_others, number, whole
from llada.checkpoints.released.layout import Described
from llada.noise import GeometricSchedule, LinearSchedule, NoiseSchedule
from llada.process import MaskingProcess

USED = {"data", "eval", "graph", "hydra", "model", "ngpus", "noise", "optim", "sampling", "tokens", "training"}
OF_MODEL = {"name", "type", "scale_by_sigma"}


@dataclass(frozen=True)
class SEDDLayout(DiTLayout):
    """The layout of SEDD's checkpoints."""

    prefix: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ("hidden_size", "n_blocks", "n_heads", "cond_dim", "length", "dropout")

    @override
    def matches(self, config: Config) -> bool:
        parts = (config.get(name) for name in ("graph", "noise", "model"))
        return "model_type" not in config and "tokens" in config and all(isinstance(part, dict) for part in parts)

    @property
    @override
    def name(self) -> str:
        return "sedd"

    @override
    def read(self, config: Config, mask_token_id: int | None) -> Described:
        check_others(config, USED, {})
        model, graph = config["model"], config["graph"].get("type")
        if graph != "absorb":
            raise ValueError(
                f"config.json has graph.type={shown(graph)}, but only 'absorb' can be loaded; scores under other noise "
                "are read by llada.process.ScoreDenoiser around a DiffusionTransformer with these weights"
            )
        check_others(model, {*self.words, *OF_MODEL}, {"type": ("ddit",)})
        tokens = whole(config, "tokens")
        if mask_token_id not in (None, tokens):
            raise ValueError(f"SEDD's mask is the id behind its {tokens} tokens; got mask_token_id={mask_token_id}")
        process = MaskingProcess(tokens, _schedule(config["noise"]), time_conditioned=True, predicts_mask=False)
        return Described(DiffusionTransformer, self.arguments(model, tokens + 1), process)

    @override
    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        sizes = self.fields(backbone)
        assert isinstance(backbone, DiffusionTransformer)
        if process.mask_token_id != backbone.vocab_size - 1:
            raise ValueError(
                f"the sedd layout has its mask at the end of the vocabulary, {backbone.vocab_size - 1}, "
                f"not at {process.mask_token_id}"
            )
        return {
            "graph": {"type": "absorb", "file": "data", "report_all": False},
            "model": {"name": "small", "type": "ddit", "scale_by_sigma": True, **sizes},
            "noise": _noise(process.schedule),
            "tokens": process.mask_token_id,
        }


def _schedule(noise: dict[str, Any]) -> NoiseSchedule:
    if noise.get("type") == "loglinear":
        return LinearSchedule(eps=1e-3)
    if noise.get("type") == "geometric":
        return GeometricSchedule(number(noise, "sigma_min"), number(noise, "sigma_max"))
    raise ValueError(f"config.json has noise.type={shown(noise.get('type'))}, but only loglinear and geometric are")


def _noise(schedule: NoiseSchedule) -> dict[str, Any]:
    ends = {"sigma_min": 1e-4, "sigma_max": 20}
    if isinstance(schedule, GeometricSchedule):
        return {"type": "geometric", "sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
    return {"type": "loglinear", **ends}

"""LoRA: train low-rank additions to the matrices of a network, and nothing else of it.

    W x  ->  W x + (alpha / r) B A x        A: (r, in), B: (out, r)

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from llada.checkpoints.changes import LOW_RANK
from llada.checkpoints.released.adapter import read_adapter
from llada.checkpoints.released.low_rank import check_bare, config_of, layers_of, put_in, take_out
from llada.training.adapters import additions_of

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All matrices of a layer of `llada.backbones.BidirectionalTransformer`."""


class LoRA(Callback):
    """Fine-tunes with LoRA (extra ``peft``): the weights are frozen, and their low-rank additions are trained.

    For everybody else the model stays as it is: its ``state_dict``, and so every checkpoint, holds the sums
    W + (alpha / r) B A under the usual names, and after `fit` the sums are in the network itself. A checkpoint can
    therefore be loaded, served and converted without this callback. To resume, the frozen weights are taken from where
    they came from the first time (``--init_from``, `from_pretrained`) and the additions from the checkpoint. Frozen
    weights may be quantised (``--quantise``, `llada.checkpoints.quantised`): the sums are then those with the matrices
    that the network computes with, and after `fit` it is whole.

    ``llada convert run.ckpt FOLDER --adapter`` writes the additions of a run alone, in PEFT's format.

    Args:
        rank: r.
        alpha: scale of the additions; None for 2 r.
        dropout: of the additions' inputs, in [0, 1).
        targets: names of the matrices, as the last parts of their paths.
        adapter: folder of a PEFT adapter to go on from; rank, scale and matrices are its own then.

    Raises:
        ValueError: if a number is out of its range, or ``targets`` names the head, whose loss reads its matrix.
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: int | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] = PROJECTIONS,
        adapter: str | None = None,
    ) -> None:
        if rank < 1 or not 0.0 <= dropout < 1.0:
            raise ValueError(f"rank must be 1 or more and dropout in [0, 1); got {rank=} and {dropout=}")
        if "head" in targets or not targets:
            raise ValueError(f"targets must name matrices of the layers, such as q_proj, not the head; got {targets!r}")
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, tuple(targets)
        self.adapter = adapter
        self._backbone: nn.Module | None = None
        self._hooks: list[Any] = []
        self._frozen_before: list[nn.Parameter] = []
        self._last_state: dict[str, Any] = {}
        self._rank_stabilised = False

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the additions, of subclasses too."""
        return LOW_RANK

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the additions in, before the optimiser asks which parameters are trained.

        Raises:
            ImportError: without the extra.
            ValueError: if no matrix has one of the names, or there are additions already.
        """
        if stage != "fit":
            return
        backbone = getattr(pl_module, "backbone", pl_module)
        check_bare(backbone)
        begun = {} if self.adapter is None else additions_of(read_adapter(backbone, self.adapter))
        arguments = config_of(begun) if begun else self._fresh(backbone)
        self._rank_stabilised = arguments.get("use_rslora", False)
        self._frozen_before = [p for p in backbone.parameters() if not p.requires_grad]
        self._hooks = put_in(backbone, arguments, begun, self.dropout)
        self._backbone = backbone

    def _fresh(self, backbone: nn.Module) -> dict[str, Any]:
        """Arguments of PEFT's configuration for additions that begin at nothing."""
        known = {name.rpartition(".")[2] for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
        missing = sorted(set(self.targets) - known)
        if missing:
            raise ValueError(f"the backbone has no matrix {missing[0]!r}; it has {', '.join(sorted(known))}")
        alpha = 2 * self.rank if self.alpha is None else self.alpha
        return {"r": self.rank, "lora_alpha": alpha, "target_modules": list(self.targets)}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the additions to the weights, and leave the network as it was built."""
        if self._backbone is None:
            return
        self._last_state = self.state_dict()  # for `Trainer.save_checkpoint` after the end
        take_out(self._backbone, self._hooks)
        self._backbone.requires_grad_(True)
        for parameter in self._frozen_before:
            parameter.requires_grad_(False)
        self._backbone = None

    def state_dict(self) -> dict[str, Any]:
        """The additions, and what tells the frozen weights from others."""
        if self._backbone is None:
            return self._last_state
        layers = dict(self._layers())
        return {
            "additions": {name: p.detach().clone() for name, p in self._additions()},
            "alphas": {name: float(layer.lora_alpha["default"]) for name, layer in layers.items()},
            "dropout": self.dropout,
            "frozen": self._fingerprint(),
            "rank_stabilised": self._rank_stabilised,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from stored additions.

        Raises:
            ValueError: if they are additions to other weights, or of another rank or other matrices.
        """
        if self._backbone is None or not state_dict:
            return
        if state_dict["frozen"] != self._fingerprint():
            raise ValueError(
                "the checkpoint's low-rank additions belong to other weights than the model's; begin with the same "
                "weights as the first time, quantised alike: --init_from and --quantise, or DiffusionLM.from_pretrained"
            )
        own, stored = dict(self._additions()), state_dict["additions"]
        unlike = [name for name in own.keys() | stored.keys() if _shape(own, name) != _shape(stored, name)]
        if unlike:
            name = min(unlike)
            raise ValueError(
                f"the addition {name} has the shape {_shape(stored, name)} in the checkpoint but {_shape(own, name)} "
                "here; resume with the rank and the targets of the first time"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])

    def _layers(self) -> Iterator[tuple[str, Any]]:
        assert self._backbone is not None
        return layers_of(self._backbone)

    def _additions(self) -> Iterator[tuple[str, nn.Parameter]]:
        assert self._backbone is not None
        return ((name, p) for name, p in self._backbone.named_parameters() if ".lora_" in name)

    def _fingerprint(self) -> str:
        """Of the first frozen matrix."""
        _, layer = next(self._layers())
        weight = layer.get_base_layer().weight.data.cpu().contiguous()
        return hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).hexdigest()


def _shape(tensors: dict[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None

"""From causal to full attention, step by step, while a next-token model becomes a diffusion model.

    share(step) = min(1, (step + 1) / steps)

Reference: Gong et al., "Scaling Diffusion Language Models via Adaptation from Autoregressive Models", arXiv 2410.17891,
section 3.2.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from llada.backbones.attention.widening import Widening
from llada.backbones.body import Body


class WideningAttention(Callback):
    """Lets a token see a growing share of the later ones, see `llada.backbones.attention.widening`.

    The backbone is built as what it becomes: neither ``causal`` nor with blocks, and mostly with ``shift``. Which pairs
    are open follows from the module's seed and the number of optimiser steps alone, so a run that goes on is the same
    run, and all micro-batches and ranks of a step see the same. Validation uses the share of its step. A checkpoint
    says nothing of it, so a model that is loaded sees everything.

    Args:
        steps: optimiser steps until everything is seen.

    Raises:
        ValueError: if ``steps`` is less than 1.

    Examples:
        >>> from llada.training.callbacks import WideningAttention
        >>> callback = WideningAttention(steps=10)
        >>> [callback.share(step) for step in (0, 4, 9, 20)]
        [0.1, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be 1 or more; got {steps}")
        self.steps = steps

    def share(self, step: int) -> float:
        """The share of later tokens that are seen.

        Args:
            step: optimiser steps taken before.
        """
        return min(1.0, (step + 1) / self.steps)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone: Any = getattr(pl_module, "backbone", pl_module)
        if not isinstance(backbone, Body) or backbone.causal or backbone.block_length is not None:
            options = {name: getattr(backbone, name, None) for name in ("causal", "block_length")}
            raise ValueError(
                "WideningAttention needs a backbone of this package that will see everything, built with causal=False "
                f"and without block_length; got {type(backbone).__name__} with {options}; for blocks there is "
                "llada.training.callbacks.BlockLengths"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(pl_module, trainer.global_step)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._set(pl_module, trainer.global_step)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone: Any = getattr(pl_module, "backbone", pl_module)
        backbone.widening = None

    def _set(self, pl_module: LightningModule, step: int) -> None:
        backbone, share = getattr(pl_module, "backbone", pl_module), self.share(step)
        backbone.widening = None if share == 1.0 else Widening(share, getattr(pl_module, "seed", 0), step)

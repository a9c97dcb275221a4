"""A fresh model that begins with the frequencies of the tokens, so that training needn't learn them first.

With a bias of log frequencies on its head, a fresh model is a unigram model. At small budgets this decides whether it
leaves the unigram plateau.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from llada.training.weights import write


class UnigramBias(Callback):
    """Sets the bias of the head to the log frequencies of the training tokens, once, before the first step.

    Needs a backbone whose head has a bias (``head_bias=True``), and a data module with ``token_counts``, as those of
    the library have.

    Args:
        smoothing: added to every count, so that a token that never occurs keeps a finite bias.

    Raises:
        ValueError: if ``smoothing`` isn't above 0; when training starts, if the head has no bias or the data no counts.

    Examples:
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.training.callbacks import UnigramBias
        >>> backbone, callback = BidirectionalTransformer(9, 8, 1, 2, head_bias=True), UnigramBias()
    """

    def __init__(self, smoothing: float = 1.0) -> None:
        if not smoothing > 0.0:
            raise ValueError(f"smoothing must be above 0; got {smoothing}")
        self.smoothing = smoothing

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the bias, unless a checkpoint is being resumed."""
        if trainer.ckpt_path is not None or trainer.global_step > 0:
            return
        bias = getattr(getattr(getattr(pl_module, "backbone", None), "head", None), "bias", None)
        if not isinstance(bias, nn.Parameter):
            raise ValueError("UnigramBias needs a head with a bias; build the backbone with head_bias=True")
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "token_counts"):
            raise ValueError("UnigramBias needs a data module with token_counts, such as TextDataModule")
        counts = data.token_counts().to(device=bias.device, dtype=bias.dtype) + self.smoothing
        write(bias, (counts / counts.sum()).log())

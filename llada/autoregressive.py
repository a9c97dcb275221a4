"""The autoregressive twin of `DiffusionLM`: the same module, trained and decoded from left to right.

A backbone with ``causal=True, shift=True`` reads what it says of position i from the output at i - 1, which has seen
tokens 1 .. i-1 only. To losses and samplers it is a denoiser like any other, so the twin differs from a diffusion model
in three parts, and shares backbone, data, trainer, likelihood and commands with it:

    objective, bound    NELBO(NextTokens())   the exact negative log-likelihood
    sampler             NextToken()           one token per call, keys cached
"""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from llada.heads.head_loss import Chunked, HeadLoss
from llada.module import DiffusionLM
from llada.objectives import NELBO, NextTokens, Objective
from llada.process import MaskingProcess
from llada.samplers import NextToken, Sampler
from llada.training.guard import OnNonfinite


class AutoregressiveLM(DiffusionLM):
    """A next-token model with the interface of a diffusion model.

    Args:
        backbone: causal and shifted, such as ``BidirectionalTransformer(..., causal=True, shift=True)``.
        process: names the mask token, which marks what `generate` is to fill in. Training corrupts nothing.
        objective: what training minimises.
        bound: what validation and test report; exact here.
        sampler: what `generate` and ``predict`` use.
        optimizer: see `DiffusionLM`.
        lr_scheduler: see `DiffusionLM`.
        seed: see `DiffusionLM`.
        head_loss: see `DiffusionLM`.
        on_nonfinite: see `DiffusionLM`.

    Raises:
        ValueError: if the backbone sees the token that it has to predict.

    Examples:
        >>> import torch
        >>> from llada import AutoregressiveLM, BidirectionalTransformer, MaskingProcess
        >>> backbone = BidirectionalTransformer(9, 8, num_layers=1, num_heads=2, causal=True, shift=True)
        >>> twin = AutoregressiveLM(backbone, MaskingProcess(mask_token_id=8)).eval()
        >>> sample = twin.generate(torch.tensor([[1, 2, 8, 8]]))  # as of a diffusion model, from left to right
        >>> sample.calls, 8 in sample.tokens
        (tensor([2]), False)
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: MaskingProcess,
        objective: Objective = NELBO(NextTokens()),  # noqa: B008 - frozen
        bound: Objective = NELBO(NextTokens()),  # noqa: B008 - frozen
        sampler: Sampler = NextToken(),  # noqa: B008 - frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        head_loss: HeadLoss = Chunked(),  # noqa: B008 - frozen
        on_nonfinite: OnNonfinite = "raise",
    ) -> None:
        super().__init__(
            backbone,
            process,
            objective,
            bound,
            1,
            sampler,
            optimizer,
            lr_scheduler,
            seed,
            head_loss,
            on_nonfinite=on_nonfinite,
        )

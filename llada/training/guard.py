"""Stops or skips a training step whose loss, gradient or weights are no longer numbers, before anything is saved.

What is looked at is the same on all ranks: the loss summed over them, the norm of the averaged gradient, the norm of
the weights. So all ranks stop together, with the same words. On an accelerator a number is read a step later, when it
is there anyway, so that nothing waits for it; where steps are to be skipped, it is read before the step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llada.training.parallel import Replicas
from llada.training.window import Totals

OnNonfinite = Literal["raise", "skip"]

REMEDY = (
    "; nothing was saved after it. Resume from the last checkpoint with a lower learning rate, more warm-up or "
    'gradient_clip_val=1.0, or with on_nonfinite="skip", which leaves such steps out'
)


@dataclass(frozen=True)
class Seen:
    """A number that may not be finite, and where it comes from.

    Attributes:
        name: of the number.
        value: () the same on all ranks.
        where: step and batch, as words.
        own: () this rank's share of it; None where it isn't known whose it is.
        ranks: the processes that see different rows.
    """

    name: str
    value: Tensor
    where: str
    own: Tensor | None
    ranks: Replicas

    def fault(self) -> str | None:
        """What is wrong, naming step, batch and ranks; None if nothing is. Reads the number."""
        if bool(torch.isfinite(self.value)):
            return None
        return f"{self.name} became {self.value.item()} at {self.where}{self._ranks()}"

    def _ranks(self) -> str:
        if self.ranks.size == 1 or self.own is None:
            return ""
        bad = (~torch.isfinite(self.own)).float()
        each = [torch.empty_like(bad) for _ in range(self.ranks.size)]
        dist.all_gather(each, bad, group=self.ranks.group)
        found = [str(rank) for rank, flag in enumerate(each) if bool(flag)]
        return f" on rank(s) {', '.join(found) or 'none alone'} of {self.ranks.size}"


class FiniteGuard:
    """Watches the numbers of a run.

    Attributes:
        skipped: optimiser steps that were left out.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._unread: list[Seen] = []

    def open(self) -> None:
        """Forget what an interrupted run has left unread."""
        self._unread = []

    def watch_loss(self, totals: Totals, own: Tensor, step: int, batch_idx: int, ranks: Replicas) -> None:
        """Note the loss of a micro-batch.

        Args:
            totals: its sums over ranks.
            own: () this rank's numerator.
            step: index of the optimiser step.
            batch_idx: index of the batch in the epoch.
            ranks: the processes that see different rows.
        """
        where = f"step {step} (batch {batch_idx} of the epoch)"
        self._unread.append(Seen("the training loss", totals.loss, where, own.detach(), ranks))

    def watch_gradient(self, norm: Tensor, step: int, batch_idx: int, ranks: Replicas) -> None:
        """Note the gradient norm of a step; arguments as in `watch_loss`."""
        where = f"step {step} (up to batch {batch_idx} of the epoch), with a finite loss"
        self._unread.append(Seen("the gradient norm", norm, where, None, ranks))

    def fault(self) -> str | None:
        """The first fault among the numbers that weren't read yet, which are read now."""
        unread, self._unread = self._unread, []
        return next((fault for fault in (seen.fault() for seen in unread) if fault is not None), None)


def spoilt_buffer(module: nn.Module) -> str | None:
    """The name of a stored buffer, such as a running mean, that holds a NaN; None if there is none.

    Infinities are left alone: masks of attention are made of them.
    """
    for path, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            stored = name not in part._non_persistent_buffers_set  # it has no public name
            if stored and buffer.is_floating_point() and bool(torch.isnan(buffer).any()):
                return f"{path}.{name}"
    return None


def underflow(parameters: Iterable[Tensor], optimizers: Iterable[Any]) -> str:
    """Whether an optimiser divides by an eps that is 0 in the weights' own number format, as the end of a sentence."""
    dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    for optimizer in optimizers:
        for eps in (group.get("eps") for group in optimizer.param_groups):
            for dtype in dtypes:
                if isinstance(eps, float) and eps > 0 and float(torch.tensor(eps, dtype=dtype)) == 0.0:
                    return (
                        f": they are kept in {str(dtype).removeprefix('torch.')} (precision 16-true), in which the "
                        f"optimiser's eps={eps:g} is 0, so that it divides by 0. Train with bf16-true, bf16-mixed or "
                        "16-mixed, or with eps=1e-4 or more"
                    )
    return ""

"""What a training step needs beside its loss: a window of micro-batches, a guard against NaN, parameter groups."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llada.training.parallel import Replicas


class AccumulationWindow:
    """Makes the gradient of an accumulated step that of one big batch.

    Micro-batch m of a step has numerator n_m and denominator d_m, summed over ranks. The step's loss is
    sum n_m / sum d_m, but the sum of the d_m is known only at its end. So every micro-batch is divided by d_0, and the
    accumulated gradient is corrected once, by M d_0 / sum d_m, before the optimiser sees it (the Trainer divides by M).
    """

    def __init__(self) -> None:
        self._denominators: list[Tensor] = []

    def divide(self, numerator: Tensor, denominator: Tensor, ranks: Replicas) -> Tensor:
        """The loss of a micro-batch.

        Args:
            numerator: (), differentiable, of this rank.
            denominator: (), of this rank.
            ranks: whose gradients will be averaged.
        """
        total = denominator.detach().clone()
        if ranks.size > 1:
            dist.all_reduce(total, group=ranks.group)
        self._denominators.append(total)
        return numerator * ranks.size / self._denominators[0]

    def close(self, module: nn.Module, num_micro_batches: int) -> None:
        """Correct the accumulated gradients, and begin the next step.

        Args:
            module: whose gradients.
            num_micro_batches: M, by which the Trainer has divided.
        """
        denominators, self._denominators = self._denominators, []
        if num_micro_batches == 1 or not denominators:
            return
        factor = float(num_micro_batches * denominators[0] / torch.stack(denominators).sum())
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


class FiniteGuard:
    """Raises when a loss isn't finite.

    On an accelerator a loss is read a step later, when it is there anyway, so that nothing waits for it.
    """

    def __init__(self) -> None:
        self._unread: tuple[Tensor, int] | None = None

    def watch(self, loss: Tensor, step: int) -> None:
        """Note a loss, and read it at once on the CPU."""
        self.check()
        self._unread = loss.detach(), step
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Read the last loss.

        Raises:
            ValueError: if it isn't finite.
        """
        unread, self._unread = self._unread, None
        if unread is not None and not bool(torch.isfinite(unread[0])):
            raise ValueError(
                f"the training loss became {unread[0].item()} at step {unread[1]}; nothing was saved after it. Resume "
                "from the last checkpoint with a lower learning rate, more warm-up or gradient_clip_val=1.0"
            )


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Hidden matrices; other matrices, such as embedding and head; and vectors (norms, biases), which don't decay.

    The groups are as an optimiser takes them. Those of hidden matrices are marked by ``is_hidden``.
    """
    hidden = _hidden_matrices(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p in hidden], "is_hidden": True},
        {"params": [p for p in parameters if p.ndim >= 2 and p not in hidden], "is_hidden": False},
        {"params": [p for p in parameters if p.ndim < 2], "is_hidden": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


HEADS = {"head", "lm_head"}


def _hidden_matrices(module: nn.Module) -> set[Tensor]:
    """The matrices of linear layers that lead from activations to activations."""
    tables = {owner.weight for owner in module.modules() if isinstance(owner, nn.Embedding)}
    layers = [owner for name, owner in module.named_modules() if HEADS.isdisjoint(name.split("."))]
    return {layer.weight for layer in layers if isinstance(layer, nn.Linear)} - tables

"""The gradient of a step whose batch comes in M parts: sum n_m / sum d_m, not the mean of n_m / d_m."""

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
            numerator: scalar, differentiable; the sum of this rank's losses.
            denominator: scalar; what this rank's losses are divided by, such as a number of tokens.
            ranks: the processes whose gradients will be averaged.

        Returns:
            Scalar whose gradient, averaged over ranks and micro-batches and corrected by `close`, is the step's.
        """
        total = denominator.detach().clone()
        if ranks.size > 1:
            dist.all_reduce(total, group=ranks.group)
        self._denominators.append(total)
        return numerator * ranks.size / self._denominators[0]

    def close(self, module: nn.Module, num_micro_batches: int) -> None:
        """Correct the accumulated gradients, and begin the next step.

        Args:
            module: the model whose gradients are corrected.
            num_micro_batches: M, the number of micro-batches in a step, by which the Trainer has divided.
        """
        denominators, self._denominators = self._denominators, []
        if num_micro_batches == 1 or not denominators:
            return
        factor = float(num_micro_batches * denominators[0] / torch.stack(denominators).sum())
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

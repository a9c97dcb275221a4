"""The loss and the gradient of a step whose batch comes in M parts: sum n_m / sum d_m, not the mean of n_m / d_m."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llada.objectives import ObjectiveOutput
from llada.training.parallel import Replicas


class Totals(NamedTuple):
    """Sums over all ranks, of a micro-batch or of a whole step; () float64 on the device.

    Attributes:
        numerator: n, nats.
        denominator: d, what the normaliser divides by.
        scored: tokens whose divergence counts.
        maskable: tokens that noise may change.
        tokens: real tokens, without padding.
        further: what else the objective sums up, by name; see `ObjectiveOutput.sums`.
    """

    numerator: Tensor
    denominator: Tensor
    scored: Tensor
    maskable: Tensor
    tokens: Tensor
    further: Mapping[str, Tensor] = {}

    @property
    def loss(self) -> Tensor:
        """The loss, n / d."""
        return self.numerator / self.denominator

    @property
    def means(self) -> dict[str, Tensor]:
        """The further sums, divided by d."""
        return {name: value / self.denominator for name, value in self.further.items()}


class AccumulationWindow:
    """Makes the loss and the gradient of an accumulated step those of one big batch.

    Micro-batch m of a step has numerator n_m and denominator d_m, summed over ranks. The step's loss is
    sum n_m / sum d_m, but the sum of the d_m is known only at its end. So every micro-batch is divided by d_0, and the
    accumulated gradient is corrected once, by M d_0 / sum d_m, as soon as it is complete (the Trainer divides by M).

    Attributes:
        num_rows: rows of this rank's micro-batches so far.
    """

    def __init__(self) -> None:
        self._totals: list[Tensor] = []
        self._names: tuple[str, ...] = ()
        self.num_rows = 0

    def open(self) -> None:
        """Begin a step; what an interrupted one has left behind is forgotten."""
        self._totals, self.num_rows = [], 0

    def divide(self, output: ObjectiveOutput, tokens: Tensor, ranks: Replicas) -> tuple[Tensor, Totals]:
        """The loss of a micro-batch.

        Args:
            output: of this rank's micro-batch.
            tokens: () how many real tokens it has.
            ranks: the processes whose gradients will be averaged.

        Returns:
            Scalar whose gradient, averaged over ranks and micro-batches and corrected by `close`, is the step's; and
            the micro-batch's sums over ranks.
        """
        self._names = tuple(output.sums)
        counts = (output.numerator, output.denominator, output.num_scored.sum(), output.num_tokens.sum(), tokens)
        total = torch.stack([count.detach().double() for count in (*counts, *output.sums.values())])
        if ranks.size > 1:
            dist.all_reduce(total, group=ranks.group)
        self._totals.append(total)
        first = self._totals[0][Totals._fields.index("denominator")]
        return output.numerator * ranks.size / first, self._named(total)

    def close(self, module: nn.Module, num_micro_batches: int) -> Totals | None:
        """Correct the accumulated gradients, and end the step.

        Args:
            module: the model whose gradients are corrected.
            num_micro_batches: M, the number of micro-batches in a step, by which the Trainer has divided.

        Returns:
            The sums of the step; None if no micro-batch has come through here since the last call.
        """
        window, self._totals = self._totals, []
        if not window:
            return None
        first, step = self._named(window[0]), self._named(torch.stack(window).sum(0))
        if num_micro_batches > 1:
            factor = float(num_micro_batches * first.denominator / step.denominator)
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return step

    def _named(self, total: Tensor) -> Totals:
        numerator, denominator, scored, maskable, tokens, *further = total
        named = dict(zip(self._names, further, strict=True))
        return Totals(numerator, denominator, scored, maskable, tokens, named)

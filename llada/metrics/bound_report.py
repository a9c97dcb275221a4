"""What validation and test report of a language model: the bound in all its units, and the loss by noise level.

val/nll                        nats per token, the ratio of sums over all rows (see `llada.metrics.BoundMetric`)
val/perplexity                 exp(nll)
val/bits_per_byte              nll / (ln 2 bytes per token), where the bytes per token are known
val/nll_se, ...                their standard errors over rows
val/nll_at_noise_0.1 to 1.0    cross-entropy of a masked token, by the share of masked tokens
"""

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llada.metrics.nelbo import BoundMetric, NoiseLevelMetric
from llada.objectives import ObjectiveOutput


class BoundReport(nn.Module):
    """Collects the bound of all batches of a stage, and gives the numbers to be logged.

    Args:
        stage: first part of the names, such as "val".
        noise_levels: whether to report the cross-entropy by noise level as well.

    Examples:
        >>> import torch
        >>> from llada.metrics import BoundReport
        >>> from llada.objectives import NELBO, NextTokens
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> report, rows = BoundReport("val"), torch.tensor([[0, 1, 2]])
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> report.update([NELBO(NextTokens())(uniform, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 1))])
        >>> report.compute()["val/nll"]
        tensor(1.3863)
    """

    def __init__(self, stage: str, noise_levels: bool = False) -> None:
        super().__init__()
        self.stage, self.noise_levels = stage, noise_levels
        self.bound, self.levels = BoundMetric(), NoiseLevelMetric()

    def sum_over(self, group: dist.ProcessGroup | None) -> None:
        """Sum over the ranks of a group.

        Args:
            group: the ranks, as a process group; None for all.
        """
        self.bound.process_group = self.levels.process_group = group

    def update(self, outputs: Sequence[ObjectiveOutput]) -> None:
        """Add a batch.

        Args:
            outputs: one for each draw of the noise, all of the same rows; their mean is a row's estimate.
        """
        nelbo = torch.stack([output.nelbo for output in outputs]).mean(0)
        self.bound.update(nelbo, outputs[0].num_tokens)
        if self.noise_levels:
            for output in outputs:
                self.levels.update(output.t, output.scored_nll, output.num_scored)

    def compute(self, bytes_per_token: float | None = None) -> dict[str, Tensor]:
        """The numbers by name, () float32; what isn't known, such as a noise level that wasn't seen, is left out.

        What was seen and is no number, since the model's logits aren't, is told as what it is, with a warning.

        Args:
            bytes_per_token: average number of bytes that a token of the evaluated text stands for; None where it isn't
                known: then there are no bits per byte.
        """
        self.bound.bytes_per_token = bytes_per_token
        found, seen = self.bound.compute()._asdict(), {"nll"} if bool(self.bound.tokens) else set()
        if self.noise_levels:
            for index, value in enumerate(self.levels.compute()):
                name = f"nll_at_noise_{(index + 1) / self.levels.num_bins:.1f}"
                found[name] = value
                seen |= {name} if bool(self.levels.masked[index]) else set()
        if "nll" in seen and bool(torch.isnan(found["nll"])):
            warnings.warn(f"{self.stage}/nll is no number, since the model's logits aren't", stacklevel=2)
        told = {name: value for name, value in found.items() if name in seen or not bool(torch.isnan(value))}
        return {f"{self.stage}/{name}": value.float() for name, value in told.items()}

    def reset(self) -> None:
        """Forget all batches."""
        self.bound.reset()
        self.levels.reset()

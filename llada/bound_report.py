"""What validation and test report of a language model: the bound in all its units, and the loss by noise level."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor

from llada.metrics.nelbo import BoundMetric, NoiseLevelMetric
from llada.objectives import ObjectiveOutput

if TYPE_CHECKING:
    from llada.data.batch import TokenBatch


class BoundReport(LightningModule):
    """The validation and test half of a module; the other half says how a batch is evaluated.

    It logs ``val/nll`` and ``test/nll`` in nats per token, perplexity, bits per token and, where the data module knows
    the text, bits per byte, each with its standard error over rows, and ``val/nll_at_noise_0.1`` to ``1.0``, the
    cross-entropy of a masked token by the share of masked ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.val_bound, self.val_levels, self.test_bound = BoundMetric(), NoiseLevelMetric(), BoundMetric()

    def evaluate(self, batch: "TokenBatch", batch_idx: int) -> list[ObjectiveOutput]:
        """Draws of the bound of a batch; their mean is a row's estimate.

        Args:
            batch: of the validation or test loader.
            batch_idx: its number.
        """
        raise NotImplementedError

    def sum_over(self, group: dist.ProcessGroup | None) -> None:
        """Sum the metrics over the ranks of a group; None for all."""
        for metric in (self.val_bound, self.val_levels, self.test_bound):
            metric.process_group = group

    def validation_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the bound."""
        outputs = self.evaluate(batch, batch_idx)
        self.val_bound.update(_mean_nelbo(outputs), outputs[0].num_tokens)
        for output in outputs:
            self.val_levels.update(output.t, output.scored_nll, output.num_scored)

    def on_validation_epoch_start(self) -> None:
        """Ask the data how many bytes a token stands for."""
        self.val_bound.bytes_per_token = self._bytes_per_token("val")

    def on_validation_epoch_end(self) -> None:
        """Log the bound, its standard error, and the cross-entropy by noise level."""
        self._log_bound("val", self.val_bound)
        for index, value in enumerate(self.val_levels.compute()):
            if not torch.isnan(value):
                self.log(f"val/nll_at_noise_{(index + 1) / self.val_levels.num_bins:.1f}", value.float())
        self.val_levels.reset()

    def test_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the bound."""
        outputs = self.evaluate(batch, batch_idx)
        self.test_bound.update(_mean_nelbo(outputs), outputs[0].num_tokens)

    def on_test_epoch_start(self) -> None:
        """Ask the data how many bytes a token stands for."""
        self.test_bound.bytes_per_token = self._bytes_per_token("test")

    def on_test_epoch_end(self) -> None:
        """Log the bound and its standard error."""
        self._log_bound("test", self.test_bound)

    def _log_bound(self, stage: str, metric: BoundMetric) -> None:
        for name, value in metric.compute()._asdict().items():
            if not torch.isnan(value):
                self.log(f"{stage}/{name}", value.float(), prog_bar=name in ("nll", "bits_per_byte"))
        metric.reset()

    def _bytes_per_token(self, stage: str) -> float | None:
        datamodule = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        return getattr(datamodule, f"{stage}_bytes_per_token", None)


def _mean_nelbo(outputs: list[ObjectiveOutput]) -> Tensor:
    return torch.stack([output.nelbo for output in outputs]).mean(0)

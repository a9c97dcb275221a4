"""What `llada.objectives.PreferenceObjective` needs around it: a reference when training begins, and held-out pairs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from llada.data.foreign import as_token_batch
from llada.files.atomic import replacing
from llada.metrics import PreferenceMetric
from llada.objectives import FrozenCopy, PreferenceObjective, StoredBounds
from llada.random import RowRandom
from llada.training.callbacks.frozen_reference import FrozenReference
from llada.training.loop import replicas_of
from llada.training.reports import loader_names


class Preferences(FrozenReference):
    """Makes the reference that a preference objective asks for, and logs ``val/preference_...``.

    The reference is the model as it is when training begins: the weights of ``--init_from`` or `from_pretrained`. A
    resumed run must begin with the same ones, which is checked. A `FrozenCopy` is made; the file of `StoredBounds` is
    written where it isn't there, in one pass over the training pairs.

    ``val/preference_...`` are what `llada.metrics.PreferenceMetric` says of the validation pairs, where the reference
    is there: not with stored values, which are those of the training pairs, nor in a validation without training unless
    ``checkpoint`` is given. Beside them ``val/nll`` is the bound of the chosen answers, as of any validation.

    Args:
        checkpoint: file of a model with the same backbone that is to be the reference instead; None for the model's own
            weights.

    Examples:
        >>> from llada.objectives import PreferenceObjective
        >>> from llada.training.callbacks import Preferences
        >>> objective, callback = PreferenceObjective(), Preferences()
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        super().__init__(checkpoint)
        self._metrics: dict[int, PreferenceMetric] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights, if the link needs a reference.

        Raises:
            ValueError: if the objective isn't about preferences, or its reference can't be made.
        """
        if _objective(pl_module).link.needs_reference:
            super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the copy where the model is, or write the values of the reference.

        Raises:
            ValueError: if a resumed run began with other weights, or the values should be written in mid-run.
        """
        super().on_fit_start(trainer, pl_module)
        reference = _objective(pl_module).reference
        if isinstance(reference, StoredBounds) and not Path(reference.path).is_file():
            self._write(trainer, pl_module, reference)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new reports."""
        self._metrics.clear()

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch; its noise is the same in every epoch."""
        if not self._reports(pl_module):
            return
        objective = _objective(pl_module)
        rows = as_token_batch(batch)
        ranks, place = replicas_of(pl_module), torch.arange(len(rows["tokens"]), device=pl_module.device)
        random = RowRandom.for_step(pl_module.seed, batch_idx, place * ranks.size + ranks.rank, len(place) * ranks.size)
        output = objective(pl_module._denoiser, pl_module.process, rows, random=random.fold_in(_VALIDATION))
        self._metric(dataloader_idx, pl_module).update(output)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the numbers of each loader."""
        if not self._reports(pl_module):
            return
        for index, name in enumerate(loader_names(trainer, "val")):
            for key, value in self._metric(index, pl_module).compute().items():
                whole = f"val/{key}/{name}" if name else f"val/{key}"
                pl_module.log(whole, value.float(), prog_bar=key.endswith("accuracy"), add_dataloader_idx=False)
        self._metrics.clear()

    def _reports(self, module: LightningModule) -> bool:
        """Whether the reference is there for other pairs than those of training, too."""
        objective = _objective(module)
        absent = isinstance(objective.reference, StoredBounds) or (
            isinstance(objective.reference, FrozenCopy) and self._copy is None
        )
        return not (objective.link.needs_reference and absent)

    def _metric(self, index: int, module: LightningModule) -> PreferenceMetric:
        if index not in self._metrics:
            self._metrics[index] = PreferenceMetric().to(module.device)
            self._metrics[index].process_group = replicas_of(module).group
        return self._metrics[index]

    def _write(self, trainer: Trainer, module: Any, reference: StoredBounds) -> None:
        if trainer.ckpt_path is not None or self.checkpoint is not None:
            raise ValueError(
                f"there is no file {reference.path}, and a resumed run can't write it: it must hold what the model "
                "said before training. Let a run from the beginning write it"
            )
        if trainer.is_global_zero:
            rows = trainer.datamodule.rows("train")  # type: ignore[attr-defined]
            was_training, place = module.training, Path(reference.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            table = _objective(module.eval()).reference_table(
                module.backbone, module.process, _batches(rows, module.device), len(rows)
            )
            module.train(was_training)
            with replacing(place) as file:
                np.save(file, table.numpy())
        trainer.strategy.barrier()


_VALIDATION = 77
"""Tag of the random streams of validation pairs."""
_BATCH = 16


def _batches(rows: Any, device: torch.device) -> Iterable[dict[str, Any]]:
    for start in range(0, len(rows), _BATCH):
        batch = rows.__getitems__(list(range(start, min(start + _BATCH, len(rows)))))
        yield {name: value.to(device) for name, value in as_token_batch(batch).items()}  # type: ignore[attr-defined]


def _objective(module: Any) -> PreferenceObjective:
    objective = getattr(module, "objective", None)
    if not isinstance(objective, PreferenceObjective):
        raise ValueError(
            f"the callback Preferences is for llada.objectives.PreferenceObjective; the model's objective is "
            f"{type(objective).__name__}"
        )
    return objective

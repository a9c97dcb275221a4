"""What goes on around `DiffusionLM.training_step`: the callback that the Trainer gets with every such model.

It stands in front of all other callbacks, so that they see what is true: the gradient of the whole accumulated step,
the loss of the step, the bound of an evaluation. A subclass can't lose it by overriding a hook.

    train/loss           sum n / sum d over the micro-batches and ranks of an optimiser step (`llada.training.window`)
    train/grad_norm      of the whole step, before clipping
    train/masked_share   scored tokens / maskable tokens
    train/tokens_seen    real tokens of the run so far
    train/NAME           what else the objective sums up, such as preference_margin (`ObjectiveOutput.sums`)
    train/skipped_steps  steps that were left out because of a number that isn't finite, once there is one

They are logged at the Trainer's log steps (``log_every_n_steps``) and at the end of an epoch and of the run; at every
step where a callback or a scheduler monitors one of them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from llada.checkpoints.copies import check_describable
from llada.checkpoints.quantised import check_trainable
from llada.metrics import BoundReport
from llada.objectives import ObjectiveOutput
from llada.training.guard import REMEDY, FiniteGuard, spoilt_buffer, underflow
from llada.training.hyperparameters import flat_parts
from llada.training.norms import total_norm
from llada.training.parallel import Replicas, replicas
from llada.training.reports import bytes_per_token, loader_names
from llada.training.trainer_options import check_options
from llada.training.window import AccumulationWindow, Totals


class TrainingLoop(Callback):
    """Accumulation, the guard against numbers that aren't finite, what is logged, and the reports of evaluations.

    Attributes:
        tokens_seen: real tokens of all ranks that the run has trained on, () float64.
        step: sums of the last optimiser step that was made; None before the first, and for one that was left out.
    """

    def __init__(self) -> None:
        self.tokens_seen = torch.zeros((), dtype=torch.float64)
        self.step: Totals | None = None
        self.guard, self.window = FiniteGuard(), AccumulationWindow()
        self._reports: dict[tuple[str, int], BoundReport] = {}
        self._is_monitored = self._warned = False

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the counts."""
        return "llada"

    def attach(self, trainer: Trainer) -> None:
        """Stand in front of the Trainer's callbacks, in the place of another model's loop."""
        others = [callback for callback in trainer.callbacks if not isinstance(callback, TrainingLoop)]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count from 0, unless the run goes on.

        Raises:
            ValueError: if an option of the Trainer has a value that it would stumble over, or ignore.
        """
        check_options(trainer)
        self._reports.clear()
        self.guard.open()
        self.window.open()
        self._warned = False
        if stage == "fit" and trainer.global_step == 0:
            self.load_state_dict({"tokens_seen": 0, "skipped_steps": 0})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what no checkpoint could hold or no step change, and tell the loggers of all parts.

        Raises:
            ValueError: if a part can't be described, or all that is to be trained is quantised.
        """
        check_describable(pl_module)
        check_trainable(pl_module)
        for logger in trainer.loggers:
            logger.log_hyperparams(flat_parts(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether something, such as early stopping, wants every step's numbers."""
        watching = [*trainer.callbacks, *trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
        self._is_monitored = any(str(getattr(one, "monitor", "")).startswith("train/") for one in watching)

    def loss(self, module: LightningModule, batch: Any, batch_idx: int, output: ObjectiveOutput) -> Tensor:
        """The loss of a micro-batch, (): its gradients add up to the step's.

        Args:
            module: the model.
            batch: as from `llada.data.foreign.as_token_batch`.
            batch_idx: index of the batch in the epoch.
            output: what the objective says of the batch.

        Raises:
            ValueError: on the CPU, if it isn't finite and such steps aren't to be skipped.
        """
        trainer, ranks, mask = module.trainer, replicas_of(module), batch.get("attention_mask")
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.window.open()
        self.window.num_rows += len(batch["tokens"])
        tokens = torch.full((), batch["tokens"].numel(), device=output.numerator.device) if mask is None else mask.sum()
        loss, totals = self.window.divide(output, tokens, ranks)
        if _raises(module):
            self._read(module)  # the last step's numbers, which are there by now
        self.guard.watch_loss(totals, output.numerator, trainer.global_step, batch_idx, ranks)
        if _raises(module) and read_at_once(loss):
            self._read(module)
        return loss

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the gradient that of the whole step, once its last micro-batch is in."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        last = trainer.is_last_batch or progress == trainer.num_training_batches
        if last or progress % trainer.accumulate_grad_batches == 0:
            self.step = self.window.close(pl_module, trainer.accumulate_grad_batches)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient, and log the step or leave it out."""
        norm = total_norm(p.grad for p in pl_module.parameters() if p.grad is not None)
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # which itself leaves out what overflows
            batch_idx = trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
            self.guard.watch_gradient(norm, trainer.global_step, batch_idx, replicas_of(pl_module))
        if not _raises(pl_module):
            fault = self.guard.fault()
            if fault is not None:
                self._skip(pl_module, optimizer, fault)
        elif read_at_once(norm):
            self._read(pl_module)
        if self.step is not None:
            self._log_step(trainer, pl_module, norm, self.step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a last step that has spoilt the weights, before anything is saved.

        Raises:
            ValueError: if it has.
        """
        self.check(pl_module)

    def check(self, module: LightningModule, averaged: Iterable[Tensor] = ()) -> None:
        """Refuse to end, or to save, if a number of the run isn't finite; every rank must ask.

        Args:
            module: the model.
            averaged: weights that are to be saved beside the model's own.

        Raises:
            ValueError: naming number, step, batch and ranks.
        """
        if _raises(module):
            self._read(module)
        finite = all(bool(torch.isfinite(total_norm(tensors))) for tensors in (module.parameters(), averaged))
        buffer = spoilt_buffer(module)
        if not module.trainer.strategy.reduce_boolean_decision(finite and buffer is None, all=True):
            what = "the weights are" if buffer is None else f"the weights, such as {buffer}, are"
            raise ValueError(
                f"{what} no numbers after {module.trainer.global_step} steps, or so large that their squares "
                f"aren't{self._reason(module)}{REMEDY}"
            )

    def report(self, stage: str, dataloader_idx: int, module: LightningModule) -> BoundReport:
        """The report of one loader of an evaluation.

        Args:
            stage: "val" or "test".
            dataloader_idx: which loader.
            module: the model.
        """
        key = (stage, dataloader_idx)
        if key not in self._reports:
            report = BoundReport(stage, noise_levels=stage == "val").to(module.device)
            report.sum_over(replicas_of(module).group)
            self._reports[key] = report
        return self._reports[key]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new reports."""
        self._reports.clear()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the bound, its standard error, and the cross-entropy by noise level, for each loader."""
        self._log_reports("val", pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new reports."""
        self._reports.clear()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the bound and its standard error, for each loader."""
        self._log_reports("test", pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on counting from."""
        return {"tokens_seen": int(self.tokens_seen), "skipped_steps": self.guard.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.tokens_seen = torch.tensor(state_dict["tokens_seen"], dtype=torch.float64)
        self.guard.skipped = state_dict["skipped_steps"]

    def _log_step(self, trainer: Trainer, module: LightningModule, norm: Tensor, step: Totals) -> None:
        self.tokens_seen = self.tokens_seen.to(step.tokens.device) + step.tokens
        if self._logs(trainer):
            if not float(step.maskable) and not self._warned:
                self._warned = True
                rank_zero_warn(
                    f"no token of step {trainer.global_step} may change: labels are -100 everywhere, or maskable is "
                    "false, so nothing is learned from it"
                )
            values = {
                "train/grad_norm": norm,
                "train/masked_share": step.scored / step.maskable.clamp(min=1.0),
                "train/tokens_seen": self.tokens_seen,
                **{f"train/{name}": value for name, value in step.means.items()},
            }
            module.log_dict({name: value.float() for name, value in values.items()})
            module.log("train/loss", step.loss.float(), prog_bar=True)

    def _log_reports(self, stage: str, module: LightningModule) -> None:
        for index, name in enumerate(loader_names(module.trainer, stage)):
            report = self.report(stage, index, module)  # every rank has all of them, also those without a batch
            for key, value in report.compute(bytes_per_token(module.trainer, stage, name)).items():
                whole = f"{key}/{name}" if name else key
                shown = key.endswith(("/nll", "/bits_per_byte"))
                module.log(whole, value, prog_bar=shown, add_dataloader_idx=False)
        self._reports.clear()

    def _read(self, module: LightningModule) -> None:
        fault = self.guard.fault()
        if fault is not None:
            raise ValueError(f"{fault}{self._reason(module)}{REMEDY}")

    def _reason(self, module: LightningModule) -> str:
        parameters = list(module.parameters())
        spoilt = not bool(torch.isfinite(total_norm(parameters)))
        return underflow(parameters, module.trainer.optimizers) if spoilt else ""

    def _skip(self, module: LightningModule, optimizer: torch.optim.Optimizer, fault: str) -> None:
        """Leave a step out: without gradients an optimiser changes neither weights nor its state.

        Raises:
            ValueError: if it is the weights that are spoilt, so that no later step would be better.
        """
        self.check(module)
        self.guard.skipped += 1
        self.step = None
        optimizer.zero_grad(set_to_none=True)
        rank_zero_warn(f"{fault}; the optimiser step is left out, {self.guard.skipped} so far")
        module.log("train/skipped_steps", float(self.guard.skipped))

    def _logs(self, trainer: Trainer) -> bool:
        """Whether this step is one to log: logging takes a millisecond, which matters in small models."""
        step = trainer.global_step + 1
        last = trainer.is_last_batch or step == trainer.max_steps
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self._is_monitored or last or (every > 0 and step % every == 0)


def replicas_of(module: LightningModule) -> Replicas:
    """Who sees which rows."""
    return replicas(module.device_mesh, module.trainer.world_size, module.trainer.global_rank)


def read_at_once(tensor: Tensor) -> bool:
    """Whether reading a number waits for nothing."""
    return tensor.device.type == "cpu"


def _raises(module: Any) -> bool:
    return bool(module.on_nonfinite == "raise")

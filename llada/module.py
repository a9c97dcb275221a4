"""DiffusionLM: one backbone, one process, one objective, one sampler, trained by the Lightning Trainer.

The maths is one hop away: `training_step` calls the objective (`llada.objectives`), `generate` the sampler
(`llada.samplers`). What validation and test report is in `llada.metrics.bound_report`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from llada.checkpoints.changes import ChangedParts
from llada.checkpoints.checkpoint import PARTS_KEY, check_tokenizer, restore, stored_parts
from llada.checkpoints.describe import check_describable
from llada.checkpoints.known import trusting
from llada.checkpoints.released import Pretrained, read_mdlm_checkpoint, read_pretrained, write_pretrained
from llada.denoiser import Denoiser, as_denoiser
from llada.heads.head_loss import Chunked, HeadLoss
from llada.metrics import (
    BoundReport,
    ConditionalLikelihood,
    LikelihoodEstimate,
    NextTokenLikelihood,
    greedy_match,
    next_token_greedy_match,
)
from llada.metrics.pairs import Tokens
from llada.objectives import NELBO, Objective, ObjectiveOutput, default_bound
from llada.process import MaskingProcess, Process
from llada.random import RowRandom
from llada.samplers import Sample, Sampler, Step, low_confidence
from llada.training.callbacks.resume_point import ResumePoint
from llada.training.groups import parameter_groups
from llada.training.guard import FiniteGuard
from llada.training.parallel import Replicas, place, replicas
from llada.training.window import AccumulationWindow

if TYPE_CHECKING:
    from llada.data.batch import TokenBatch

TRAINING, EVALUATION = range(2)
"""Tags of the random streams of a run."""


class DiffusionLM(LightningModule):
    """A masked diffusion language model.

    Args:
        backbone: tokens (B, L) -> logits (B, L, V), best with `hidden` and `head` (see `llada.denoiser.Backbone`).
            One that was built under ``torch.device("meta")`` gets its weights when the Trainer starts.
        process: the forward process, shared by training and sampling.
        objective: what training minimises.
        bound: what validation and test report, whatever is minimised; None: the bound of the process with the least
            variance, see `llada.objectives.default_bound`.
        bound_draws: noise draws per row in validation and test; their mean is the row's estimate.
        sampler: what `generate` and ``predict`` use.
        optimizer: makes an optimiser from parameter groups. Matrices get its weight decay; vectors (norms, biases)
            none.
        lr_scheduler: makes a learning-rate scheduler from the optimiser; stepped once per optimiser step. None:
            constant.
        seed: of the training and evaluation noise, and of weights that are made when the Trainer starts. The noise of a
            row follows from seed, step and the row's place in the global batch, so that it resumes exactly and doesn't
            depend on the number of ranks.
        head_loss: how the loss of the vocabulary head is computed, see `llada.heads.head_loss`.
        approximate_bound: accept a ``bound`` that lacks a part of the noise levels, and report its number all the same.

    Raises:
        ValueError: if ``bound`` isn't a bound under this process, asks for a causal and shifted backbone and this one
            isn't, or ``bound_draws`` is less than 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: Process,
        objective: Objective = NELBO(),  # noqa: B008 - frozen
        bound: Objective | None = None,
        bound_draws: int = 1,
        sampler: Sampler = low_confidence(),  # noqa: B008 - frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        head_loss: HeadLoss = Chunked(),  # noqa: B008 - frozen
        approximate_bound: bool = False,
    ) -> None:
        super().__init__()
        if bound_draws < 1:
            raise ValueError(f"bound_draws must be 1 or more; got {bound_draws}")
        bound = default_bound(process) if bound is None else bound
        gap = bound.bound_gap(process)
        if gap is not None and not approximate_bound:
            raise ValueError(
                f"bound={bound} is no bound: {gap}. Leave it out for {default_bound(process)}, or set "
                "approximate_bound=True to report its number all the same"
            )
        blind = [name for name in ("causal", "shift") if not getattr(backbone, name, True)]
        if bound.left_to_right and blind:
            raise ValueError(
                f"{type(backbone).__name__} has {blind[0]}=False, so it would see the token that it has to predict; "
                "build it with causal=True, shift=True"
            )
        self.backbone, self.process, self.objective, self.bound = backbone, process, objective, bound
        self.bound_draws, self.sampler, self.seed = bound_draws, sampler, seed
        self.optimizer, self.lr_scheduler, self.head_loss = optimizer, lr_scheduler, head_loss
        self.approximate_bound = approximate_bound
        self.pretrained_config: dict[str, Any] = {}
        self._window, self._guard = AccumulationWindow(), FiniteGuard()
        self._num_predicted = 0
        self.val_report, self.test_report = BoundReport("val", noise_levels=True), BoundReport("test")

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """Logits of every position.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool, true for real tokens; None: all.
            model_kwargs: for the backbone.

        Returns:
            (B, L, V).
        """
        if attention_mask is not None:
            model_kwargs["attention_mask"] = attention_mask
        return as_denoiser(self.backbone).logits(tokens, **model_kwargs)

    def configure_model(self) -> None:
        """Split the backbone if the strategy is a ``ModelParallelStrategy``, and make the weights that it hasn't yet.

        The Trainer calls this once there are processes and devices.
        """
        dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        place(self.backbone, self.device_mesh, self.trainer.strategy.root_device, self.seed, dtype)
        for report in (self.val_report, self.test_report):
            report.sum_over(self._replicas().group)

    def configure_callbacks(self) -> list[Callback]:
        """What every training needs beside the Trainer's own callbacks."""
        given = [] if self._trainer is None else self._trainer.callbacks  # type: ignore[attr-defined]
        compares = any(isinstance(callback, ChangedParts) for callback in given)
        return [ResumePoint()] if compares else [ResumePoint(), ChangedParts()]

    def on_fit_start(self) -> None:
        """Train in training mode, also a model that was loaded for evaluation; refuse what no checkpoint could hold."""
        check_describable(self)
        self.train()

    def training_step(self, batch: "TokenBatch", batch_idx: int) -> Tensor:
        """The loss of one micro-batch: numerator over the global batch's denominator."""
        window, step = self.trainer.accumulate_grad_batches, self.trainer.global_step
        random = self._random(TRAINING, step, len(batch["tokens"]), batch_idx % window, window)
        output = self.objective(self._denoiser, self.process, batch, random=random)
        loss = self._window.divide(output.numerator, output.denominator, self._replicas())
        self._guard.watch(loss, step)
        self.log("train/loss", output.loss.detach(), prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the accumulated gradient by the sum of the window's denominators instead of the first one's."""
        self._window.close(self, self.trainer.accumulate_grad_batches)

    def validation_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the report."""
        self.val_report.update(self._bound_draws(batch, batch_idx))

    def on_validation_epoch_end(self) -> None:
        """Log the bound, its standard error, and the cross-entropy by noise level."""
        self._log_report(self.val_report)

    def test_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the report."""
        self.test_report.update(self._bound_draws(batch, batch_idx))

    def on_test_epoch_end(self) -> None:
        """Log the bound and its standard error."""
        self._log_report(self.test_report)

    def predict_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> Sample:
        """Fill the masks of a batch of canvases."""
        rows, ranks = len(batch["tokens"]), self._replicas()
        first = 0 if batch_idx == 0 else self._num_predicted
        self._num_predicted = first + rows
        # Ranks take rows in turn: a row's seed is its place in the data, whatever the batches and ranks.
        place = (first + torch.arange(rows, device=self.device)) * ranks.size + ranks.rank
        return self.generate(batch["tokens"], batch.get("attention_mask"), seed=self.seed + place)

    def configure_optimizers(self) -> Any:
        """The optimiser, and the scheduler if there is one."""
        optimizer = self.optimizer(parameter_groups(self))
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    @torch.no_grad()
    def iterate(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        given: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        seed: int | Tensor = 0,
    ) -> Iterator[Step]:
        """Yield the canvas after every sampling step; arguments as in `generate`."""
        sampler = self.sampler if sampler is None else sampler
        arguments = self._on_device(attention_mask=attention_mask, given=given)
        with self._evaluating():
            yield from sampler.iterate(self.backbone, tokens.to(self.device), self.process, seed=seed, **arguments)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        given: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        seed: int | Tensor = 0,
    ) -> Sample:
        """Fill a canvas.

        Args:
            tokens: (B, L) int64; `llada.samplers.canvas` makes one from prompts.
            attention_mask: (B, L) bool, true for real tokens; needed where rows are padded.
            given: (B, L) bool, true for what stays as it is: prompts, and the padding. None: all but the mask tokens.
            sampler: instead of the module's own.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers.

        Returns:
            Tokens (B, L) and the model calls per row.
        """
        sampler = self.sampler if sampler is None else sampler
        arguments = self._on_device(attention_mask=attention_mask, given=given)
        with self._evaluating():
            return sampler(self.backbone, tokens.to(self.device), self.process, seed=seed, **arguments)

    @property
    def needs_prompt(self) -> bool:
        """Whether an answer can be scored only with at least one token in front of it, as in autoregressive models."""
        return self.bound.left_to_right

    def log_likelihood(
        self,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        seed: int | Tensor = 0,
        estimator: ConditionalLikelihood | None = None,
    ) -> LikelihoodEstimate:
        """Log-likelihoods of answers given prompts.

        A model whose bound is read from left to right gives the exact ones, by one pass over prompt and answer. Others
        give estimates of the bound, exact ones for short answers.

        Args:
            prompts: R sequences of token ids.
            answers: R sequences of token ids, not empty.
            seed: an int, from which pair i gets ``seed + i``, or (R,) int64; pairs of one seed, with answers of one
                length, get the same masks.
            estimator: how they are estimated; None for `ConditionalLikelihood` with its defaults. Where the value is
                exact, only its rows per model call count.

        Returns:
            Log-likelihoods (R,) float64 in nats, with their standard errors: 0 where the value is exact.

        Raises:
            ValueError: if there are no pairs, their numbers differ, or an answer is empty.
        """
        estimator = ConditionalLikelihood() if estimator is None else estimator
        with self._evaluating():
            if self.bound.left_to_right:
                exact = NextTokenLikelihood(estimator.rows_per_call)
                return exact(self.backbone, self.process, prompts, answers, device=self.device)
            return estimator(self.backbone, self.process, prompts, answers, seed=seed, device=self.device)

    def greedy_match(
        self,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        estimator: ConditionalLikelihood | None = None,
    ) -> Tensor:
        """Whether greedy decoding of as many tokens as an answer has gives the answer, (R,) bool.

        Args:
            prompts: R sequences of token ids.
            answers: R sequences of token ids, not empty.
            estimator: its guidance and its rows per model call hold here as well; None for the defaults.

        Raises:
            ValueError: as in `log_likelihood`.
        """
        estimator = ConditionalLikelihood() if estimator is None else estimator
        options: dict[str, Any] = {"rows_per_call": estimator.rows_per_call, "device": self.device}
        with self._evaluating():
            if self.bound.left_to_right:
                return next_token_greedy_match(self.backbone, self.process, prompts, answers, **options)
            options["guidance"] = estimator.guidance
            return greedy_match(self.backbone, self.process, prompts, answers, **options)

    def _on_device(self, **arguments: Tensor | None) -> dict[str, Tensor]:
        """The masks (B, L) that were given, as bool on the model's device."""
        return {name: mask.bool().to(self.device) for name, mask in arguments.items() if mask is not None}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode for as long as a context lasts."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the parts as plain data, and refuse to store a model that a NaN has reached."""
        self._guard.check()
        checkpoint[PARTS_KEY] = stored_parts(self, getattr(self._datamodule(), "tokenizer", None))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another tokenizer than the one that the weights were trained with."""
        tokenizer = getattr(self._datamodule(), "tokenizer", None)
        if tokenizer is not None and PARTS_KEY in checkpoint:
            check_tokenizer(checkpoint, tokenizer, "the checkpoint")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        *,
        strict: bool = True,
        trust: Sequence[str] = (),
        **parts: Any,
    ) -> Self:
        """Rebuild a model from a checkpoint, without repeating its constructor.

        The file tells the class: ``DiffusionLM.load_from_checkpoint`` gives back an `llada.AutoregressiveLM` where one
        was saved, and a subclass of one's own once its module is imported.

        Args:
            checkpoint_path: file that the Trainer wrote.
            map_location: device of the weights; None for the CPU.
            strict: whether every weight must be there.
            trust: installed packages whose classes the file may name, and which are imported for it. Without them, a
                class of one's own must have been imported already.
            parts: constructor arguments that replace the stored ones.

        Returns:
            The model, in evaluation mode; of the stored class, which is this one or a subclass.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file isn't a checkpoint of this class or a subclass, is damaged, or names a class that
                isn't a subclass of the part it would fill.
        """
        with trusting(*trust):
            return restore(cls, checkpoint_path, map_location, parts).make(strict=strict).eval()

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **options: Any) -> Self:
        """Load a released checkpoint: LLaDA, LLaDA-MoE, Dream, MDLM, or an autoregressive LLaMA or Qwen as a start.

        Args:
            folder_or_hub_id: a folder with ``config.json`` and safetensors, a name on the Hugging Face hub (extra
                ``hf``), or a ``.ckpt`` file of MDLM's own training code.
            options: ``dtype``, ``device``, ``revision``, ``mask_token_id``, ``layouts`` (to which one of your own can
                be added) and arguments of the backbone, see `llada.checkpoints.released.read_pretrained`; for a file
                those of `llada.checkpoints.released.read_mdlm_checkpoint`.

        Returns:
            The model in evaluation mode.

        Raises:
            FileNotFoundError: if there is nothing to load.
            ValueError: naming what can't be served.
        """
        read = read_mdlm_checkpoint if Path(folder_or_hub_id).suffix == ".ckpt" else read_pretrained
        loaded = read(folder_or_hub_id, **options)
        model = cls(loaded.backbone, loaded.process)
        model.pretrained_config = loaded.config
        return model.eval()

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Save in the layout of a released checkpoint.

        Args:
            folder: where; an existing one is replaced once the new one is complete.
            options: ``layout`` (a name, or one of your own), ``tokenizer``, ``dtype``, ``max_shard_size``, see
                `llada.checkpoints.released.write_pretrained`.

        Raises:
            ValueError: if the layout has no word for something that this model does.
        """
        if not isinstance(self.process, MaskingProcess):
            raise ValueError(f"released layouts hold masked diffusion models only; {self.process} needs a checkpoint")
        write_pretrained(Pretrained(self.backbone, self.process, self.pretrained_config), folder, **options)

    @property
    def _denoiser(self) -> Denoiser:
        """The backbone as the objective sees it."""
        return as_denoiser(self.backbone, self.head_loss)

    def _bound_draws(self, batch: "TokenBatch", batch_idx: int) -> list[ObjectiveOutput]:
        """Draws of the bound of a batch; the noise of a batch is the same in every epoch."""
        random = self._random(EVALUATION, batch_idx, len(batch["tokens"]), 0, 1)
        return [
            self.bound(self._denoiser, self.process, batch, random=random.fold_in(draw))
            for draw in range(self.bound_draws)
        ]

    def _log_report(self, report: BoundReport) -> None:
        bytes_per_token = getattr(self._datamodule(), f"{report.stage}_bytes_per_token", None)
        for name, value in report.compute(bytes_per_token).items():
            self.log(name, value, prog_bar=name.endswith(("/nll", "/bits_per_byte")))
        report.reset()

    def _replicas(self) -> Replicas:
        return replicas(self.device_mesh, self.trainer.world_size, self.trainer.global_rank)

    def _random(self, tag: int, step: int, num_local: int, micro: int, window: int) -> RowRandom:
        """Streams for the local rows: row i of rank r in micro-batch m is number (m B + i) W + r of the global batch.

        Ranks take samples in turn, as `DistributedSampler` hands them out, so this is the order of the data.
        """
        world, rank, _ = self._replicas()
        rows = (micro * num_local + torch.arange(num_local, device=self.device)) * world + rank
        return RowRandom.for_step(self.seed, step, rows, window * num_local * world).fold_in(tag)

    def _datamodule(self) -> Any:
        return getattr(self._trainer, "datamodule", None) if self._trainer is not None else None

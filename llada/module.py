"""DiffusionLM: one backbone, one process, one objective, one sampler, trained by the Lightning Trainer.

The maths is one hop away: `training_step` calls the objective (`llada.objectives`), `generate` the sampler
(`llada.samplers`). What validation and test do with the bound is in `llada.bound_report`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from llada.bound_report import BoundReport
from llada.checkpoints.checkpoint import PARTS_KEY, check_tokenizer, restore, stored_parts
from llada.checkpoints.released import Pretrained, read_mdlm_checkpoint, read_pretrained, write_pretrained
from llada.denoiser import as_denoiser
from llada.heads.head_loss import Chunked, HeadLoss
from llada.objectives import ExactCountNELBO, MaskedNELBO, Objective, ObjectiveOutput
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import Sample, Sampler, Step, low_confidence
from llada.training.parallel import Replicas, place, replicas
from llada.training.steps import AccumulationWindow, FiniteGuard, parameter_groups

if TYPE_CHECKING:
    from llada.data.batch import TokenBatch

TRAINING, EVALUATION = range(2)
"""Tags of the random streams of a run."""


class DiffusionLM(BoundReport):
    """A masked diffusion language model.

    Args:
        backbone: tokens (B, L) -> logits (B, L, V), best with `hidden` and `head` (see `llada.denoiser.Backbone`).
            One that was built under ``torch.device("meta")`` gets its weights when the Trainer starts.
        process: the forward process, shared by training and sampling.
        objective: what training minimises.
        bound: what validation and test report, whatever is minimised. Its ``nelbo`` must be a bound.
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
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: MaskingProcess,
        objective: Objective = MaskedNELBO(),  # noqa: B008 - frozen
        bound: Objective = ExactCountNELBO(),  # noqa: B008 - frozen
        bound_draws: int = 1,
        sampler: Sampler = low_confidence(),  # noqa: B008 - frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        head_loss: HeadLoss = Chunked(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if bound_draws < 1:
            raise ValueError(f"bound_draws must be 1 or more; got {bound_draws}")
        self.backbone, self.process, self.objective, self.bound = backbone, process, objective, bound
        self.bound_draws, self.sampler, self.seed = bound_draws, sampler, seed
        self.optimizer, self.lr_scheduler, self.head_loss = optimizer, lr_scheduler, head_loss
        self.pretrained_config: dict[str, Any] = {}
        self._window, self._guard = AccumulationWindow(), FiniteGuard()

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
        self.sum_over(self._replicas().group)

    def on_fit_start(self) -> None:
        """Train in training mode, also a model that was loaded for evaluation."""
        self.train()

    def training_step(self, batch: "TokenBatch", batch_idx: int) -> Tensor:
        """The loss of one micro-batch: numerator over the global batch's denominator."""
        window, step = self.trainer.accumulate_grad_batches, self.trainer.global_step
        random = self._random(TRAINING, step, len(batch["tokens"]), batch_idx % window, window)
        output = self._run_objective(self.objective, batch, random)
        loss = self._window.divide(output.numerator, output.denominator, self._replicas())
        self._guard.watch(loss, step)
        self.log("train/loss", output.loss.detach(), prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the accumulated gradient by the sum of the window's denominators instead of the first one's."""
        self._window.close(self, self.trainer.accumulate_grad_batches)

    def evaluate(self, batch: "TokenBatch", batch_idx: int) -> list[ObjectiveOutput]:
        """See `BoundReport`; the noise of a batch is the same in every epoch."""
        random = self._random(EVALUATION, batch_idx, len(batch["tokens"]), 0, 1)
        return [self._run_objective(self.bound, batch, random.fold_in(draw)) for draw in range(self.bound_draws)]

    def predict_step(self, batch: "TokenBatch", batch_idx: int, dataloader_idx: int = 0) -> Sample:
        """Fill the masks of a batch of canvases."""
        rows = len(batch["tokens"])
        ranks = self._replicas()
        first = (batch_idx * ranks.size + ranks.rank) * rows
        return self.generate(batch["tokens"], batch.get("attention_mask"), seed=self.seed + first)

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
        arguments = {} if attention_mask is None else {"attention_mask": attention_mask.bool().to(self.device)}
        fixed = None if given is None else given.to(self.device)
        training = self.training
        self.eval()
        try:
            yield from sampler.iterate(
                self.backbone, tokens.to(self.device), self.process, given=fixed, seed=seed, **arguments
            )
        finally:
            self.train(training)

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
        """Fill the masks of a canvas.

        Args:
            tokens: (B, L) int64; `llada.samplers.canvas` makes one from prompts.
            attention_mask: (B, L) bool, true for real tokens; needed where rows are padded.
            given: (B, L) bool, positions that are never written. None: all that don't hold the mask token.
            sampler: instead of the module's own.
            seed: an int, from which row i gets ``seed + i``, or (B,) integers.

        Returns:
            Tokens (B, L) and the model calls per row.
        """
        sampler = self.sampler if sampler is None else sampler
        arguments = {} if attention_mask is None else {"attention_mask": attention_mask.bool().to(self.device)}
        fixed = None if given is None else given.to(self.device)
        training = self.training
        self.eval()
        try:
            return sampler(self.backbone, tokens.to(self.device), self.process, given=fixed, seed=seed, **arguments)
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
        cls, checkpoint_path: Any, map_location: Any = None, *, strict: bool = True, **parts: Any
    ) -> "DiffusionLM":
        """Rebuild a model from a checkpoint, without repeating its constructor.

        Args:
            checkpoint_path: file that the Trainer wrote.
            map_location: device of the weights; None for the CPU.
            strict: whether every weight must be there.
            parts: constructor arguments that replace the stored ones.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: if the file isn't a checkpoint of this class, is damaged, or names a class that isn't a subclass
                of the part it would fill.
        """
        arguments, weights = restore(cls, checkpoint_path, map_location, parts)
        model = cls(**arguments)
        model.load_state_dict(weights, strict=strict)
        return model.eval()

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **options: Any) -> "DiffusionLM":
        """Load a released checkpoint: LLaDA, LLaDA-MoE, Dream, MDLM, or an autoregressive LLaMA or Qwen as a start.

        Args:
            folder_or_hub_id: a folder with ``config.json`` and safetensors, a name on the Hugging Face hub (extra
                ``hf``), or a ``.ckpt`` file of MDLM's own training code.
            options: ``dtype``, ``device``, ``revision``, ``mask_token_id`` and arguments of the backbone, see
                `llada.checkpoints.released.read_pretrained`; for a file those of `llada.checkpoints.released.read_mdlm_checkpoint`.

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
            options: ``layout``, ``tokenizer``, ``dtype``, ``max_shard_size``, see `llada.checkpoints.released.write_pretrained`.

        Raises:
            ValueError: if the layout has no word for something that this model does.
        """
        write_pretrained(Pretrained(self.backbone, self.process, self.pretrained_config), folder, **options)

    def _run_objective(self, objective: Objective, batch: "TokenBatch", random: RowRandom) -> ObjectiveOutput:
        arguments = {name: batch[name] for name in ("attention_mask", "segment_ids") if batch.get(name) is not None}
        return objective(
            as_denoiser(self.backbone, self.head_loss),
            self.process,
            batch["tokens"],
            batch.get("maskable"),
            random=random,
            **arguments,
        )

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

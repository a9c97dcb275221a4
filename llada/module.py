"""DiffusionLM: one backbone, one process, one objective, one sampler, trained by the Lightning Trainer.

The maths is one hop away: `training_step` calls the objective (`llada.objectives`), `generate` the sampler
(`llada.inference`, `llada.samplers`). What goes on around a step, and what is logged, is in `llada.training.loop`;
loading and saving are in `llada.checkpoints.loading`.
"""

from typing import Any, Self

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from llada.built import check_built, check_called
from llada.checkpoints.checkpoint import PARTS_KEY, check_tokenizer, stored_parts
from llada.checkpoints.loading import Loading
from llada.checkpoints.resumable import check_resumable
from llada.data.batch import TokenBatch
from llada.data.foreign import as_token_batch
from llada.denoiser import Denoiser, as_denoiser
from llada.heads.head_loss import Chunked, HeadLoss
from llada.inference import Inference
from llada.objectives import NELBO, Objective, ObjectiveOutput, default_bound
from llada.process import Process
from llada.random import RowRandom
from llada.samplers import Sample, Sampler, low_confidence
from llada.training.attach import attach, keep_in_float32
from llada.training.compiling import compile_blocks, without_compiler
from llada.training.groups import learning_rate, made, parameter_groups, with_learning_rate
from llada.training.guard import OnNonfinite
from llada.training.hyperparameters import describe_hyperparameters
from llada.training.loop import TrainingLoop, replicas_of
from llada.training.lr_schedulers import scheduler_config
from llada.training.parallel import place

TRAINING, EVALUATION = range(2)
"""Tags of the random streams of a run."""


class DiffusionLM(Inference, Loading):
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
            none. PyTorch's own are fused on CUDA, unless ``fused`` or ``foreach`` is given.
        lr_scheduler: makes a learning-rate scheduler from the optimiser; stepped once per optimiser step, or as
            `llada.training.lr_schedulers.scheduler_config` reads from it. None: constant.
        seed: of the training and evaluation noise, and of weights that are made when the Trainer starts. The noise of a
            row follows from seed, step and the row's place in the global batch, so that it resumes exactly and doesn't
            depend on the number of ranks.
        head_loss: how the loss of the vocabulary head is computed, see `llada.heads.head_loss`.
        approximate_bound: accept a ``bound`` that lacks a part of the noise levels, and report its number all the same.
        on_nonfinite: what happens where the loss, the gradient or the weights are no longer numbers: "raise" ends the
            run before anything is saved; "skip" leaves such an optimiser step out and counts it.

    Raises:
        ValueError: if ``bound`` isn't a bound under this process, asks for a causal and shifted backbone and this one
            isn't, ``bound_draws`` is less than 1, or ``on_nonfinite`` is another word.

    Examples:
        >>> import torch
        >>> from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
        >>> from llada.samplers import low_confidence
        >>> backbone = BidirectionalTransformer(vocab_size=9, width=8, num_layers=1, num_heads=2)
        >>> model = DiffusionLM(backbone, MaskingProcess(mask_token_id=8), sampler=low_confidence(steps=2)).eval()
        >>> sample = model.generate(torch.tensor([[1, 8, 8, 8, 2]]))  # Trainer(...).fit(model, data) comes first
        >>> sample.calls, sample.tokens[0, 0], sample.tokens[0, 4], 8 in sample.tokens
        (tensor([2]), tensor(1), tensor(2), False)
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
        on_nonfinite: OnNonfinite = "raise",
    ) -> None:
        super().__init__()
        for name, part, kind in (
            ("backbone", backbone, nn.Module),
            ("process", process, Process),
            ("objective", objective, Objective),
            ("bound", bound, Objective | None),
            ("sampler", sampler, Sampler),
            ("head_loss", head_loss, object),
        ):
            check_built(name, part, kind)
        check_called(optimizer=optimizer, lr_scheduler=lr_scheduler)
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f'on_nonfinite must be "raise" or "skip"; got {on_nonfinite!r}')
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
        self.approximate_bound, self.on_nonfinite = approximate_bound, on_nonfinite
        self.pretrained_config = {}
        self.training_loop = TrainingLoop()
        self._num_predicted, self._loaded = 0, False

    def __setattr__(self, name: str, value: Any) -> None:
        """Take ``torch.compile(backbone)`` for a backbone with compiled blocks."""
        super().__setattr__(name, without_compiler(value) if name == "backbone" else value)

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the blocks of the backbone in place; arguments as those of `torch.compile`, of which these are."""
        compile_blocks(self.backbone, *arguments, **options)

    def cpu(self) -> Self:
        """As of any module; one whose run was refused before it had weights has none to move, and stays as it is."""
        return self if any(parameter.is_meta for parameter in self.parameters()) else super().cpu()

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

    @LightningModule.trainer.setter  # type: ignore[attr-defined, untyped-decorator]
    def trainer(self, trainer: Trainer | None) -> None:
        """Called by the Trainer first of all; no hook, so that nobody overrides it."""
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        if trainer is not None and trainer.lightning_module is self:
            attach(self, trainer, DiffusionLM)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one micro-batch: numerator over the global batch's denominator."""
        rows, window = self._rows(batch), self.trainer.accumulate_grad_batches
        micro, step, size = batch_idx % window, self.trainer.global_step, len(rows["tokens"])
        before = self.training_loop.window.num_rows if micro else 0
        random = self._random(TRAINING, step, size, micro, window, before)
        output = self.objective(self._denoiser, self.process, rows, random=random)
        return self.training_loop.loss(self, rows, batch_idx, output)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the report of its loader."""
        self.training_loop.report("val", dataloader_idx, self).update(self._bound_draws(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the report of its loader."""
        self.training_loop.report("test", dataloader_idx, self).update(self._bound_draws(batch, batch_idx))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Sample:
        """Fill the masks of a batch of canvases."""
        canvases, ranks = self._rows(batch), replicas_of(self)
        rows = len(canvases["tokens"])
        first = 0 if batch_idx == 0 else self._num_predicted
        self._num_predicted = first + rows
        # Ranks take rows in turn: a row's seed is its place in the data, whatever the batches and ranks.
        place = (first + torch.arange(rows, device=self.device)) * ranks.size + ranks.rank
        hidden = canvases.get("maskable") if self.process.mask_token_id is None else None  # no mask says what is open
        given = None if hidden is None else ~hidden
        return self.generate(canvases["tokens"], canvases.get("attention_mask"), given, seed=self.seed + place)

    @property
    def lr(self) -> float:
        """The optimiser's learning rate, which ``Tuner.lr_find`` reads and sets; a subclass may set it, too."""
        return float(vars(self).get("_lr", learning_rate(self.optimizer)))

    @lr.setter
    def lr(self, value: float) -> None:
        vars(self)["_lr"] = value
        if "optimizer" in vars(self):
            self.optimizer = with_learning_rate(self.optimizer, value)

    def configure_optimizers(self) -> Any:
        """The optimiser, and the scheduler if there is one."""
        optimizer = made(self.optimizer, parameter_groups(self))
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": scheduler_config(self.lr_scheduler(optimizer))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the parts as plain data, and refuse to store a model that a NaN has reached."""
        averaged = checkpoint["state_dict"].values() if "current_model_state" in checkpoint else ()
        self.training_loop.check(self, averaged)
        checkpoint[PARTS_KEY] = stored_parts(self, getattr(self._datamodule(), "tokenizer", None))
        describe_hyperparameters(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from a file that lacks something, or with another tokenizer than the weights' own."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_resumable(checkpoint, self.trainer, self.state_dict())
        tokenizer = getattr(self._datamodule(), "tokenizer", None)
        if tokenizer is not None and PARTS_KEY in checkpoint:
            check_tokenizer(checkpoint, tokenizer, "the checkpoint")

    @property
    def _denoiser(self) -> Denoiser:
        """The backbone as the objective sees it."""
        return as_denoiser(self.backbone, self.head_loss)

    def _place(self) -> None:
        """Trained weights in float32 under mixed precision; split the backbone, and make the weights that it hasn't."""
        keep_in_float32(self)
        dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        shard_size = getattr(self.trainer.strategy, "shard_size", None)
        device, weights = self.trainer.strategy.root_device, vars(self).get("initial_weights")
        place(self.backbone, self.device_mesh, device, self.seed, dtype, shard_size, weights)

    def _rows(self, batch: Any) -> TokenBatch:
        """A batch as the model takes it."""
        return as_token_batch(batch, getattr(self.backbone, "vocab_size", None))

    def _bound_draws(self, batch: Any, batch_idx: int) -> list[ObjectiveOutput]:
        """Draws of the bound of a batch; the noise of a batch is the same in every epoch, and for every loader."""
        rows = self._rows(batch)
        random = self._random(EVALUATION, batch_idx, len(rows["tokens"]), 0, 1, 0)
        return [
            self.bound(self._denoiser, self.process, rows, random=random.fold_in(draw))
            for draw in range(self.bound_draws)
        ]

    def _random(self, tag: int, step: int, num_local: int, micro: int, window: int, before: int) -> RowRandom:
        """Streams for the local rows: row i of rank r in micro-batch m is number (m B + i) W + r of the global batch.

        Ranks take samples in turn, as `DistributedSampler` hands them out, so this is the order of the data. Where
        micro-batches have other sizes than this one's B, that is a row's stratum alone, and its stream has the number
        (n + i) W + r, with the n rows that came before in this step: no two rows of it share a stream.
        """
        world, rank, _ = replicas_of(self)
        local = torch.arange(num_local, device=self.device)
        rows, numbers = (micro * num_local + local) * world + rank, (before + local) * world + rank
        return RowRandom.for_step(self.seed, step, rows, window * num_local * world, numbers).fold_in(tag)

    def _datamodule(self) -> Any:
        return getattr(self._trainer, "datamodule", None) if self._trainer is not None else None

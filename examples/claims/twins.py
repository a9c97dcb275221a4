"""The pair that every claim compares: one Transformer, two objectives; the same rows and optimiser.

    recipe = Recipe(vocab_size=100, mask_token_id=99)
    for name, make in TWINS.items():            # "masked diffusion" and "next token"
        model = make(recipe, seed)              # a DiffusionLM; seeds of one number start from the same weights
        fit(model, Rows(tokens, maskable), Training(steps=500), seed)      # again for fine-tuning, with other rows
        answers = write(model, rows, answer)    # greedily, where whole rows have their answers hidden
        nats = log_likelihood(model, tokens, answer)   # log p(answer | rest before it), nats per row

The twins have the same parameters, batches, number of steps and so tokens seen. They differ in the attention mask, the
shift of the output by one position, and the loss.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.autoregressive import AutoregressiveLM
from llada.cli.quiet import quiet
from llada.metrics import next_token_log_likelihood
from llada.objectives import masked_mean
from llada.samplers import low_confidence
from llada.training.lr_schedulers import WarmupCosine

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # many small runs; nothing to say of each
warnings.filterwarnings("ignore", module="lightning")

QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


@dataclass(frozen=True)
class Recipe:
    """Architecture of both twins, and what one of them needs besides.

    Args:
        vocab_size: V, the mask included.
        mask_token_id: of the diffusion model; the next-token twin never reads it.
        width: D.
        num_layers: blocks.
        num_heads: query heads.
        convolution: window of the short convolution, causal in the next-token twin; 0 for none.
        t_min: lowest noise level that the diffusion model trains on.
        t_max: highest.
        tie_embeddings: whether the head's matrix is the embedding's.
    """

    vocab_size: int
    mask_token_id: int
    width: int = 96
    num_layers: int = 3
    num_heads: int = 4
    convolution: int = 0
    t_min: float = 0.0
    t_max: float = 1.0
    tie_embeddings: bool = True

    def backbone(self, **options: Any) -> BidirectionalTransformer:
        """A fresh Transformer; ``options`` are those in which the twins differ."""
        return BidirectionalTransformer(
            self.vocab_size,
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            convolution=self.convolution,
            tie_embeddings=self.tie_embeddings,
            **options,
        )


@dataclass(frozen=True)
class Training:
    """One stage of training, the same for both twins.

    Args:
        steps: of the optimiser.
        batch_size: rows per step.
        rate: peak of the learning rate: a twentieth of the steps up, then a cosine down to 0.
        weight_decay: of AdamW, on matrices.
    """

    steps: int
    batch_size: int = 64
    rate: float = 3e-3
    weight_decay: float = 0.01


def masked_diffusion(recipe: Recipe, seed: int) -> DiffusionLM:
    """LLaDA in small: every token sees every token, and masked tokens are predicted."""
    torch.manual_seed(seed)
    return DiffusionLM(
        recipe.backbone(),
        MaskingProcess(recipe.mask_token_id),
        objective=masked_mean(recipe.t_min, recipe.t_max),
        sampler=low_confidence(steps=256),  # more steps than masks: one token per step
        seed=seed,
    )


def next_token(recipe: Recipe, seed: int) -> DiffusionLM:
    """The control: tokens see earlier ones only, and each predicts its successor."""
    torch.manual_seed(seed)
    backbone = recipe.backbone(causal=True, shift=True)
    return AutoregressiveLM(backbone, MaskingProcess(recipe.mask_token_id), seed=seed)


TWINS: dict[str, Callable[[Recipe, int], DiffusionLM]] = {
    "masked diffusion": masked_diffusion,
    "next token": next_token,
}
DIFFUSION, NEXT_TOKEN = TWINS


@dataclass(frozen=True)
class Rows:
    """Training rows: tokens (N, L) int64, and maskable (N, L) bool, false for prompts and padding; None: all."""

    tokens: Tensor
    maskable: Tensor | None = None

    def batches(self, training: Training, seed: int) -> DataLoader[dict[str, Tensor]]:
        """Rows for all steps, drawn in epochs of their own order; the same for both twins."""
        generator = torch.Generator().manual_seed(seed)
        wanted, rows = training.steps * training.batch_size, len(self.tokens)
        epochs = [torch.randperm(rows, generator=generator) for _ in range(-(-wanted // rows))]
        maskable = torch.ones_like(self.tokens, dtype=torch.bool) if self.maskable is None else self.maskable
        groups = torch.cat(epochs)[:wanted].view(training.steps, training.batch_size)
        batches = [{"tokens": self.tokens[group], "maskable": maskable[group]} for group in groups]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@quiet()
def fit(model: DiffusionLM, rows: Rows, training: Training, seed: int) -> DiffusionLM:
    """Train, from the weights that the model has.

    Args:
        model: one of the twins; changed.
        rows: what it reads.
        training: how long and how fast.
        seed: of the order of rows.
    """
    steps = training.steps
    model.optimizer = partial(
        torch.optim.AdamW, lr=training.rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    model.lr_scheduler = partial(WarmupCosine, warmup_steps=steps // 20, total_steps=steps, final_factor=0.0)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=1, gradient_clip_val=1.0, enable_checkpointing=False, **QUIET
    )
    trainer.fit(model, rows.batches(training, seed))
    return model


def write(model: DiffusionLM, rows: Tensor, answer: Tensor) -> Tensor:
    """Greedy answers to questions, (N, A): what is written where rows like those of training have their answers hidden.

    The diffusion model writes the token it is surest of first, one per call, and reads all the rest of a row: asked in
    a row that ends before its END it is asked something that it never saw. Its twin writes from left to right, and
    isn't given what it couldn't read.

    Args:
        model: one of the twins.
        rows: (N, L) int64, whole ones; what stands in place of the answer isn't looked at.
        answer: (L,) bool, one stretch.
    """
    hidden = rows.masked_fill(answer, model.process.mask_token_id)
    if isinstance(model, AutoregressiveLM):
        answer = answer[: int(answer.nonzero().max()) + 1]
    return model.generate(hidden[:, : len(answer)]).tokens[:, answer]


@torch.no_grad()
def log_likelihood(model: DiffusionLM, tokens: Tensor, answer: Tensor, batch_size: int = 2048) -> Tensor:
    """Log p(answer | the tokens before it) in nats, by the rule that each twin writes by.

    The next-token twin's is exact. The diffusion model's is log p of its answer in one order, left to right with all
    later answer tokens masked: the product of conditionals that a greedy sampler of that order would multiply.

    Args:
        model: one of the twins.
        tokens: (N, L) int64.
        answer: (N, L) bool, one stretch per row.
        batch_size: rows of a model call.

    Returns:
        (N,) float64.
    """
    model.eval()
    if isinstance(model, AutoregressiveLM):
        parts = [
            next_token_log_likelihood(model.backbone, model.process, rows, where)
            for rows, where in zip(tokens.split(batch_size), answer.split(batch_size), strict=True)
        ]
        return torch.cat(parts)
    left = answer.cumsum(1)
    total = torch.zeros(len(tokens), dtype=torch.float64)
    for place in range(1, int(left.max()) + 1):
        masked = answer & (left >= place)
        asked = answer & (left == place)
        total += _masked_token_nats(model, tokens, masked, asked, batch_size)
    return total


def _masked_token_nats(model: DiffusionLM, tokens: Tensor, masked: Tensor, asked: Tensor, batch_size: int) -> Tensor:
    """Sum of log p at the ``asked`` positions when all ``masked`` ones are hidden; (N,)."""
    nats = []
    for rows, hidden, where in zip(*(x.split(batch_size) for x in (tokens, masked, asked)), strict=True):
        logits = model.forward(rows.masked_fill(hidden, model.process.mask_token_id))
        chosen = logits.double().log_softmax(-1).gather(2, rows[..., None])[..., 0]
        nats.append((chosen * where).sum(1))
    return torch.cat(nats)

"""Trajectory distillation: learn to write at once what the teacher writes one after the other, along its own way.

A sampler writes the tokens of a row in some order, `Trajectory`: rank 0 first. In steps of k tokens it comes by the
canvases z_j in which ranks j k and above are masked, and no others. So

    j ~ U{0 .. J - 1},
    loss = mean over tokens i of rank j k .. (j + 1) k - 1 of KL( teacher(x_i | z_i) || student(x_i | z_j) )

where z_i is what the teacher has before it when it takes fewer tokens per step: those of lower rank are written. Where
the order doesn't depend on the text, J times the student's cross-entropy of these tokens has as its mean the exact
negative log-likelihood of the row under that sampler; it is what ``nelbo`` reports.

Reference: for trajectories of a teacher as labels d3LLM's pseudo-trajectories (hao-ai-lab/d3LLM); for soft targets of
what was uncovered on the way Deschenaux & Gulcehre, arXiv 2410.21035.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.heads.soft_targets import Targets
from llada.objectives.design import MASKS, TIMES, Draw, conditioning
from llada.objectives.distillation import Distillation, Lesson, features
from llada.objectives.normaliser import Normaliser, PerScored
from llada.objectives.objective import Batch, model_inputs
from llada.objectives.preference_reference import FrozenCopy
from llada.process import Process, check_maskable
from llada.random import RowRandom
from llada.rows import bit_reversed


class Trajectory(ABC):
    """In which order the tokens of a row are written."""

    blind: bool = True
    """Whether it is the same for all texts of a length."""

    @abstractmethod
    def __call__(self, batch: Batch, maskable: Tensor, random: RowRandom) -> Tensor:
        """Ranks of the maskable tokens, 0, 1, 2, ... in each row; others may have any.

        Args:
            batch: columns by name.
            maskable: (B, L) bool.
            random: the rows' random streams.

        Returns:
            (B, L) int64.
        """


@dataclass(frozen=True)
class SpreadTrajectory(Trajectory):
    """That of `llada.samplers.Spread`: tokens of a step stand far from one another.

    Examples:
        >>> import torch
        >>> from llada.objectives import SpreadTrajectory, TrajectoryDistillation
        >>> from llada.random import RowRandom
        >>> SpreadTrajectory()({}, torch.ones(1, 8).bool(), RowRandom.from_seed(0, 1))
        tensor([[0, 4, 2, 6, 1, 5, 3, 7]])
        >>> objective = TrajectoryDistillation(tokens_per_step=4, trajectory=SpreadTrajectory())
    """

    @override
    def __call__(self, batch: Batch, maskable: Tensor, random: RowRandom) -> Tensor:
        return _ranks(bit_reversed((maskable.cumsum(1) - 1).clamp(min=0), maskable.shape[1]), maskable)


@dataclass(frozen=True)
class RandomTrajectory(Trajectory):
    """A random order, drawn anew.

    Examples:
        >>> import torch
        >>> from llada.objectives import RandomTrajectory, TrajectoryDistillation
        >>> from llada.random import RowRandom
        >>> RandomTrajectory()({}, torch.ones(1, 8).bool(), RowRandom.from_seed(0, 1))
        tensor([[3, 5, 2, 4, 7, 0, 6, 1]])
        >>> objective = TrajectoryDistillation(tokens_per_step=4, trajectory=RandomTrajectory())
    """

    @override
    def __call__(self, batch: Batch, maskable: Tensor, random: RowRandom) -> Tensor:
        return _ranks(random.uniform(maskable.shape[1]), maskable)


@dataclass(frozen=True)
class StoredTrajectory(Trajectory):
    """The batch's column ``rank``, (B, L) integers, in which a sampler wrote the text: with it, any sampler will do.

    Examples:
        >>> from llada.objectives import StoredTrajectory, TrajectoryDistillation
        >>> objective = TrajectoryDistillation(tokens_per_step=4, trajectory=StoredTrajectory(), label_share=0.1)
    """

    blind = False

    @override
    def __call__(self, batch: Batch, maskable: Tensor, random: RowRandom) -> Tensor:
        rank = batch.get("rank")
        if rank is None or rank.shape != maskable.shape:
            raise ValueError("StoredTrajectory() reads the batch's column 'rank', (B, L) integers, which isn't there")
        return _ranks(rank.double(), maskable)


@dataclass(frozen=True)
class TrajectoryDistillation(Distillation):
    """Learn to write ``tokens_per_step`` tokens in a call, in a given order.

    Args:
        tokens_per_step: k, of the student.
        teacher_tokens: tokens that the teacher writes in a call; as many as the student: it sees the student's canvas.
        trajectory: the order.
        label_share: how much of a target is the text's own token, the rest being the teacher's law; in [0, 1]. With 1
            it is the likelihood of the text under that sampler.
        reference: the teacher; `llada.training.callbacks.FrozenReference` makes it of the model at the beginning.
        normaliser: what the sum of divergences is divided by.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from llada.objectives import StoredTrajectory, TrajectoryDistillation
        >>> objective = TrajectoryDistillation(tokens_per_step=8, trajectory=StoredTrajectory())
    """

    tokens_per_step: int = 8
    teacher_tokens: int = 1
    trajectory: Trajectory = field(default_factory=SpreadTrajectory)
    label_share: float = 0.0
    reference: FrozenCopy = field(default_factory=FrozenCopy)
    normaliser: Normaliser = field(default_factory=PerScored)

    def __post_init__(self) -> None:
        if not 1 <= self.teacher_tokens <= self.tokens_per_step:
            raise ValueError(
                "1 <= teacher_tokens <= tokens_per_step is needed; got "
                f"teacher_tokens={self.teacher_tokens}, tokens_per_step={self.tokens_per_step}"
            )
        if not 0.0 <= self.label_share <= 1.0:
            raise ValueError(f"label_share must be in [0, 1]; got {self.label_share}")

    @override
    def lesson(self, student: Denoiser, teacher: Denoiser, process: Process, batch: Batch, random: RowRandom) -> Lesson:
        if process.scatters or process.mask_token_id is None:
            raise ValueError(f"what a step uncovers is known for masked diffusion only; got {process}")
        if batch.get("segment_ids") is not None:
            raise ValueError("packed rows have several trajectories; give rows of one text each")
        x_0 = batch["tokens"]
        maskable = check_maskable(x_0, batch.get("maskable"))
        rank = self.trajectory(batch, maskable, random.fold_in(MASKS))
        number = maskable.sum(1, keepdim=True)
        steps = (number + self.tokens_per_step - 1) // self.tokens_per_step
        first = (random.fold_in(TIMES).uniform(1) * steps).long() * self.tokens_per_step
        masked = maskable & (rank >= first)
        t = masked.sum(1, keepdim=True).double() / number.clamp(min=1)
        draw = Draw(
            x_0=x_0,
            maskable=maskable,
            tokens=x_0.masked_fill(masked, process.mask_token_id),
            scored=masked & (rank < first + self.tokens_per_step),
            t=t,
            bound_weight=steps.double(),
            level=t[:, 0],
            inputs={**conditioning(process, t), **model_inputs(batch)},
        )
        return Lesson(draw, self._targets(teacher, process, draw, rank - first))

    @torch.no_grad()
    def _targets(self, teacher: Denoiser, process: Process, draw: Draw, place: Tensor) -> Targets:
        """Ask the teacher step by step; ``place`` (B, L) is 0 for the first token of the student's step."""
        labels = draw.x_0[draw.scored]
        known: Tensor | None = None
        for begin in range(0, self.tokens_per_step, self.teacher_tokens):
            now = draw.scored & (place >= begin) & (place < begin + self.teacher_tokens)
            if known is not None and not bool(now.any()):
                break
            tokens = torch.where(draw.maskable & (place < begin), draw.x_0, draw.tokens)
            hidden, head = features(teacher, tokens, now, self._inputs(process, draw, place, begin))
            known = hidden.new_zeros(len(labels), hidden.shape[1]) if known is None else known
            known = known.index_put((now[draw.scored],), hidden)
        laws = known
        assert laws is not None
        if self.label_share == 0.0:
            return lambda rows: head(laws[rows])
        return lambda rows: mixed(head(laws[rows]), labels[rows], self.label_share, process.suppressed)

    def _inputs(self, process: Process, draw: Draw, place: Tensor, begin: int) -> dict[str, Tensor]:
        """What the teacher reads beside its tokens: its time is another."""
        left = (draw.maskable & (place >= begin)).sum(1, keepdim=True)
        t = left.double() / draw.maskable.sum(1, keepdim=True).clamp(min=1)
        return {**draw.inputs, **conditioning(process, t)}

    @override
    def bound_gap(self, process: Process) -> str | None:
        if not self.trajectory.blind:
            return f"{type(self.trajectory).__name__} follows the text"
        return None


def mixed(logits: Tensor, labels: Tensor, share: float, suppressed: int | None) -> Tensor:
    """Logarithms of a law that is the labels in part.

    Args:
        logits: (n, V), of the other part.
        labels: (n,) int64.
        share: of the labels.
        suppressed: a token that the softmax leaves out, or None.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if suppressed is not None:
        logits = logits.index_fill(-1, torch.tensor([suppressed], device=logits.device), -torch.inf)
    law = (1.0 - share) * logits.softmax(-1)
    return law.scatter_add(1, labels[:, None], torch.full_like(law[:, :1], share)).log()


def _ranks(values: Tensor, maskable: Tensor) -> Tensor:
    """Places of the maskable tokens by rising values, (B, L) int64."""
    order = values.masked_fill(~maskable, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)

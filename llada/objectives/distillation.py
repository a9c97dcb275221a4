"""What all distillations have in common: a student learns what its teacher says of tokens that it sees more about.

    loss = mean over scored tokens i of KL( teacher's law of x_i || student's law of x_i, given z )

They differ in the canvases: which z the student gets, and what the teacher is shown for each token. That is a `Lesson`;
the divergence of two vocabularies is `llada.heads.soft_targets`.

Shapes: B rows, L tokens of a row, N scored tokens, D width, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from llada.arguments import accepted
from llada.denoiser import BackboneDenoiser, Denoiser, as_denoiser
from llada.heads.cross_entropy import Head
from llada.heads.frame import framed
from llada.heads.soft_targets import Divergence, Targets, soft_target_loss
from llada.objectives.design import Draw
from llada.objectives.normaliser import Normaliser
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.objectives.preference_reference import FrozenCopy
from llada.process import Process
from llada.random import RowRandom
from llada.rows import chosen, flat_indices, placed


@dataclass(frozen=True)
class Lesson:
    """Rows for a student, and what its teacher says of their scored tokens.

    Attributes:
        draw: the rows.
        targets: rows of the N scored tokens -> the teacher's logits, (n, V).
    """

    draw: Draw
    targets: Targets


class Distillation(Objective):
    """A subclass has the attributes as arguments, and says what a `lesson` is.

    Attributes:
        reference: the teacher; `llada.training.callbacks.FrozenReference` makes it of the model at the beginning.
        normaliser: what the sum of divergences is divided by.
    """

    reference: FrozenCopy
    normaliser: Normaliser

    @abstractmethod
    def lesson(self, student: Denoiser, teacher: Denoiser, process: Process, batch: Batch, random: RowRandom) -> Lesson:
        """Draw canvases, and ask the teacher.

        Args:
            student: the model that learns; it isn't run here.
            teacher: the model that is learnt from.
            process: the noise process.
            batch: columns by name.
            random: the rows' random streams.

        Raises:
            ValueError: if the batch or the process doesn't fit.
        """

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        student = as_denoiser(model)
        lesson = self.lesson(student, self.reference.denoiser(), process, columns(batch), random)
        draw = lesson.draw
        scale, denominator = self.normaliser(draw)
        hidden, head = features(student, draw.tokens, draw.scored, draw.inputs)
        weights, labels = chosen(scale, draw.scored), chosen(draw.x_0, draw.scored)

        def loss(head: Head, hidden: Tensor) -> Divergence:
            if process.num_tokens is not None:
                head = FirstColumns(head, process.num_tokens)
            return soft_target_loss(head, hidden, lesson.targets, weights, labels, process.suppressed)

        found = framed(loss, head)(head, hidden)
        nll = placed(found.nll.double(), draw.scored)
        return ObjectiveOutput(
            numerator=found.total,
            denominator=denominator,
            nelbo=(nll * draw.bound_weight).sum(1),
            num_tokens=draw.maskable.sum(1),
            t=draw.level,
            scored_nll=nll.sum(1),
            num_scored=draw.scored.sum(1),
        )


class FirstColumns(nn.Module):
    """A head whose vocabulary ends earlier: logits of the first tokens alone, which are the data's.

    Args:
        head: (n, D) -> (n, V).
        number: K.
    """

    def __init__(self, head: Head, number: int) -> None:
        super().__init__()
        self.head, self.number = head, number

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, K)."""
        return self.head(hidden)[..., : self.number]


def features(
    denoiser: Denoiser, tokens: Tensor, where: Tensor, inputs: dict[str, Tensor]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the head reads at the chosen positions, (N, D), and the head; of a model without one its logits.

    Args:
        denoiser: the model.
        tokens: (B, L) int64.
        where: (B, L) bool, N of them true.
        inputs: what the model reads beside the tokens, such as ``attention_mask`` (B, L) and ``sigma`` (B,).
    """
    if not isinstance(denoiser, BackboneDenoiser):
        return denoiser.logits(tokens, where, **inputs), _itself
    backbone = denoiser.backbone
    arguments = accepted(backbone.hidden, type(backbone).__name__, inputs)
    return backbone.hidden(tokens, select=flat_indices(tokens, where), **arguments), backbone.head


def _itself(logits: Tensor) -> Tensor:
    return logits

"""Self-distillation through time: a student learns to say in one step what its teacher says in several.

    loss = mean over masked tokens i of KL( p_teacher(x_i | z_{k(i)}) || p_student(x_i | z_t) )

z_t is a row at noise level t. From it the teacher takes m ancestral steps that together are one of the student's, z_1 =
z_t, z_2, ..., drawing tokens of its own; k(i) is the step in which it uncovers token i, and the last one for those that
stay masked. Tokens that are written together are drawn as if they were independent, which costs likelihood; the student
learns from what the teacher knew when it had written a part of them. In rounds, the student becomes the teacher of one
with half as many steps.

Reference: Deschenaux & Gulcehre, "Beyond Autoregression: Fast LLMs via Self-Distillation Through Time", arXiv
2410.21035.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import BackboneDenoiser, Denoiser, accepted, as_denoiser, flat_indices
from llada.heads.cross_entropy import Head, chunk_rows, vocab_size
from llada.heads.soft_targets import soft_target_loss
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import Draw, conditioning
from llada.objectives.independent import IndependentMasks
from llada.objectives.normaliser import Normaliser, PerScored
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.objectives.preference_reference import FrozenCopy
from llada.process import Process
from llada.random import RowRandom
from llada.rows import chosen, placed

_COIN, _TOKEN = range(10, 12)


@dataclass(frozen=True)
class SelfDistillation(Objective):
    """Learn to sample in fewer steps.

    Args:
        num_steps: in how many steps the student is to write a row.
        teacher_steps: m, steps of the teacher in one of the student's.
        reference: the teacher; `llada.training.callbacks.FrozenReference` makes it of the model at the beginning.
        times: how noise levels are drawn.
        normaliser: what the sum of divergences is divided by.

    Raises:
        ValueError: if a number of steps is less than 1.
    """

    num_steps: int = 32
    teacher_steps: int = 2
    reference: FrozenCopy = field(default_factory=FrozenCopy)
    times: TimeSampler = field(default_factory=StratifiedTimes)
    normaliser: Normaliser = field(default_factory=PerScored)

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.teacher_steps < 1:
            raise ValueError(f"steps must be 1 or more; got {self.num_steps} and {self.teacher_steps}")

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        if process.scatters:
            raise ValueError(f"what a step uncovers is known for masked diffusion only; got {process}")
        student, teacher = as_denoiser(model), self.reference.denoiser()
        draw = IndependentMasks(self.times)(student, process, columns(batch), random=random)
        scale, denominator = self.normaliser(draw)
        head, known = self.teach(teacher, process, draw, random)
        hidden, own_head = features(student, draw.tokens, draw.scored, draw.inputs)
        found = soft_target_loss(
            own_head,
            hidden,
            lambda rows: head(known[rows]),
            chosen(scale, draw.scored),
            chosen(draw.x_0, draw.scored),
            process.suppressed,
        )
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

    @torch.no_grad()
    def teach(self, teacher: Denoiser, process: Process, draw: Draw, random: RowRandom) -> tuple[Head, Tensor]:
        """The teacher's head, and what it reads for each masked token when that is uncovered, (N, D).

        Args:
            teacher: the model that is learnt from.
            process: masked diffusion.
            draw: the rows at their noise level.
            random: the rows' random streams.
        """
        canvas, left, t = draw.tokens.clone(), draw.scored.clone(), draw.t
        known: Tensor | None = None
        for step in range(self.teacher_steps):
            inputs = {**draw.inputs, **conditioning(process, t)}
            hidden, head = features(teacher, canvas, left, inputs)
            known = hidden if known is None else known.index_put((chosen(left, draw.scored),), hidden)
            if step == self.teacher_steps - 1 or not bool(left.any()):
                break
            s = (t - 1.0 / (self.num_steps * self.teacher_steps)).clamp(min=0.0)
            coin = random.fold_in(_COIN, step).uniform(left.shape[1])
            now = left & (coin < process.schedule.unmask_probability(t, s))
            u = random.fold_in(_TOKEN, step).uniform(left.shape[1])
            canvas[now] = drawn(head, hidden[now[left]], u[now], process.mask_token_id)
            left, t = left & ~now, s.clamp(min=1e-9)
        assert known is not None
        return head, known

    @override
    def bound_gap(self, process: Process) -> str | None:
        return IndependentMasks(self.times).bound_gap(process)


def features(
    denoiser: Denoiser, tokens: Tensor, where: Tensor, inputs: dict[str, Tensor]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the head reads at the chosen positions, (N, D), and the head; of a model without one its logits.

    Args:
        denoiser: the model.
        tokens: (B, L) int64.
        where: (B, L) bool, N of them true.
        inputs: what the model reads beside the tokens.
    """
    if not isinstance(denoiser, BackboneDenoiser):
        return denoiser.logits(tokens, where, **inputs), _itself
    backbone = denoiser.backbone
    arguments = accepted(backbone.hidden, type(backbone).__name__, inputs)
    return backbone.hidden(tokens, select=flat_indices(tokens, where), **arguments), backbone.head


def drawn(head: Head, hidden: Tensor, u: Tensor, mask_token_id: int | None) -> Tensor:
    """Tokens by the head's law without the mask, (n,) int64; a chunk of logits at a time.

    Args:
        head: (n, D) -> (n, V).
        hidden: (n, D).
        u: (n,) float64 in (0, 1), the chance of each.
        mask_token_id: which is never drawn; None if there is none.
    """
    if len(hidden) == 0:
        return torch.zeros(0, dtype=torch.int64, device=hidden.device)
    found = []
    rows = chunk_rows(hidden, vocab_size(head, hidden), None)
    for h, chance in zip(hidden.split(rows), u.split(rows), strict=True):
        logits = head(h).double()
        if mask_token_id is not None:
            logits[:, mask_token_id] = -torch.inf
        mass = logits.softmax(-1).cumsum(-1)
        found.append(torch.searchsorted(mass, (chance[:, None] * mass[:, -1:]).contiguous())[:, 0])
    return torch.cat(found)


def _itself(logits: Tensor) -> Tensor:
    return logits

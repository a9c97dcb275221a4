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

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.heads.cross_entropy import Head, chunk_rows, vocab_size
from llada.noise import StratifiedTimes, TimeSampler
from llada.objectives.design import Draw, conditioning
from llada.objectives.distillation import Distillation, Lesson, features
from llada.objectives.independent import IndependentMasks
from llada.objectives.normaliser import Normaliser, PerScored
from llada.objectives.objective import Batch
from llada.objectives.preference_reference import FrozenCopy
from llada.process import Process
from llada.random import RowRandom
from llada.rows import chosen

_COIN, _TOKEN = range(10, 12)


@dataclass(frozen=True)
class SelfDistillation(Distillation):
    """Learn to sample in fewer steps.

    Args:
        num_steps: in how many steps the student is to write a row.
        teacher_steps: m, steps of the teacher in one of the student's.
        reference: the teacher; `llada.training.callbacks.FrozenReference` makes it of the model at the beginning.
        times: how noise levels are drawn.
        normaliser: what the sum of divergences is divided by.

    Raises:
        ValueError: if a number of steps is less than 1.

    Examples:
        >>> from llada.objectives import SelfDistillation
        >>> sdtt = SelfDistillation(num_steps=32, teacher_steps=2)  # with the callback FrozenReference
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
    def lesson(self, student: Denoiser, teacher: Denoiser, process: Process, batch: Batch, random: RowRandom) -> Lesson:
        if process.scatters:
            raise ValueError(f"what a step uncovers is known for masked diffusion only; got {process}")
        draw = IndependentMasks(self.times)(student, process, batch, random=random)
        head, known = self.teach(teacher, process, draw, random)
        return Lesson(draw, lambda rows: head(known[rows]))

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

"""Discrete consistency distillation: from more noise, say what the teacher says from less noise of the same kind.

    z_t = arg max_y ( r_t [y = x_0] + e_y ),   z_s = arg max_y ( r_s [y = x_0] + e_y ),   s = t - 1 / num_steps,

with the same Gaussian numbers e and the signal-to-noise ratios r of the two times, so that each of z_t, z_s is the row
under uniform noise, and a token that has become clean at t is clean at s. The student reads z_t, the teacher z_s, and

    loss = mean over all tokens i of KL( teacher(x_i | z_s) || student(x_i | z_t) ).

In rounds (`llada.training.callbacks.DistillationRounds`) the student becomes the teacher and the step doubles.

Reference: Sahoo et al., "The Diffusion Duality", arXiv 2506.10892, section 5 and algorithm 1; the released
``Distillation``.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.noise import StratifiedTimes, TimeSampler
from llada.noise.gaussian import ratio_at
from llada.objectives.design import MASKS, TIMES, Draw, conditioning
from llada.objectives.distillation import Distillation, FirstColumns, Lesson, features
from llada.objectives.gaussian import largest
from llada.objectives.normaliser import Normaliser, PerToken
from llada.objectives.objective import Batch, model_inputs
from llada.objectives.preference_reference import FrozenCopy
from llada.process import Process, check_maskable
from llada.random import RowRandom


@dataclass(frozen=True)
class ConsistencyDistillation(Distillation):
    """Learn to sample uniform noise away in fewer steps (Duo's DCD).

    Args:
        num_steps: in how many steps the student is to go from noise to text; the teacher sees a row by one of them
            cleaner.
        reference: the teacher; `llada.training.callbacks.FrozenReference` makes it of the model at the beginning.
        times: how noise levels are drawn, before a step is added to them.
        normaliser: what the sum of divergences is divided by.

    Raises:
        ValueError: if ``num_steps`` is less than 1.

    Examples:
        >>> from llada.objectives import ConsistencyDistillation
        >>> from llada.process import UniformProcess
        >>> duo = ConsistencyDistillation(num_steps=512)  # with the callback FrozenReference
        >>> duo.bound_gap(UniformProcess(4))  # why its loss is no bound
        'it reports cross-entropies of clean tokens, not the divergences of uniform noise'
    """

    num_steps: int = 512
    reference: FrozenCopy = field(default_factory=FrozenCopy)
    times: TimeSampler = field(default_factory=StratifiedTimes)
    normaliser: Normaliser = field(default_factory=PerToken)

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be 1 or more; got {self.num_steps}")

    @override
    def lesson(self, student: Denoiser, teacher: Denoiser, process: Process, batch: Batch, random: RowRandom) -> Lesson:
        number = process.num_tokens
        if number is None or process.mask_token_id is not None or process.network(student) is not as_denoiser(student):
            raise ValueError(
                "consistency distillation is that of uniform noise whose network gives the clean token; got "
                f"{process}. For masked diffusion take SelfDistillation or TrajectoryDistillation"
            )
        x_0 = batch["tokens"]
        maskable = check_maskable(x_0, batch.get("maskable"))
        t = (self.times(random.fold_in(TIMES))[:, None] + 1.0 / self.num_steps).clamp(max=1.0)
        s = (t - 1.0 / self.num_steps).clamp(min=0.0)
        z_t, z_s = (self.noised(process, x_0, maskable, time, random.fold_in(MASKS)) for time in (t, s))
        inputs = model_inputs(batch)
        draw = Draw(
            x_0=x_0,
            maskable=maskable,
            tokens=z_t,
            scored=maskable,
            t=t,
            bound_weight=torch.ones_like(t),
            level=t[:, 0],
            inputs={**conditioning(process, t), **inputs},
        )
        with torch.no_grad():
            known, head = features(teacher, z_s, maskable, {**conditioning(process, s), **inputs})
        data_head = FirstColumns(head, number)
        return Lesson(draw, lambda rows: data_head(known[rows]))

    def noised(self, process: Process, x_0: Tensor, maskable: Tensor, t: Tensor, random: RowRandom) -> Tensor:
        """The rows at times (B, 1); the same streams mean the same Gaussian numbers, (B, L) int64."""
        assert process.num_tokens is not None
        ratio = ratio_at(process.shares(t).kept, process.num_tokens)
        ids, _ = largest(x_0, ratio, process.num_tokens, 2, random)
        return torch.where(maskable, ids[..., 0], x_0)

    @override
    def bound_gap(self, process: Process) -> str | None:
        return "it reports cross-entropies of clean tokens, not the divergences of uniform noise"

"""Ancestral sampling with a corrector: between two steps some tokens are drawn again, given all the others.

At time s the law of one noised token given the others is p(x_s^i | x_s without i) = kept_s xhat_i + b_s, with xhat the
leave-one-out posterior. Drawing a token from it leaves the law of the canvas as it is (Gibbs sampling), so many such
draws mend what the steps of the predictor did too coarsely. Several tokens drawn in one call are only nearly exact.

Reference: "Uniform Diffusion Models Revisited: Leave-One-Out Denoiser and Absorbing State Reformulation",
arXiv 2605.22765.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.chain import moved
from llada.samplers.order import Order, RandomOrder
from llada.samplers.propose import broken_rows, check_answers
from llada.samplers.reverse import AncestralSampler
from llada.samplers.sampler import Step
from llada.samplers.state import NOTHING, State
from llada.samplers.step_law import StepLaw


@dataclass(frozen=True)
class GibbsSampler(AncestralSampler):
    """Steps of the reverse process, each followed by corrections, for noise that draws random tokens.

    Its other arguments are those of `AncestralSampler`.

    Args:
        corrections: model calls between two steps.
        positions: tokens that a correction draws again.
        order: which ones: those that it would write last. `RandomOrder` is exact; `Margin`, `TopProb` and, by the
            probability of the token that stands there, `Confidence` spend the draws where the model is least sure.

    Raises:
        ValueError: if a number is less than 1.

    Examples:
        >>> import torch
        >>> from llada.process import UniformProcess
        >>> from llada.samplers import GibbsSampler
        >>> model = lambda tokens: 9.0 * torch.eye(3)[tokens * 0 + 1]
        >>> canvas, given = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.bool)
        >>> GibbsSampler(steps=8)(model, canvas, UniformProcess(3), given=given).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    corrections: int = field(default=1, kw_only=True)
    positions: int = field(default=1, kw_only=True)
    order: Order = field(default_factory=RandomOrder, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 1 or self.positions < 1:
            raise ValueError(
                f"corrections and positions must be 1 or more; got {self.corrections} and {self.positions}. "
                "AncestralSampler corrects nothing"
            )

    @property
    @override
    def likelihood_gap(self) -> str | None:
        why = "it draws written tokens again, so that a text is reached in many ways"
        return None if super().likelihood_gap is None else why

    @override
    def check_process(self, process: Process) -> None:
        if not process.scatters:
            raise ValueError(
                f"GibbsSampler draws written tokens again from what the network says of them, and under {process} it "
                "never learns to judge them; use PsiSampler, which masks them first"
            )

    @override
    def correct(
        self, denoiser: Denoiser, state: State, s: Tensor, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Generator[Step, None, State]:
        s = torch.where(s > 0.0, s, 1.0)  # of rows that are through their steps, where nothing is drawn
        process = state.process

        def reach(clean: Tensor) -> Tensor:
            return process.marginal(clean, s)

        for number in range(self.corrections if bool(state.valid.any()) else 0):
            before, stream = state.tokens.gather(1, state.columns), random.fold_in(number)
            logits, clean = self.predict(denoiser, state, s, model_kwargs)
            law = self.guided(denoiser, state, (s, s), StepLaw.of(logits, clean, reach(clean)), reach, model_kwargs)
            check_answers(replace(state, broken=broken_rows(state, ~law.answered)))
            judged = replace(state, logits=logits, filtered=logits, drawn=before, top=NOTHING, random=stream.fold_in(1))
            last = self.order(judged).double().masked_fill(~state.valid, torch.inf)
            count = min(self.positions, last.shape[1])
            chosen = torch.zeros_like(state.valid).scatter(1, last.topk(count, largest=False).indices, True)
            chosen = chosen & state.valid
            drawn = torch.where(chosen, law.draw(stream.uniform_at(state.positions)), before)
            state, step = moved(state, drawn, law.logits, law.log_ratio(drawn, chosen))
            yield step
        return state

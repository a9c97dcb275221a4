"""Orders that turn another one: tokens that wait, and scores with noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_fields
from llada.samplers.order import Measure, Order
from llada.samplers.state import State


@dataclass(frozen=True)
class Demote(Order):
    """Candidates that propose certain tokens come last; the others keep their order.

    Keeps an instruction-tuned model, which is sure of the EOS padding after its answer, from writing it first.

    Args:
        inner: the order among the others.
        tokens: ids to demote, such as EOS and EOT.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Confidence, Demote, PerStep, UnmaskingSampler
        >>> logits = torch.tensor([[[0.0, 9.0, 0.0], [1.0, 0.0, 0.0]]])  # surer of the first place, where it proposes 1
        >>> sampler = UnmaskingSampler(PerStep(1), Demote(Confidence(), tokens=(1,)))
        >>> steps = sampler.iterate(lambda tokens: logits, torch.full((1, 2), 2), MaskingProcess(2))
        >>> [step.tokens.tolist() for step in steps]
        [[[2, 0]], [[1, 0]]]
    """

    inner: Order
    tokens: tuple[int, ...]

    @property
    def measure(self) -> Measure:
        """That of the inner order; a demoted candidate is below every threshold."""
        return self.inner.measure

    @override
    def __call__(self, state: State) -> Tensor:
        scores = self.inner(state)
        demoted = torch.isin(state.drawn, torch.tensor(self.tokens, device=scores.device))
        return torch.where(demoted, torch.finfo(scores.dtype).min / 2, scores)


@dataclass(frozen=True)
class Stochastic(Order):
    """Draw the order: the next position is i with probability proportional to exp(score_i / temperature).

    The k best of score / temperature + Gumbel noise are k such draws without replacement. Dream calls the temperature
    ``alg_temp``. MaskGIT's is `AnnealedConfidence`.

    Args:
        inner: the scores.
        temperature: above 0; a small one approaches the inner order, a large one `RandomOrder`.

    Raises:
        ValueError: if the temperature isn't above 0, or the inner order doesn't look at the logits.

    Reference:
        Kool et al., "Stochastic Beams and Where to Find Them", arXiv 1903.06059.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Confidence, PerStep, Stochastic, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 6.0, 3.0, 1.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1]).expand(len(tokens), 4, 3)
        >>> sampler = UnmaskingSampler(PerStep(1), Stochastic(Confidence(), temperature=0.1))
        >>> first = next(iter(sampler.iterate(model, torch.full((8, 4), 2), MaskingProcess(2), seed=torch.arange(8))))
        >>> first.changed.int().argmax(1).tolist()  # which place each row begins with: mostly the surest
        [1, 1, 1, 1, 1, 1, 1, 2]
    """

    reads_drawn: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True
    inner: Order
    temperature: float

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.temperature > 0.0:
            raise ValueError(f"temperature must be above 0; got {self.temperature}; for 0 use the inner order itself")
        if self.inner.blind:
            raise ValueError(f"{self.inner} ranks without the model, so there are no scores to draw from; use it alone")

    @override
    def __call__(self, state: State) -> Tensor:
        scores = self.inner(state).double() / self.temperature
        return scores - (-state.random.fold_in(1).uniform_at(state.positions).log()).log()

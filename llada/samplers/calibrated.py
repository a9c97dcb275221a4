"""Orders that correct the confidence: by noise that is annealed (MaskGIT).

Shapes: B rows, M candidates per row.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from llada.samplers.order import Order
from llada.samplers.state import State


@dataclass(frozen=True)
class AnnealedConfidence(Order):
    """MaskGIT's order: log p of the proposed token + temperature (1 - (k + 1) / K) Gumbel noise, in step k of K.

    So the noise falls to 0 in the last step.

    Args:
        temperature: above 0.

    Raises:
        ValueError: if the temperature isn't above 0.

    Reference:
        Chang et al., "MaskGIT", arXiv 2202.04200; the released ``mask_by_random_topk``.
    """

    by_chance: ClassVar[bool] = True
    temperature: float = 4.5

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0; got {self.temperature}; for 0 use Confidence()")

    @override
    def __call__(self, state: State) -> Tensor:
        gumbel = -(-state.random.fold_in(1).uniform_at(state.positions).log()).log()
        return state.probability.double().log() + self.temperature * state.grid(1)[:, None] * gumbel

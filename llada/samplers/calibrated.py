"""Orders that correct the confidence: by noise that is annealed (MaskGIT), by position and frequency (PC-Sampler).

Shapes: B rows, M candidates per row.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.order import Order
from llada.samplers.spacing import number_in_window
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

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AnnealedConfidence, PerStep, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), AnnealedConfidence(temperature=4.5))
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [0, 1, 2, 3]
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


@dataclass(frozen=True)
class PositionCalibrated(Order):
    """PC-Sampler's order: exp(-decay i) min(-p log f, most), for a token of probability p and frequency f at place i.

    Places are counted over the positions of the window that were open at first. Early ones come first, and tokens that
    are frequent anyway, such as punctuation, late.

    Args:
        decay: per place; 0 for none. The authors' lambda.
        most: bound of the second factor. The authors' alpha.
        frequencies: of the tokens in text like what is to be written, one for each of the vocabulary; the authors count
            theirs on a corpus, and give tokens that aren't in it one occurrence. Empty: all are alike.

    Raises:
        ValueError: if ``decay`` or ``most`` is negative, or a frequency isn't in [0, 1].

    Reference:
        "PC-Sampler: Position-Aware Calibration of Decoding Bias in Masked Diffusion Models", arXiv 2508.13021; the
        released ``pc_sampler_function``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, PositionCalibrated, UnmaskingSampler
        >>> sure = torch.tensor([1.0, 3.0, 2.0, 0.5])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), PositionCalibrated(decay=0.25))
        >>> steps = sampler.iterate(model, torch.full((1, 4), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [1, 0, 2, 3]
    """

    decay: float = 0.25
    most: float = 10.0
    frequencies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (self.decay >= 0.0 and self.most >= 0.0 and all(0.0 <= f <= 1.0 for f in self.frequencies)):
            raise ValueError("decay and most must be 0 or more, and frequencies in [0, 1]")

    @override
    def __call__(self, state: State) -> Tensor:
        vocabulary = state.logits.shape[-1]
        if self.frequencies and len(self.frequencies) != vocabulary:
            raise ValueError(
                f"there are {len(self.frequencies)} frequencies for the model's vocabulary of {vocabulary}; give one "
                "per token"
            )
        surprise = -(_table(self.frequencies or (1.0 / vocabulary,), state.logits.device) + 1e-9).log()
        surprise = surprise.expand(vocabulary)[state.drawn]
        return (-self.decay * number_in_window(state)).exp() * (state.probability * surprise).clamp(max=self.most)


@lru_cache(maxsize=4)
def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a float64 tensor, sent to the device once."""
    return torch.tensor(values, dtype=torch.float64, device=device)

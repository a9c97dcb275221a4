"""Methods that share the masks among a given number of steps: LLaDA, MaskGIT, Dream.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.amount.amount import Amount
from llada.samplers.amount.quota import Binomial, CosineQuota, DreamFloor, PerStep, Quota
from llada.samplers.calibrated import AnnealedConfidence, PositionCalibrated
from llada.samplers.order import (
    Confidence,
    LeftToRight,
    Margin,
    NegativeEntropy,
    Order,
    RandomOrder,
)
from llada.samplers.planning import PlanningSampler
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.rates.rates import Ancestral
from llada.samplers.turned import Stochastic
from llada.samplers.unmasking import UnmaskingSampler


def _unmasking(amount: Amount, order: Order, common: Common) -> UnmaskingSampler:
    return UnmaskingSampler(amount, order, **common_parts(common))


@preset()
def low_confidence(steps: int | None = None, **common: Unpack[Common]) -> UnmaskingSampler:
    """LLaDA's low-confidence remasking: write what the model is surest of, keep the rest masked.

    Args:
        steps: model calls for the whole canvas, shared by the blocks; None for one per mask.

    Reference:
        arXiv 2502.09992, algorithm 5.
    """
    return _unmasking(Quota(steps), Confidence(), common)


@preset(temperature=1.0)
def random_remasking(steps: int | None = None, **common: Unpack[Common]) -> UnmaskingSampler:
    """LLaDA's random remasking: the quota of each step goes to random positions.

    At one token per step and temperature 1 this samples from the model's any-order distribution.

    Args:
        steps: model calls for the whole canvas, shared by the blocks; None for one per mask.

    Reference:
        arXiv 2502.09992, algorithm 4.
    """
    return _unmasking(Quota(steps), RandomOrder(), common)


@preset()
def left_to_right(**common: Unpack[Common]) -> UnmaskingSampler:
    """One token per step from left to right, as an autoregressive model writes. Blocks only serve the early stop."""
    return _unmasking(PerStep(1), LeftToRight(), common)


@preset(temperature=1.0)
def maskgit(steps: int | None = 12, choice_temperature: float = 4.5, **common: Unpack[Common]) -> UnmaskingSampler:
    """MaskGIT: cosine counts, and an order by log-confidence with noise that falls to 0.

    Args:
        steps: model calls; None for one per mask.
        choice_temperature: noise of the order before the first step, in nats of log-confidence; 0 for none.

    Reference:
        Chang et al., "MaskGIT: Masked Generative Image Transformer", arXiv 2202.04200, section 3.2; the released
        ``parallel_decode``.
    """
    order = AnnealedConfidence(choice_temperature) if choice_temperature else Confidence()
    return _unmasking(CosineQuota(steps), order, common)


@preset()
def pc_sampler(
    steps: int | None = None,
    decay: float = 0.25,
    most: float = 10.0,
    frequencies: tuple[float, ...] = (),
    **common: Unpack[Common],
) -> UnmaskingSampler:
    """PC-Sampler: confident tokens that are rare in general, and early positions first.

    Args:
        steps: model calls for the whole canvas, shared by the blocks; None for one per mask.
        decay: how much an order from left to right is preferred; the authors have 0, 0.25 or 0.5.
        most: bound of the confidence weighed by rareness.
        frequencies: of all tokens of the vocabulary, such as in the training text; empty: all are alike.

    Reference:
        arXiv 2508.13021.
    """
    return _unmasking(Quota(steps), PositionCalibrated(decay, most, frequencies), common)


@preset()
def p2(steps: int | None = None, doubt: float = 1.0, **common: Unpack[Common]) -> PlanningSampler:
    """P2, path planning by the model itself: the least likely tokens are masked again in every step.

    Args:
        steps: model calls for the whole canvas, shared by the blocks; None for one per mask.
        doubt: the paper's eta; more takes more tokens back, 0 none.

    Reference:
        Peng et al., "Path Planning for Masked Diffusion Model Sampling", arXiv 2502.03540. Probabilities are those
        after temperature, top-p and top-k, as in Open-dLLM's ``alg="p2"``.
    """
    return PlanningSampler(steps, doubt, **common_parts(common))


def _drawn(order: Order, temperature: float) -> Order:
    return Stochastic(order, temperature) if temperature else order


@preset(temperature=0.2, top_p=0.95)
def dream_entropy(steps: int | None = None, alg_temp: float = 0.0, **common: Unpack[Common]) -> UnmaskingSampler:
    """Dream's recommended sampler (``alg="entropy"``): the most certain distribution first, after top-p and top-k.

    Args:
        steps: of the grid; those that write nothing are free. None for one token in every step.
        alg_temp: noise of the order; 0 for none.

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487.
    """
    return _unmasking(DreamFloor(steps), _drawn(NegativeEntropy(filtered=True), alg_temp), common)


@preset(temperature=0.2, top_p=0.95)
def topk_margin(steps: int | None = None, alg_temp: float = 0.0, **common: Unpack[Common]) -> UnmaskingSampler:
    """Dream with ``alg="topk_margin"``: the largest lead of the best token over the second first.

    Args:
        steps: of the grid; those that write nothing are free. None for one token in every step.
        alg_temp: noise of the order; 0 for none.

    Reference:
        Kim et al., "Train for the Worst, Plan for the Best", arXiv 2502.06768, section 4.
    """
    return _unmasking(DreamFloor(steps), _drawn(Margin(filtered=True), alg_temp), common)


@preset(temperature=0.2, top_p=0.95)
def maskgit_plus(steps: int | None = None, alg_temp: float = 0.0, **common: Unpack[Common]) -> UnmaskingSampler:
    """Dream with ``alg="maskgit_plus"``: the most confident token first.

    Args:
        steps: of the grid; those that write nothing are free. None for one token in every step.
        alg_temp: noise of the order; 0 for none.

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487.
    """
    return _unmasking(DreamFloor(steps), _drawn(Confidence(filtered=True), alg_temp), common)


@preset(temperature=0.2, top_p=0.95)
def dream_origin(steps: int | None = None, **common: Unpack[Common]) -> UnmaskingSampler:
    """Dream with ``alg="origin"``: every mask is uncovered with probability 1 - s / t on a grid from 1 to 0.001.

    Args:
        steps: of the grid; those that write nothing are free. None for as many as masks.

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487.
    """
    return UnmaskingSampler(Binomial(steps), RandomOrder(), rates=Ancestral(t_min=1e-3), **common_parts(common))

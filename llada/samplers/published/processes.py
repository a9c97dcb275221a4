"""Methods that simulate the reverse process: MDLM, first-hitting, SEDD, ReMDM, block diffusion.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.amount.quota import Binomial, PerStep
from llada.samplers.caches.exact import ExactCache
from llada.samplers.order import RandomOrder
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.rates.rates import Ancestral, FirstHitting, Rates, TauLeaping
from llada.samplers.rates.remask import (
    CappedRemasking,
    ConfidenceRemasking,
    ForwardBackwardRemasking,
    LoopRemasking,
    RescaledRemasking,
)
from llada.samplers.unmasking import UnmaskingSampler


def _on_grid(steps: int | None, rates: Rates, common: Common) -> UnmaskingSampler:
    # ReMDM's nucleus ends before the token with which it would cross top_p.
    parts = common_parts(common, crossing=not rates.remasks)
    return UnmaskingSampler(Binomial(steps), RandomOrder(), rates=rates, **parts)


@preset(temperature=1.0)
def ancestral(steps: int | None = None, **common: Unpack[Common]) -> UnmaskingSampler:
    """MDLM's ancestral sampling on a uniform time grid.

    Which positions a step uncovers doesn't depend on the model, so they are drawn first and the model is run for them
    alone; a step that uncovers nothing costs nothing. `llada.samplers.AncestralSampler` has the same law, and the
    formula on the page.

    Args:
        steps: of the time grid; None for as many as there are masks.

    Reference:
        arXiv 2406.07524, equation 7.
    """
    return _on_grid(steps, Ancestral(), common)


@preset(temperature=1.0)
def first_hitting(**common: Unpack[Common]) -> UnmaskingSampler:
    """The exact times of the jumps, one token per call in random order; no grid and no error of one.

    Reference:
        arXiv 2409.02908.
    """
    return UnmaskingSampler(PerStep(1), RandomOrder(), rates=FirstHitting(), **common_parts(common))


@preset(temperature=1.0)
def sedd_analytic(steps: int | None = 128, **common: Unpack[Common]) -> UnmaskingSampler:
    """SEDD's analytic sampler (Tweedie), which for masks is ancestral sampling.

    Args:
        steps: of the time grid; None for as many as there are masks.

    Reference:
        arXiv 2310.16834, section 4.1.
    """
    return _on_grid(steps, Ancestral(), common)


@preset(temperature=1.0)
def tau_leaping(steps: int | None = 128, **common: Unpack[Common]) -> UnmaskingSampler:
    """SEDD's Euler sampler.

    Args:
        steps: of the time grid; None for as many as there are masks.

    Reference:
        arXiv 2310.16834, section 4.1.
    """
    return _on_grid(steps, TauLeaping(), common)


@preset(temperature=1.0, top_p=0.9)
def remdm_cap(steps: int | None = 1024, eta: float = 0.008, **common: Unpack[Common]) -> UnmaskingSampler:
    """ReMDM-cap: written tokens are masked again with probability min(eta, sigma_max) per step.

    The numbers are those of the released script, and so is the nucleus, which ends before the token that crosses
    ``top_p``. The released grid ends at 1e-5 and writes what is left then greedily; here the last step draws it.

    Args:
        steps: of the time grid; None for as many as there are masks.
        eta: in [0, 1].

    Reference:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv 2503.00307, section 4.
    """
    return _on_grid(steps, CappedRemasking(eta), common)


@preset(temperature=1.0, top_p=0.9)
def remdm_rescale(steps: int | None = 1024, eta: float = 0.015, **common: Unpack[Common]) -> UnmaskingSampler:
    """ReMDM-rescale: sigma = eta sigma_max. Arguments, nucleus and the end of the grid as in `remdm_cap`.

    Reference:
        Wang et al., arXiv 2503.00307, section 4.
    """
    return _on_grid(steps, RescaledRemasking(eta), common)


@preset(temperature=1.0, top_p=0.9)
def remdm_conf(steps: int | None = 1024, **common: Unpack[Common]) -> UnmaskingSampler:
    """ReMDM-conf: tokens that were written with little confidence are doubted most.

    Confidence is the probability in the nucleus from which a token was drawn. Masked tokens are uncovered as if
    nothing were taken back, which is what the released code does, too: their sigma is 0 there. Arguments, nucleus and
    the end of the grid as in `remdm_cap`.

    Reference:
        Wang et al., arXiv 2503.00307, section 4.
    """
    return _on_grid(steps, ConfidenceRemasking(), common)


@preset(temperature=1.0, top_p=0.9)
def remdm_loop(steps: int | None = 1024, eta: float = 0.02, **common: Unpack[Common]) -> UnmaskingSampler:
    """ReMDM-loop: to nine tenths of the tokens, then rewriting, then to the end.

    A step that crosses the beginning of the loop stops at its share of tokens, and one that crosses its end holds it.
    The released code overshoots in those two steps, by less than a step's change. Arguments, nucleus and the end of
    the grid as in `remdm_cap`.

    Reference:
        Wang et al., arXiv 2503.00307, section 4.
    """
    return _on_grid(steps, LoopRemasking(eta), common)


@preset(temperature=1.0, top_p=0.9)
def forward_backward(steps: int | None = 1024, **common: Unpack[Common]) -> UnmaskingSampler:
    """Each step masks again what the grid would have masked in going back, as in ReMDM's comparison.

    Arguments, nucleus and the end of the grid as in `remdm_cap`.

    Reference:
        Campbell et al., arXiv 2205.14987, section 4.4.
    """
    return _on_grid(steps, ForwardBackwardRemasking(), common)


@preset(temperature=1.0, block_length=32)
def block_diffusion(**common: Unpack[Common]) -> UnmaskingSampler:
    """BD3LM: first-hitting inside a block, and exact keys of the blocks before it. For block-causal models only.

    ``block_length`` is the model's own, or a multiple of it.

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573.
    """
    parts = common_parts(common, from_start=True, crossing=False)
    return UnmaskingSampler(PerStep(1), RandomOrder(), rates=FirstHitting(), cache=ExactCache(), **parts)

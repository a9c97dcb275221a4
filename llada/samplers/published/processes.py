"""Methods that simulate the reverse process: MDLM, first-hitting, SEDD, ReMDM, block diffusion."""

from llada.samplers.amount.quota import Binomial, PerStep
from llada.samplers.caches.regions import ExactCache
from llada.samplers.order import RandomOrder
from llada.samplers.propose import Proposal
from llada.samplers.rates.rates import FirstHitting, Rates, TauLeaping
from llada.samplers.rates.remask import (
    CappedRemasking,
    ConfidenceRemasking,
    ForwardBackwardRemasking,
    LoopRemasking,
    RescaledRemasking,
)
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.window import Blocks


def ancestral(steps: int = 64, temperature: float = 1.0, top_p: float | None = None) -> UnmaskingSampler:
    """MDLM's ancestral sampling on a uniform time grid.

    Which positions a step uncovers doesn't depend on the model, so they are drawn first and the model is run for them
    alone; a step that uncovers nothing costs nothing.

    Args:
        steps: of the time grid.
        temperature: of the draw; 1 samples from the model.
        top_p: nucleus of the draw; None for all tokens.

    Reference:
        arXiv 2406.07524, equation 7.
    """
    return UnmaskingSampler(Binomial(steps), RandomOrder(), Proposal(temperature, top_p=top_p))


def first_hitting(temperature: float = 1.0, top_p: float | None = None) -> UnmaskingSampler:
    """The exact times of the jumps, one token per call in random order; no grid and no error of one.

    Args:
        temperature: of the draw; 1 samples from the model.
        top_p: nucleus of the draw; None for all tokens.

    Reference:
        arXiv 2409.02908.
    """
    return UnmaskingSampler(PerStep(1), RandomOrder(), Proposal(temperature, top_p=top_p), rates=FirstHitting())


def sedd_analytic(steps: int = 128, temperature: float = 1.0) -> UnmaskingSampler:
    """SEDD's analytic sampler (Tweedie), which for masks is ancestral sampling.

    Args:
        steps: of the time grid.
        temperature: of the draw; 1 samples from the model.

    Reference:
        arXiv 2310.16834, section 4.1.
    """
    return ancestral(steps, temperature)


def tau_leaping(steps: int = 128, temperature: float = 1.0) -> UnmaskingSampler:
    """SEDD's Euler sampler. Arguments as in `sedd_analytic`.

    Reference:
        arXiv 2310.16834, section 4.1.
    """
    return UnmaskingSampler(Binomial(steps), RandomOrder(), Proposal(temperature), rates=TauLeaping())


def _remdm(rates: Rates, steps: int, temperature: float, top_p: float | None) -> UnmaskingSampler:
    return UnmaskingSampler(Binomial(steps), RandomOrder(), Proposal(temperature, top_p=top_p), rates=rates)


def remdm_cap(
    steps: int = 256, eta: float = 0.008, temperature: float = 1.0, top_p: float | None = 0.9
) -> UnmaskingSampler:
    """ReMDM-cap: written tokens are masked again with probability min(eta, sigma_max) per step.

    Args:
        steps: of the time grid.
        eta: in [0, 1].
        temperature: of the draw.
        top_p: nucleus of the draw; None for all tokens.

    Reference:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv 2503.00307, section 4.
    """
    return _remdm(CappedRemasking(eta), steps, temperature, top_p)


def remdm_rescale(
    steps: int = 256, eta: float = 0.015, temperature: float = 1.0, top_p: float | None = 0.9
) -> UnmaskingSampler:
    """ReMDM-rescale: sigma = eta sigma_max. Arguments as in `remdm_cap`."""
    return _remdm(RescaledRemasking(eta), steps, temperature, top_p)


def remdm_conf(steps: int = 256, temperature: float = 1.0, top_p: float | None = 0.9) -> UnmaskingSampler:
    """ReMDM-conf: tokens that were written with little confidence are doubted most. Arguments as in `remdm_cap`."""
    return _remdm(ConfidenceRemasking(), steps, temperature, top_p)


def remdm_loop(
    steps: int = 256, eta: float = 0.02, temperature: float = 1.0, top_p: float | None = 0.9
) -> UnmaskingSampler:
    """ReMDM-loop: to nine tenths of the tokens, then rewriting, then to the end. Arguments as in `remdm_cap`."""
    return _remdm(LoopRemasking(eta), steps, temperature, top_p)


def forward_backward(steps: int = 256, temperature: float = 1.0, top_p: float | None = 0.9) -> UnmaskingSampler:
    """Each step masks again what the grid would have masked in going back. Arguments as in `remdm_cap`.

    Reference:
        Campbell et al., arXiv 2205.14987, section 4.4.
    """
    return _remdm(ForwardBackwardRemasking(), steps, temperature, top_p)


def block_diffusion(
    block_length: int = 32, temperature: float = 1.0, top_p: float | None = None, stop_token_id: int | None = None
) -> UnmaskingSampler:
    """BD3LM: first-hitting inside a block, and exact keys of the blocks before it. For block-causal models only.

    Args:
        block_length: the model's ``block_length``, or a multiple of it.
        temperature: of the draw; 1 samples from the model.
        top_p: nucleus of the draw; None for all tokens.
        stop_token_id: stop a row after the block that holds this token (EOS).

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573.
    """
    return UnmaskingSampler(
        PerStep(1),
        RandomOrder(),
        Proposal(temperature, top_p=top_p),
        Blocks(block_length, stop_token_id, from_start=True),
        cache=ExactCache(),
        rates=FirstHitting(),
    )

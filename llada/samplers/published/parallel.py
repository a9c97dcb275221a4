"""Methods that write as many tokens per call as the model is sure of, or that spare the model some work."""

from llada.samplers.amount.amount import Commit, EntropyBound, Factor, Threshold
from llada.samplers.amount.quota import Hierarchy, Quota, ThresholdOrQuota
from llada.samplers.amount.stability import Credit, Stability
from llada.samplers.caches.delayed import DelayedCache, IntervalCache
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.caches.regions import DualCache, PrefixCache, VicinityCache
from llada.samplers.editing import EditingSampler
from llada.samplers.order import Confidence, NegativeEntropy
from llada.samplers.propose import Proposal
from llada.samplers.published.quotas import window
from llada.samplers.speculative import SpeculativeSampler
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.window import Blocks


def _sure(
    commit: Commit, block_length: int | None, temperature: float, stop: int | None, cache: CachePolicy | None = None
) -> UnmaskingSampler:
    """In the order of confidence."""
    kept = NoCache() if cache is None else cache
    return UnmaskingSampler(commit, Confidence(), Proposal(temperature), window(block_length, stop), cache=kept)


def fast_dllm(
    threshold: float = 0.9, block_length: int | None = 32, temperature: float = 0.0, stop_token_id: int | None = None
) -> UnmaskingSampler:
    """Fast-dLLM's parallel decoding: all tokens above a confidence, and always the best one.

    Args:
        threshold: least probability.
        block_length: tokens per block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.
        stop_token_id: stop a row after the block that holds this token (EOS).

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.3.
    """
    return _sure(Threshold(threshold), block_length, temperature, stop_token_id)


def fast_dllm_factor(
    factor: float = 1.0, block_length: int | None = 32, temperature: float = 0.0, stop_token_id: int | None = None
) -> UnmaskingSampler:
    """Fast-dLLM's factor rule: the more tokens are written together, the surer each must be.

    Args:
        factor: above 0; more is bolder.
        block_length: as in `fast_dllm`, and so are the others.
        temperature: of the draw.
        stop_token_id: ends a row.
    """
    return _sure(Factor(factor), block_length, temperature, stop_token_id)


def fast_dllm_prefix(
    threshold: float = 0.9, block_length: int = 32, temperature: float = 0.0, stop_token_id: int | None = None
) -> UnmaskingSampler:
    """`fast_dllm` with its prefix cache: what stands before the block isn't computed again. Same arguments."""
    return _sure(Threshold(threshold), block_length, temperature, stop_token_id, PrefixCache())


def fast_dllm_dual(
    threshold: float = 0.9, block_length: int = 32, temperature: float = 0.0, stop_token_id: int | None = None
) -> UnmaskingSampler:
    """`fast_dllm` with its dual cache: only the block itself is computed in each step. Same arguments."""
    return _sure(Threshold(threshold), block_length, temperature, stop_token_id, DualCache())


def eb_sampler(gamma: float = 0.1, block_length: int | None = None, temperature: float = 0.0) -> UnmaskingSampler:
    """EB-Sampler: as many of the most certain tokens as keep the error of writing them together below a bound.

    Args:
        gamma: bound in nats.
        block_length: tokens per block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        Ben-Hamu et al., arXiv 2505.24857, section 4.
    """
    return UnmaskingSampler(EntropyBound(gamma), NegativeEntropy(), Proposal(temperature), window(block_length, None))


def klass(
    threshold: float = 0.9,
    max_divergence: float = 0.01,
    history: int = 2,
    block_length: int | None = None,
    temperature: float = 0.0,
) -> UnmaskingSampler:
    """KLASS: tokens that are sure and whose distribution has stopped changing.

    Args:
        threshold: least probability.
        max_divergence: between steps, nats.
        history: steps for which it must have been below that.
        block_length: tokens per block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        Kim et al., "KLASS", arXiv 2511.05664.
    """
    return _sure(Stability(threshold, max_divergence, history), block_length, temperature, None)


def llada2(
    steps: int = 64,
    threshold: float = 0.95,
    block_length: int = 32,
    temperature: float = 0.0,
    stop_token_id: int | None = None,
) -> UnmaskingSampler:
    """LLaDA2's rule: all tokens above a confidence, or LLaDA's quota if that is more. Blocks count from the start.

    Args:
        steps: most model calls for the whole canvas.
        threshold: least probability.
        block_length: tokens per block.
        temperature: of the draw; 0 takes the most likely token.
        stop_token_id: stop a row after the block that holds this token (EOS).

    Reference:
        Bie et al., "LLaDA2.0", arXiv 2512.15745.
    """
    blocks = Blocks(block_length, stop_token_id, from_start=True)
    return UnmaskingSampler(ThresholdOrQuota(steps, threshold), Confidence(), Proposal(temperature), blocks)


def llada21(
    threshold: float = 0.95,
    edit_threshold: float = 0.9,
    block_length: int = 32,
    temperature: float = 0.0,
    stop_token_id: int | None = None,
) -> EditingSampler:
    """LLaDA2.1's token editing: a block is corrected until the model is content with it.

    Args:
        threshold: least probability of what is written.
        edit_threshold: least probability of what replaces a written token.
        block_length: tokens per block.
        temperature: of the draw; 0 takes the most likely token.
        stop_token_id: stop a row after the block that holds this token (EOS).
    """
    blocks = Blocks(block_length, stop_token_id, from_start=True)
    return EditingSampler(threshold, edit_threshold, proposal=Proposal(temperature), window=blocks)


def hierarchy(
    threshold: float = 0.9, low_threshold: float = 0.4, block_length: int | None = 32, temperature: float = 0.0
) -> UnmaskingSampler:
    """DInfer's hierarchical decoding: also the best of every run of masks.

    Args:
        threshold: least probability of any token.
        low_threshold: least probability of the best of a run.
        block_length: tokens per block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        Ma et al., "dInfer", arXiv 2510.08666.
    """
    return _sure(Hierarchy(threshold, low_threshold), block_length, temperature, None)


def credit(threshold: float = 0.9, block_length: int | None = 32, temperature: float = 0.0) -> UnmaskingSampler:
    """DInfer's credit decoding: a token that stays the favourite of its place is trusted sooner.

    Args:
        threshold: least probability, bonus included.
        block_length: tokens per block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        arXiv 2510.08666.
    """
    canvas = window(block_length, None)
    return UnmaskingSampler(Threshold(threshold), Confidence(), Proposal(temperature), canvas, adjustments=(Credit(),))


def vicinity(threshold: float = 0.9, block_length: int = 32, radius: int = 16) -> UnmaskingSampler:
    """DInfer's vicinity refresh: the block and its neighbours are computed in each step.

    Args:
        threshold: least probability.
        block_length: tokens per block.
        radius: neighbours on each side.

    Reference:
        arXiv 2510.08666.
    """
    return _sure(Threshold(threshold), block_length, 0.0, None, VicinityCache(radius=radius))


def dkv_cache(steps: int = 64, refresh: int | None = 8, temperature: float = 0.0) -> UnmaskingSampler:
    """dKV-Cache: LLaDA's sampler, with keys kept from one step after their token was written.

    Args:
        steps: model calls.
        refresh: steps after which all are computed again; None for never.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        Ma et al., arXiv 2505.15781.
    """
    return _sure(Quota(steps), None, temperature, None, DelayedCache(refresh))


def dllm_cache(
    steps: int = 64, prompt_interval: int = 100, interval: int = 7, share: float = 0.25, temperature: float = 0.0
) -> UnmaskingSampler:
    """dLLM-Cache: LLaDA's sampler, with only the tokens computed whose values changed most.

    Args:
        steps: model calls.
        prompt_interval: steps after which the prompt is computed again.
        interval: steps after which all of the answer is.
        share: of the answer that is computed in between.
        temperature: of the draw; 0 takes the most likely token.

    Reference:
        Liu et al., arXiv 2506.06295.
    """
    return _sure(Quota(steps), None, temperature, None, IntervalCache(prompt_interval, interval, share))


def self_speculative(
    guesses: int = 4, block_length: int | None = None, stop_token_id: int | None = None
) -> SpeculativeSampler:
    """Self-speculative decoding: greedy, the result of one token per step, in fewer calls of more rows.

    Args:
        guesses: steps that a call looks ahead.
        block_length: tokens per block; None decodes the canvas as a whole.
        stop_token_id: stop a row after the block that holds this token (EOS).

    Reference:
        Gao et al., arXiv 2510.04147.
    """
    return SpeculativeSampler(guesses, window=window(block_length, stop_token_id))

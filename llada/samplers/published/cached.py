"""Methods that spare the model some work, by keeping keys and values between calls.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.amount.amount import Amount, Threshold
from llada.samplers.amount.quota import Quota
from llada.samplers.caches.delayed import DelayedCache, IntervalCache
from llada.samplers.caches.policy import CachePolicy
from llada.samplers.caches.regions import DualCache, PrefixCache, VicinityCache
from llada.samplers.order import Confidence
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.unmasking import UnmaskingSampler


def _kept(amount: Amount, common: Common, cache: CachePolicy) -> UnmaskingSampler:
    """In the order of confidence."""
    return UnmaskingSampler(amount, Confidence(), cache=cache, **common_parts(common))


@preset(block_length=32)
def fast_dllm_prefix(threshold: float = 0.9, **common: Unpack[Common]) -> UnmaskingSampler:
    """`fast_dllm` with its prefix cache: what stands before the block isn't computed again. Same arguments.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618.
    """
    return _kept(Threshold(threshold), common, PrefixCache())


@preset(block_length=32)
def fast_dllm_dual(threshold: float = 0.9, **common: Unpack[Common]) -> UnmaskingSampler:
    """`fast_dllm` with its dual cache: only the block itself is computed in each step. Same arguments.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618.
    """
    return _kept(Threshold(threshold), common, DualCache())


@preset(block_length=32)
def vicinity(threshold: float = 0.9, radius: int = 16, warm_up: int = 4, **common: Unpack[Common]) -> UnmaskingSampler:
    """DInfer's vicinity refresh: the block and its neighbours are computed in each step.

    The whole canvas is computed in the first calls of a row and in the first of each block.

    Args:
        threshold: least probability.
        radius: neighbours on each side.
        warm_up: dInfer's ``warmup_steps``, after which one more call fills its cache.

    Reference:
        Ma et al., "dInfer", arXiv 2510.08666; the released ``VicinityCacheIteration``, whose call that fills the cache
        is followed by one over the neighbourhood without a look at what is left.
    """
    return _kept(Threshold(threshold), common, VicinityCache(warm_up=warm_up + 1, radius=radius))


@preset(without=("guidance",))
def dkv_cache(steps: int | None = None, refresh: int | None = 8, **common: Unpack[Common]) -> UnmaskingSampler:
    """dKV-Cache: LLaDA's sampler, with keys kept from one step after their token was written.

    Args:
        steps: model calls; None for one per mask.
        refresh: steps after which all are computed again; None for never.

    Reference:
        Ma et al., arXiv 2505.15781.
    """
    return _kept(Quota(steps), common, DelayedCache(refresh))


@preset()
def dllm_cache(
    steps: int | None = None,
    prompt_interval: int = 100,
    interval: int = 7,
    share: float = 0.25,
    **common: Unpack[Common],
) -> UnmaskingSampler:
    """dLLM-Cache: LLaDA's sampler, with only the tokens computed whose values changed most.

    Args:
        steps: model calls; None for one per mask.
        prompt_interval: steps after which the prompt is computed again.
        interval: steps after which all of the answer is.
        share: of the answer that is computed in between.

    Reference:
        Liu et al., arXiv 2506.06295.
    """
    return _kept(Quota(steps), common, IntervalCache(prompt_interval, interval, share))

"""Published methods by name; each function is also a ``class_path`` for YAML, and a ``--sampler`` of the commands.

llada sample model.ckpt --sampler fast_dllm --sampler.threshold 0.8
"""

from collections.abc import Callable

from llada.samplers.published.parallel import (
    credit,
    dkv_cache,
    dllm_cache,
    eb_sampler,
    fast_dllm,
    fast_dllm_dual,
    fast_dllm_factor,
    fast_dllm_prefix,
    hierarchy,
    klass,
    llada2,
    llada21,
    self_speculative,
    vicinity,
)
from llada.samplers.published.processes import (
    ancestral,
    block_diffusion,
    first_hitting,
    forward_backward,
    remdm_cap,
    remdm_conf,
    remdm_loop,
    remdm_rescale,
    sedd_analytic,
    tau_leaping,
)
from llada.samplers.published.quotas import (
    dream_entropy,
    dream_origin,
    left_to_right,
    low_confidence,
    maskgit,
    maskgit_plus,
    random_remasking,
    topk_margin,
)
from llada.samplers.sampler import Sampler

PRESETS: dict[str, Callable[..., Sampler]] = {
    preset.__name__: preset
    for preset in (
        low_confidence,
        random_remasking,
        left_to_right,
        maskgit,
        dream_entropy,
        topk_margin,
        maskgit_plus,
        dream_origin,
        fast_dllm,
        fast_dllm_factor,
        fast_dllm_prefix,
        fast_dllm_dual,
        eb_sampler,
        klass,
        llada2,
        llada21,
        hierarchy,
        credit,
        vicinity,
        dkv_cache,
        dllm_cache,
        self_speculative,
        ancestral,
        first_hitting,
        sedd_analytic,
        tau_leaping,
        remdm_cap,
        remdm_rescale,
        remdm_conf,
        remdm_loop,
        forward_backward,
        block_diffusion,
    )
}
"""Name -> the function that builds the sampler, in which every argument has a default."""

__all__ = [
    "PRESETS",
    "ancestral",
    "block_diffusion",
    "credit",
    "dkv_cache",
    "dllm_cache",
    "dream_entropy",
    "dream_origin",
    "eb_sampler",
    "fast_dllm",
    "fast_dllm_dual",
    "fast_dllm_factor",
    "fast_dllm_prefix",
    "first_hitting",
    "forward_backward",
    "hierarchy",
    "klass",
    "left_to_right",
    "llada2",
    "llada21",
    "low_confidence",
    "maskgit",
    "maskgit_plus",
    "random_remasking",
    "remdm_cap",
    "remdm_conf",
    "remdm_loop",
    "remdm_rescale",
    "sedd_analytic",
    "self_speculative",
    "tau_leaping",
    "topk_margin",
    "vicinity",
]

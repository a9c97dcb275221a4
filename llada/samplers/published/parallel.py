"""Methods that write as many tokens per call as the model is sure of.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.amount.amount import Amount, EntropyBound, Factor, Threshold
from llada.samplers.amount.certain import Hierarchy, LocalLeap, ThresholdOrQuota
from llada.samplers.amount.stability import Credit, Stability
from llada.samplers.draft_verify import DraftAndVerify
from llada.samplers.editing import EditingSampler
from llada.samplers.order import Confidence, Margin, NegativeEntropy
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.speculative import SpeculativeSampler
from llada.samplers.unmasking import UnmaskingSampler


def _sure(amount: Amount, common: Common) -> UnmaskingSampler:
    """In the order of confidence."""
    return UnmaskingSampler(amount, Confidence(), **common_parts(common))


@preset(block_length=32)
def fast_dllm(threshold: float = 0.9, **common: Unpack[Common]) -> UnmaskingSampler:
    """Fast-dLLM's parallel decoding: all tokens above a confidence, and always the best one.

    Args:
        threshold: least probability.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.3.
    """
    return _sure(Threshold(threshold), common)


@preset(block_length=32)
def fast_dllm_factor(factor: float = 1.0, **common: Unpack[Common]) -> UnmaskingSampler:
    """Fast-dLLM's factor rule: the more tokens are written together, the surer each must be.

    The last two masks of a block always go together, as in the released code; `llada.samplers.Factor` alone is the
    paper's rule.

    Args:
        factor: above 0; more is bolder.

    Reference:
        Wu et al., "Fast-dLLM", arXiv 2505.22618, section 3.3; the released ``get_transfer_index_dynamic``.
    """
    return _sure(Factor(factor, last_passes=True), common)


@preset(block_length=32)
def margin_threshold(threshold: float = 0.9, **common: Unpack[Common]) -> UnmaskingSampler:
    """`fast_dllm` by margins: all positions where the best token leads the second by a bound, and the clearest one.

    Unlike confidence in what was drawn, a margin leaves a text its likelihood.

    Args:
        threshold: least lead, a difference of probabilities.

    Reference:
        The margin of Kim et al., "Train for the Worst, Plan for the Best", arXiv 2502.06768, under the rule of arXiv
        2505.22618.
    """
    return UnmaskingSampler(Threshold(threshold), Margin(), **common_parts(common))


@preset(block_length=32)
def local_leap(
    threshold: float = 0.9, relaxed_threshold: float = 0.75, radius: int = 4, **common: Unpack[Common]
) -> UnmaskingSampler:
    """LocalLeap: all tokens above a confidence, and around them those above a lower one.

    Args:
        threshold: least probability anywhere.
        relaxed_threshold: least probability near a token that passes the first.
        radius: positions on each side that are near.

    Reference:
        "Accelerating Diffusion LLM Inference via Local Determinism Propagation", arXiv 2510.07081.
    """
    return _sure(LocalLeap(threshold, relaxed_threshold, radius), common)


@preset()
def eb_sampler(gamma: float = 0.1, **common: Unpack[Common]) -> UnmaskingSampler:
    """EB-Sampler: as many of the most certain tokens as keep the error of writing them together below a bound.

    Args:
        gamma: bound in nats.

    Reference:
        Ben-Hamu et al., arXiv 2505.24857, section 4.
    """
    return UnmaskingSampler(EntropyBound(gamma), NegativeEntropy(), **common_parts(common))


@preset(block_length=64)
def klass(
    threshold: float = 0.9, max_divergence: float = 0.01, history: int = 2, **common: Unpack[Common]
) -> UnmaskingSampler:
    """KLASS: tokens that are sure and whose distribution has stopped changing; where there is none, the surest one.

    The authors' scripts for LLaDA have blocks of 64, and as threshold and divergence 0.9 and 0.01 for HumanEval, 0.7
    and 0.01 for MBPP, 0.6 and 0.01 for MATH, 0.6 and 0.015 for GSM8K.

    Args:
        threshold: least probability.
        max_divergence: between steps, nats.
        history: steps for which it must have been below that, those before the block was begun included.

    Reference:
        Kim et al., "KLASS", arXiv 2511.05664; the released ``stable_confident_decode``.
    """
    return _sure(Stability(threshold, max_divergence, history), common)


@preset(block_length=32)
def llada2(steps_per_block: int | None = 32, threshold: float = 0.95, **common: Unpack[Common]) -> UnmaskingSampler:
    """LLaDA2's rule: all tokens above a confidence, or LLaDA's quota if that is more. Blocks count from the start.

    Args:
        steps_per_block: most model calls for a block; None for one per position.
        threshold: least probability.

    Reference:
        Bie et al., "LLaDA2.0", arXiv 2512.15745; the released ``generate``, whose quota counts the positions of a
        block, not its masks.
    """
    parts = common_parts(common, from_start=True)
    length = common["block_length"]
    assert length is not None
    return UnmaskingSampler(ThresholdOrQuota(steps_per_block, threshold, length), Confidence(), **parts)


@preset(block_length=32)
def llada21(threshold: float = 0.95, edit_threshold: float = 0.9, **common: Unpack[Common]) -> EditingSampler:
    """LLaDA2.1's token editing: a block is corrected until the model is content with it.

    The numbers are the defaults of the released ``generate``; `llada21_quality` and `llada21_speed` are the paper's two
    modes. A row may spend 16 calls on a block after its last mask.

    Args:
        threshold: least probability of what is written.
        edit_threshold: least probability of what replaces a written token.

    Reference:
        Bie et al., "LLaDA2.1: Speeding Up Text Diffusion via Token Editing", arXiv 2602.08676.
    """
    return EditingSampler(threshold, edit_threshold, **common_parts(common, from_start=True))


@preset(block_length=32)
def llada21_quality(threshold: float = 0.7, edit_threshold: float = 0.5, **common: Unpack[Common]) -> EditingSampler:
    """LLaDA2.1's quality mode, with the numbers that diffusers has for it. Arguments as in `llada21`.

    Reference:
        Bie et al., arXiv 2602.08676.
    """
    return EditingSampler(threshold, edit_threshold, **common_parts(common, from_start=True))


@preset(block_length=32)
def llada21_speed(threshold: float = 0.5, edit_threshold: float = 0.0, **common: Unpack[Common]) -> EditingSampler:
    """LLaDA2.1's speedy mode, with the numbers that SGLang has for it. Arguments as in `llada21`.

    Reference:
        Bie et al., arXiv 2602.08676.
    """
    return EditingSampler(threshold, edit_threshold, **common_parts(common, from_start=True))


@preset(block_length=32)
def hierarchy(threshold: float = 0.9, low_threshold: float = 0.4, **common: Unpack[Common]) -> UnmaskingSampler:
    """DInfer's hierarchical decoding: also the best of every run of masks.

    Args:
        threshold: a token above this probability is written.
        low_threshold: the best of a run is written above this one.

    Reference:
        Ma et al., "dInfer", arXiv 2510.08666.
    """
    return _sure(Hierarchy(threshold, low_threshold), common)


@preset(block_length=32)
def credit(threshold: float = 0.9, **common: Unpack[Common]) -> UnmaskingSampler:
    """DInfer's credit decoding: a token that stays the favourite of its position is trusted sooner.

    Where no token passes, the best one is written; dInfer writes those within 1e-5 of it, too.

    Args:
        threshold: least probability, bonus included.

    Reference:
        arXiv 2510.08666.
    """
    return UnmaskingSampler(Threshold(threshold), Confidence(), adjustments=(Credit(),), **common_parts(common))


@preset(without=("temperature", "top_p", "top_k"))
def self_speculative(guesses: int = 4, **common: Unpack[Common]) -> SpeculativeSampler:
    """Self-speculative decoding: greedy, the result of one token per step, in fewer calls of more rows.

    Args:
        guesses: steps that a call looks ahead.

    Reference:
        Gao et al., arXiv 2510.04147.
    """
    return SpeculativeSampler(guesses, **common_parts(common))


@preset(without=("block_length", "guidance"))
def tidar(guesses: int = 4, **common: Unpack[Common]) -> DraftAndVerify:
    """Self-speculation of a converted model: guesses at masks, checked by the causal pass of the same weights.

    The text, or at a temperature its law, is that of autoregressive decoding; ``guesses=0`` is that decoding.

    Args:
        guesses: tokens that a call guesses; it settles up to one more.

    Reference:
        Liu et al., "TiDAR: Think in Diffusion, Talk in Autoregression", arXiv 2511.08923.
    """
    return DraftAndVerify(
        guesses,
        common["temperature"],
        common["top_p"],
        common["top_k"],
        common["stop_token_ids"],
        common["suppress_tokens"],
    )

"""What to measure: the bound, likelihoods of answers, and what a bound has to beat."""

from llada.metrics.bound_report import BoundReport
from llada.metrics.generative import GenerativePerplexity, GenerativeQuality, shifted_logits, unigram_entropy
from llada.metrics.greedy import greedy_match
from llada.metrics.likelihood import ConditionalLikelihood, LikelihoodEstimate, masked_log_likelihood
from llada.metrics.masks import BalancedMasks, MaskDesign, Masks, StratifiedCounts, mc_counts
from llada.metrics.nelbo import BoundEstimate, BoundMetric, NoiseLevelMetric
from llada.metrics.next_token import NextTokenLikelihood, next_token_greedy_match, next_token_log_likelihood
from llada.metrics.ngram import NGramBaseline
from llada.metrics.preference import PreferenceMetric
from llada.metrics.sampler_likelihood import SamplerLikelihood, UnderSampler

__all__ = [
    "BalancedMasks",
    "BoundEstimate",
    "BoundMetric",
    "BoundReport",
    "ConditionalLikelihood",
    "GenerativePerplexity",
    "GenerativeQuality",
    "LikelihoodEstimate",
    "MaskDesign",
    "Masks",
    "NGramBaseline",
    "NextTokenLikelihood",
    "NoiseLevelMetric",
    "PreferenceMetric",
    "SamplerLikelihood",
    "StratifiedCounts",
    "UnderSampler",
    "greedy_match",
    "masked_log_likelihood",
    "mc_counts",
    "next_token_greedy_match",
    "next_token_log_likelihood",
    "shifted_logits",
    "unigram_entropy",
]

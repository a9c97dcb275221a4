"""Decoding: fill the masks of a canvas."""

from llada.samplers.amount.amount import Commit, EntropyBound, Factor, Scored, Threshold
from llada.samplers.amount.quota import Binomial, CosineQuota, DreamFloor, Hierarchy, PerStep, Quota, ThresholdOrQuota
from llada.samplers.amount.stability import Credit, Stability
from llada.samplers.caches.delayed import DelayedCache, IntervalCache
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.caches.regions import DualCache, ExactCache, PrefixCache, RegionCache, VicinityCache
from llada.samplers.canvas import Canvas, canvas
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.constraints.allow_lists import AllowLists
from llada.samplers.constraints.regular import RegularExpression
from llada.samplers.editing import EditingSampler
from llada.samplers.guidance import Guidance, GuidedDenoiser
from llada.samplers.next_token import NextToken
from llada.samplers.order import (
    BlindOrder,
    Confidence,
    Demote,
    LeftToRight,
    Margin,
    Measure,
    NegativeEntropy,
    Order,
    RandomOrder,
    Stochastic,
)
from llada.samplers.presets import PRESETS, ancestral, low_confidence, random_remasking
from llada.samplers.propose import Candidates, Proposal, Proposed
from llada.samplers.rates.rates import Ancestral, FirstHitting, Progress, Rates, TauLeaping
from llada.samplers.rates.remask import (
    CappedRemasking,
    ConfidenceRemasking,
    ForwardBackwardRemasking,
    LoopRemasking,
    Remasking,
    RescaledRemasking,
)
from llada.samplers.sampler import Sample, Sampler, Step
from llada.samplers.speculative import SpeculativeSampler
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.window import Blocks, Sliding, WholeCanvas, Window

__all__ = [
    "PRESETS",
    "Adjustment",
    "AllowLists",
    "Ancestral",
    "Binomial",
    "BlindOrder",
    "Blocks",
    "CachePolicy",
    "Candidates",
    "Canvas",
    "CappedRemasking",
    "Commit",
    "Confidence",
    "ConfidenceRemasking",
    "CosineQuota",
    "Credit",
    "DelayedCache",
    "Demote",
    "DreamFloor",
    "DualCache",
    "EditingSampler",
    "EntropyBound",
    "ExactCache",
    "Factor",
    "FirstHitting",
    "ForwardBackwardRemasking",
    "Guidance",
    "GuidedDenoiser",
    "Hierarchy",
    "IntervalCache",
    "LeftToRight",
    "LoopRemasking",
    "Margin",
    "Measure",
    "NegativeEntropy",
    "NextToken",
    "NoCache",
    "Order",
    "PerStep",
    "PrefixCache",
    "Progress",
    "Proposal",
    "Proposed",
    "Quota",
    "RandomOrder",
    "Rates",
    "RegionCache",
    "RegularExpression",
    "Remasking",
    "RescaledRemasking",
    "Sample",
    "Sampler",
    "Scored",
    "Sliding",
    "SpeculativeSampler",
    "Stability",
    "Step",
    "Stochastic",
    "TauLeaping",
    "Threshold",
    "ThresholdOrQuota",
    "UnmaskingSampler",
    "VicinityCache",
    "WholeCanvas",
    "Window",
    "ancestral",
    "canvas",
    "low_confidence",
    "random_remasking",
]

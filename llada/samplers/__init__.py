"""Decoding: write the open positions of a canvas."""

from llada.samplers.amount.amount import Amount, EntropyBound, Factor, Threshold, Tied
from llada.samplers.amount.certain import Hierarchy, LocalLeap, ThresholdOrQuota
from llada.samplers.amount.quota import Binomial, CosineQuota, DreamFloor, PerStep, Quota
from llada.samplers.amount.stability import Credit, Stability
from llada.samplers.backtracking import BacktrackingSampler
from llada.samplers.caches.delayed import DelayedCache, IntervalCache
from llada.samplers.caches.distinct import DistinctRows
from llada.samplers.caches.exact import ExactCache
from llada.samplers.caches.policy import CachePolicy, NoCache
from llada.samplers.caches.regions import DualCache, PrefixCache, RegionCache, VicinityCache
from llada.samplers.calibrated import AnnealedConfidence, PositionCalibrated
from llada.samplers.chain import ChainSampler
from llada.samplers.classifier import Classifier, ClassifierGuidance, GradientGuidance, LawGuidance
from llada.samplers.composed import ComposedSampler
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.constraints.allow_lists import AllowLists
from llada.samplers.constraints.regular import RegularExpression
from llada.samplers.draft_verify import DraftAndVerify
from llada.samplers.editing import EditingSampler
from llada.samplers.from_prompts import Canvas, canvas
from llada.samplers.gibbs import GibbsSampler
from llada.samplers.guidance import Guidance, GuidedDenoiser
from llada.samplers.length.daedal import Daedal
from llada.samplers.length.dreamon import DreamOn
from llada.samplers.length.insertion import InsertionSampler
from llada.samplers.length.levenshtein import LevenshteinSampler
from llada.samplers.length.policy import Asked, Change, LengthPolicy
from llada.samplers.length.resizing import ResizingSampler
from llada.samplers.length.until_stop import UntilStop
from llada.samplers.next_token import NextToken
from llada.samplers.order import (
    Confidence,
    LeftToRight,
    Margin,
    Measure,
    NegativeEntropy,
    Order,
    RandomOrder,
    TopProb,
)
from llada.samplers.part import Part
from llada.samplers.particles import Particles
from llada.samplers.planning import PlanningSampler
from llada.samplers.potential import ClassifierPotential, Potential, TokenPotential, TotalPotential
from llada.samplers.propose import Proposal
from llada.samplers.psi import ConstantKappa, Kappa, PsiSampler, RemaskingKappa, Stretches
from llada.samplers.published.cached import (
    dkv_cache,
    dllm_cache,
    fast_dllm_dual,
    fast_dllm_prefix,
    vicinity,
)
from llada.samplers.published.parallel import (
    credit,
    eb_sampler,
    fast_dllm,
    fast_dllm_factor,
    hierarchy,
    klass,
    llada2,
    llada21,
    llada21_quality,
    llada21_speed,
    local_leap,
    margin_threshold,
    self_speculative,
    tidar,
)
from llada.samplers.published.preset import PRESETS
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
    p2,
    pc_sampler,
    random_remasking,
    topk_margin,
)
from llada.samplers.published.revoking import saber, wino
from llada.samplers.published.spacing import comb, spread
from llada.samplers.rates.rates import Ancestral, FirstHitting, Rates, TauLeaping
from llada.samplers.rates.remask import (
    CappedRemasking,
    ConfidenceRemasking,
    ForwardBackwardRemasking,
    LoopRemasking,
    Remasking,
    RescaledRemasking,
)
from llada.samplers.renoise import CommitAndRenoise
from llada.samplers.reverse import AncestralSampler
from llada.samplers.sampler import Sample, Sampler, Step, TextLikelihood, finish
from llada.samplers.spacing import Comb, Spread
from llada.samplers.speculative import SpeculativeSampler
from llada.samplers.state import State
from llada.samplers.steered import ParticleSampler
from llada.samplers.turned import Demote, Stochastic
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.verifying import VerifyingSampler
from llada.samplers.window import Blocks, Sliding, WholeCanvas, Window

__all__ = [
    "PRESETS",
    "Adjustment",
    "AllowLists",
    "Amount",
    "Ancestral",
    "AncestralSampler",
    "AnnealedConfidence",
    "Asked",
    "BacktrackingSampler",
    "Binomial",
    "Blocks",
    "CachePolicy",
    "Canvas",
    "CappedRemasking",
    "ChainSampler",
    "Change",
    "Classifier",
    "ClassifierGuidance",
    "ClassifierPotential",
    "Comb",
    "CommitAndRenoise",
    "ComposedSampler",
    "Confidence",
    "ConfidenceRemasking",
    "ConstantKappa",
    "CosineQuota",
    "Credit",
    "Daedal",
    "DelayedCache",
    "Demote",
    "DistinctRows",
    "DraftAndVerify",
    "DreamFloor",
    "DreamOn",
    "DualCache",
    "EditingSampler",
    "EntropyBound",
    "ExactCache",
    "Factor",
    "FirstHitting",
    "ForwardBackwardRemasking",
    "GibbsSampler",
    "GradientGuidance",
    "Guidance",
    "GuidedDenoiser",
    "Hierarchy",
    "InsertionSampler",
    "IntervalCache",
    "Kappa",
    "LawGuidance",
    "LeftToRight",
    "LengthPolicy",
    "LevenshteinSampler",
    "LocalLeap",
    "LoopRemasking",
    "Margin",
    "Measure",
    "NegativeEntropy",
    "NextToken",
    "NoCache",
    "Order",
    "Part",
    "ParticleSampler",
    "Particles",
    "PerStep",
    "PlanningSampler",
    "PositionCalibrated",
    "Potential",
    "PrefixCache",
    "Proposal",
    "PsiSampler",
    "Quota",
    "RandomOrder",
    "Rates",
    "RegionCache",
    "RegularExpression",
    "Remasking",
    "RemaskingKappa",
    "RescaledRemasking",
    "ResizingSampler",
    "Sample",
    "Sampler",
    "Sliding",
    "SpeculativeSampler",
    "Spread",
    "Stability",
    "State",
    "Step",
    "Stochastic",
    "Stretches",
    "TauLeaping",
    "TextLikelihood",
    "Threshold",
    "ThresholdOrQuota",
    "Tied",
    "TokenPotential",
    "TopProb",
    "TotalPotential",
    "UnmaskingSampler",
    "UntilStop",
    "VerifyingSampler",
    "VicinityCache",
    "WholeCanvas",
    "Window",
    "ancestral",
    "block_diffusion",
    "canvas",
    "comb",
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
    "finish",
    "first_hitting",
    "forward_backward",
    "hierarchy",
    "klass",
    "left_to_right",
    "llada2",
    "llada21",
    "llada21_quality",
    "llada21_speed",
    "local_leap",
    "low_confidence",
    "margin_threshold",
    "maskgit",
    "maskgit_plus",
    "p2",
    "pc_sampler",
    "random_remasking",
    "remdm_cap",
    "remdm_conf",
    "remdm_loop",
    "remdm_rescale",
    "saber",
    "sedd_analytic",
    "self_speculative",
    "spread",
    "tau_leaping",
    "tidar",
    "topk_margin",
    "vicinity",
    "wino",
]

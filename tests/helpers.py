"""Lists of everything, over which the property tests run."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from llada.noise import (
    ArccosSchedule,
    CosineSchedule,
    CosineSquaredSchedule,
    GeometricSchedule,
    LinearSchedule,
    LinearSigmaSchedule,
    LogarithmicSchedule,
    MDLMCosineSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    PowerSchedule,
    RescaledSchedule,
)
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import (
    Ancestral,
    AnnealedConfidence,
    BacktrackingSampler,
    Binomial,
    Blocks,
    CappedRemasking,
    Comb,
    Confidence,
    ConfidenceRemasking,
    CosineQuota,
    Credit,
    DelayedCache,
    Demote,
    DreamFloor,
    DualCache,
    EditingSampler,
    EntropyBound,
    Factor,
    FirstHitting,
    ForwardBackwardRemasking,
    Guidance,
    Hierarchy,
    IntervalCache,
    LeftToRight,
    LocalLeap,
    LoopRemasking,
    Margin,
    NegativeEntropy,
    PerStep,
    PlanningSampler,
    PositionCalibrated,
    PrefixCache,
    Proposal,
    Quota,
    RandomOrder,
    RescaledRemasking,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Spread,
    Stability,
    State,
    Stochastic,
    TauLeaping,
    Threshold,
    ThresholdOrQuota,
    Tied,
    TopProb,
    UnmaskingSampler,
    VerifyingSampler,
    VicinityCache,
)


@dataclass(frozen=True)
class AlphaAlone(NoiseSchedule):
    """What a user writes: the curve and nothing else."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-t / (1.0 - t).clamp(min=1e-300)) if t.dtype == torch.float64 else torch.exp(-t / (1.0 - t))


ALL_SCHEDULES: list[NoiseSchedule] = [
    LinearSchedule(),
    LinearSchedule(eps=1e-3),
    CosineSchedule(),
    MDLMCosineSchedule(),
    CosineSquaredSchedule(),
    PolynomialSchedule(2.0),
    PolynomialSchedule(0.5),
    PowerSchedule(2.0),
    LogarithmicSchedule(),
    ArccosSchedule(),
    GeometricSchedule(),
    LinearSigmaSchedule(1e-3, 7.0),
    RescaledSchedule(GeometricSchedule()),
    AlphaAlone(),
]

DRAWN = Proposal(temperature=1.0)


def step_of(
    columns: Tensor, process: MaskingProcess, *, random: RowRandom, offset: Tensor | None = None, **fields: Any
) -> State:
    """A step whose candidates are open positions at these columns, (B, M) int64; ``fields`` are others of `State`."""
    tokens = torch.full((len(columns), int(columns.max()) + 1), process.mask_token_id)
    still_open = tokens == process.mask_token_id
    padding = torch.zeros_like(columns[:, :1]) if offset is None else offset
    known = {"tokens": tokens, "open": still_open, "given": ~still_open, "valid": torch.ones_like(columns).bool()}
    return State(
        process=process, offset=padding, random=random, window_random=random, columns=columns, **known | fields
    )


ALL_SAMPLERS: dict[str, Sampler] = {
    "quota": UnmaskingSampler(Quota(5)),
    "quota, more steps than masks": UnmaskingSampler(Quota(40), proposal=DRAWN),
    "quota in blocks": UnmaskingSampler(Quota(7), window=Blocks(4)),
    "quota in blocks with a stop": UnmaskingSampler(Quota(7), window=Blocks(4, stop_token_ids=2), proposal=DRAWN),
    "calibrated quota in blocks from the start": UnmaskingSampler(
        Quota(7), PositionCalibrated(0.1), window=Blocks(4, from_start=True)
    ),
    "margin": UnmaskingSampler(Quota(4), order=Margin(), proposal=DRAWN),
    "entropy after top-p": UnmaskingSampler(
        Quota(4), order=NegativeEntropy(filtered=True), proposal=Proposal(0.8, top_p=0.9, top_k=5)
    ),
    "random": UnmaskingSampler(Quota(4), order=RandomOrder(), proposal=DRAWN),
    "left to right": UnmaskingSampler(PerStep(1), order=LeftToRight(), proposal=DRAWN),
    "spread": UnmaskingSampler(Quota(4), order=Spread(), proposal=DRAWN),
    "combs": UnmaskingSampler(Tied(), order=Comb(Margin(), 3), proposal=DRAWN),
    "top_prob": UnmaskingSampler(Quota(4), order=TopProb(), proposal=DRAWN),
    "two per step": UnmaskingSampler(PerStep(2), proposal=DRAWN),
    "demoted": UnmaskingSampler(Quota(4), order=Demote(Confidence(), (2, 3))),
    "confidence without EOS": UnmaskingSampler(Quota(4), order=Confidence(without=(2,))),
    "stochastic order": UnmaskingSampler(DreamFloor(6), order=Stochastic(Confidence(filtered=True), 0.5)),
    "cosine, annealed": UnmaskingSampler(CosineQuota(6), AnnealedConfidence(2.0), proposal=DRAWN),
    "threshold": UnmaskingSampler(Threshold(0.4), proposal=DRAWN),
    "threshold in blocks": UnmaskingSampler(Threshold(0.4), window=Blocks(4)),
    "factor": UnmaskingSampler(Factor(1.5)),
    "entropy bound": UnmaskingSampler(EntropyBound(0.5), order=NegativeEntropy(), proposal=DRAWN),
    "stability": UnmaskingSampler(Stability(0.3, 0.5, history=1)),
    "threshold or quota": UnmaskingSampler(ThresholdOrQuota(3, 0.4, 4), window=Blocks(4)),
    "hierarchy": UnmaskingSampler(Hierarchy(0.6, 0.2)),
    "credit": UnmaskingSampler(Threshold(0.5), adjustments=(Credit(),)),
    "guided": UnmaskingSampler(Quota(4), guidance=Guidance(1.5)),
    "sliding": UnmaskingSampler(Threshold(0.4), window=Sliding(4)),
    "sliding with a stop": UnmaskingSampler(PerStep(2), window=Sliding(4, stop_token_ids=2), proposal=DRAWN),
    "ancestral": UnmaskingSampler(Binomial(6), order=RandomOrder(), proposal=DRAWN),
    "ancestral to 1e-3": UnmaskingSampler(Binomial(6), order=RandomOrder(), proposal=DRAWN, rates=Ancestral(1e-3)),
    "ancestral by confidence": UnmaskingSampler(Binomial(6), proposal=DRAWN),
    "ancestral, a step per mask": UnmaskingSampler(Binomial(), RandomOrder(), proposal=DRAWN, window=Blocks(4)),
    "tau-leaping": UnmaskingSampler(Binomial(6), order=RandomOrder(), proposal=DRAWN, rates=TauLeaping()),
    "first hitting": UnmaskingSampler(PerStep(1), order=RandomOrder(), proposal=DRAWN, rates=FirstHitting()),
    **{
        f"remasking, {type(rates).__name__}": UnmaskingSampler(
            Binomial(8), order=RandomOrder(), proposal=DRAWN, rates=rates
        )
        for rates in (
            CappedRemasking(0.2),
            RescaledRemasking(0.3),
            ConfidenceRemasking(),
            ForwardBackwardRemasking(),
            LoopRemasking(0.3),
        )
    },
    "editing": EditingSampler(0.6, 0.4, max_edits=3, proposal=DRAWN, window=Blocks(4)),
    "editing with a stop": EditingSampler(0.6, 0.4, max_edits=3, window=Blocks(4, stop_token_ids=2)),
    "planning": PlanningSampler(6, proposal=Proposal(0.8)),
    "planning, a step per mask, with a dual cache": PlanningSampler(
        doubt=2.0, window=Blocks(4, stop_token_ids=2), cache=DualCache()
    ),
    "backtracking": BacktrackingSampler(3, 2, proposal=Proposal(0.8)),
    "backtracking in blocks with a dual cache": BacktrackingSampler(
        window=Blocks(4, stop_token_ids=2), cache=DualCache(), guidance=Guidance(1.0)
    ),
    "verifying": VerifyingSampler(0.3, 0.2, proposal=Proposal(0.8)),
    "verifying in blocks with a stop": VerifyingSampler(0.4, 0.4, window=Blocks(4, stop_token_ids=2)),
    "local leap": UnmaskingSampler(LocalLeap(0.4, 0.2, 1)),
    "speculative": SpeculativeSampler(3),
    "speculative in blocks": SpeculativeSampler(5, NegativeEntropy(), window=Blocks(4, stop_token_ids=2)),
    "guided editing with a dual cache": EditingSampler(
        0.6, 0.4, max_edits=3, window=Blocks(4), guidance=Guidance(1.0), cache=DualCache()
    ),
    "guided speculation with a dual cache": SpeculativeSampler(
        3, window=Blocks(4, stop_token_ids=2), guidance=Guidance(1.0), cache=DualCache()
    ),
    "prefix cache": UnmaskingSampler(Quota(7), window=Blocks(4), cache=PrefixCache()),
    "dual cache": UnmaskingSampler(Threshold(0.4), window=Blocks(4), cache=DualCache()),
    "vicinity cache": UnmaskingSampler(Threshold(0.4), window=Blocks(4), cache=VicinityCache(warm_up=1, radius=2)),
    "delayed cache": UnmaskingSampler(Quota(7), cache=DelayedCache(refresh=3), proposal=DRAWN),
    "interval cache": UnmaskingSampler(Quota(7), cache=IntervalCache(6, 3, 0.5), proposal=DRAWN),
}
"""Every way of decoding, with small numbers; a new part gets a line here."""


def lines_run(action: Callable[[], object]) -> int:
    """How many lines of Python an action runs, whatever the speed of the machine."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count

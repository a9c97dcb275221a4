"""How often decoding asks the device for a number, which makes it wait: never where the step tells, else once or twice.

Counted are all ways from a tensor's content to Python: item, bool, int (one operation of the dispatcher), sizes that
depend on content (nonzero, boolean indices), and `tolist`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llada.process import MaskingProcess
from llada.samplers import (
    AllowLists,
    BacktrackingSampler,
    Binomial,
    CappedRemasking,
    Confidence,
    Credit,
    DreamFloor,
    EditingSampler,
    EntropyBound,
    Factor,
    FirstHitting,
    Guidance,
    NegativeEntropy,
    PerStep,
    Proposal,
    Quota,
    RandomOrder,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Stability,
    Stochastic,
    Threshold,
    ThresholdOrQuota,
    UnmaskingSampler,
    VerifyingSampler,
    WholeCanvas,
)

MASK, LENGTH = 11, 12
DRAWN = Proposal(1.0, top_p=0.9, top_k=5)
WAITING = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select}
ALLOWED: dict[str, tuple[int, Sampler]] = {
    # Counts that follow from numbers: the whole loop runs ahead of the device.
    "quota": (0, UnmaskingSampler(Quota(6), proposal=DRAWN)),
    "random order": (0, UnmaskingSampler(Quota(6), order=RandomOrder(), proposal=DRAWN)),
    "one per step": (0, UnmaskingSampler(PerStep(1), order=Stochastic(Confidence(), 0.5))),
    "Dream's floor": (0, UnmaskingSampler(DreamFloor(6), order=NegativeEntropy(filtered=True), proposal=DRAWN)),
    "first hitting": (0, UnmaskingSampler(PerStep(1), RandomOrder(), proposal=DRAWN, rates=FirstHitting())),
    "guided words": (0, UnmaskingSampler(Quota(6), guidance=Guidance(1.0), adjustments=(AllowLists({8: (1, 2)}),))),
    "credit": (0, UnmaskingSampler(PerStep(1), adjustments=(Credit(),))),
    # Counts that the model decides: one question, how many masks the fullest row has left.
    "threshold": (1, UnmaskingSampler(Threshold(0.9))),
    "backtracking": (1, BacktrackingSampler()),
    "verifying": (1, VerifyingSampler()),
    "factor": (1, UnmaskingSampler(Factor(0.5))),
    "entropy bound": (1, UnmaskingSampler(EntropyBound(0.1), order=NegativeEntropy())),
    "stability": (1, UnmaskingSampler(Stability(0.3, 0.5, history=1))),
    "threshold or quota": (1, UnmaskingSampler(ThresholdOrQuota(6, 0.9, 12))),
    "ancestral by confidence": (1, UnmaskingSampler(Binomial(6), proposal=DRAWN)),
    "sliding, with a stop": (1, UnmaskingSampler(PerStep(1), window=Sliding(4, stop_token_ids=2))),
    "editing": (1, EditingSampler(0.3, 0.2, window=WholeCanvas())),
    # And how many tokens its coins have chosen, so that the model runs on those alone.
    "ancestral": (2, UnmaskingSampler(Binomial(20), RandomOrder(), proposal=DRAWN)),
    "remasking": (2, UnmaskingSampler(Binomial(20), RandomOrder(), proposal=DRAWN, rates=CappedRemasking(0.2))),
    # Whether a row is unfinished, and how many masks the fullest state has.
    "speculative": (2, SpeculativeSampler(3)),
}


class Counter(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean = func.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += boolean or func.overloadpacket in WAITING
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """A counter that sees `tolist` too, which doesn't go through the dispatcher."""
    plain = Tensor.tolist
    with Counter() as counter, monkeypatch.context() as patch:

        def tolist(tensor: Tensor) -> Any:
            counter.count += 1
            return plain(tensor)

        patch.setattr(Tensor, "tolist", tolist)
        yield counter


@pytest.mark.parametrize("name", ALLOWED)
def test_questions_per_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    table, process = torch.randn(12, 12), MaskingProcess(MASK)
    calls, allowed, sampler = 0, *ALLOWED[name]

    def model(tokens: Tensor, attention_mask: Tensor | None = None, shadow: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        return table[tokens.roll(1, 1)]

    tokens = torch.full((3, LENGTH), MASK)
    tokens[:, 0], tokens[1, 2:5] = torch.arange(3), 7
    counts = []
    with counting(monkeypatch) as counter:
        for _ in sampler.iterate(model, tokens, process):
            counts.append(counter.count)
    assert len(counts) > 2
    steps = 20 if allowed == 2 and name != "speculative" else len(counts) - 1  # those that write nothing ask too
    asked = counts[-1] - counts[0]
    assert asked <= allowed * steps
    assert (asked > 0) == (allowed > 0)


def test_the_counter_sees_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([1, 0])
    ways: list[Callable[[], Any]] = [
        lambda: x[0].item(),
        lambda: bool(x.any()),
        lambda: int(x.max()),
        lambda: x.tolist(),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: x.masked_select(x > 0),
    ]
    for number, way in enumerate(ways):
        with counting(monkeypatch) as counter:
            way()
        assert counter.count >= 1, number

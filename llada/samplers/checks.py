"""Which parts of a sampler go together."""

from typing import TYPE_CHECKING

from llada.samplers.cache import NoCache
from llada.samplers.order import Measure

if TYPE_CHECKING:
    from llada.samplers.unmasking import UnmaskingSampler

_FIX = {
    Measure.PROBABILITY: "use order=Confidence() or Margin(), or another commit policy such as Quota",
    Measure.NEGATIVE_ENTROPY: "use order=NegativeEntropy(), or another commit policy such as Threshold",
}


def check_parts(sampler: "UnmaskingSampler") -> None:
    """Whether the parts of a sampler fit together.

    Raises:
        ValueError: if they don't, with the reason and what to use instead.
    """
    commit, order = type(sampler.commit).__name__, type(sampler.order).__name__
    if sampler.commit.needs is not Measure.RANK and sampler.order.measure is not sampler.commit.needs:
        raise ValueError(
            f"{commit} works on scores that are {sampler.commit.needs.value}, but {order} scores aren't; "
            f"{_FIX[sampler.commit.needs]}"
        )
    if sampler.rates.remasks and not sampler.commit.by_rates:
        raise ValueError(
            f"{type(sampler.rates).__name__} masks tokens again, but {commit} counts on masks only becoming fewer; "
            "use commit=Binomial(steps), whose coins follow the rates"
        )
    if sampler.rates.one_by_one and sampler.commit.most(2**62, 0, 2**62) != 1:
        raise ValueError(
            f"{type(sampler.rates).__name__} tells the time of every single token, but {commit} may write several in a "
            "step; use commit=PerStep(1), or rates=Ancestral()"
        )
    if sampler.rates.remasks and not isinstance(sampler.cache, NoCache):
        raise ValueError(
            f"{type(sampler.rates).__name__} masks tokens again, whose keys {type(sampler.cache).__name__} would keep; "
            "use cache=NoCache()"
        )
    if sampler.guidance.branches > 1 and not sampler.cache.guided:
        raise ValueError(
            f"{type(sampler.cache).__name__} takes the masked prompt of the unconditional input for masks to decode; "
            "use DualCache() or NoCache() with guidance"
        )
    for adjustment in sampler.adjustments:
        adjustment.check(sampler.proposal.forbidden)
    if sampler.window.width is not None:
        _check_sliding(sampler, commit)
    sampler.cache.check(sampler.window)


def _check_sliding(sampler: "UnmaskingSampler", commit: str) -> None:
    width = sampler.window.width
    assert width is not None
    if sampler.commit.steps is not None:
        raise ValueError(
            f"{commit} shares its steps among all masks, but a sliding window offers {width} of them at a time; "
            "use PerStep(count) or a policy of the Threshold kind, or window=Blocks(size)"
        )
    most = sampler.commit.most(2**62, 0, 1)
    if most is not None and most > width:
        raise ValueError(f"{commit} takes {most} tokens per step, but the sliding window holds only {width} masks")

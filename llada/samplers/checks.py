"""Which parts of a sampler go together."""

from typing import TYPE_CHECKING

from llada.samplers.caches.policy import NoCache
from llada.samplers.order import BlindOrder, Measure, Stochastic

if TYPE_CHECKING:
    from llada.samplers.session import Parts
    from llada.samplers.speculative import SpeculativeSampler
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
    if sampler.window.width is not None:
        _check_sliding(sampler, commit)
    _check_common(sampler)


def check_editing(sampler: "Parts") -> None:
    """Whether the parts of a sampler that replaces written tokens fit together.

    Raises:
        ValueError: if they don't, with the reason and what to use instead.
    """
    if sampler.window.width is not None:
        raise ValueError("a sliding window has no block to be corrected; use window=Blocks(size) or WholeCanvas()")
    if not sampler.cache.editable:
        raise ValueError(
            f"{type(sampler.cache).__name__} keeps the keys of written tokens, which editing may replace; "
            "use DualCache() or PrefixCache(), which compute the whole block in each step"
        )
    joint = [type(adjustment).__name__ for adjustment in sampler.adjustments if adjustment.joint]
    if joint:
        raise ValueError(
            f"{joint[0]} allows a token by what stands at other places, and editing replaces several of them at once; "
            "use UnmaskingSampler with it"
        )
    _check_common(sampler)


def check_speculative(sampler: "SpeculativeSampler") -> None:
    """Whether the parts of a sampler that looks ahead fit together.

    Raises:
        ValueError: if they don't, with the reason and what to use instead.
    """
    if sampler.proposal.temperature != 0.0 or isinstance(sampler.order, Stochastic):
        raise ValueError(
            "guesses are only checked against greedy steps: use a proposal of temperature 0 and an order without "
            "noise; or decode step by step with UnmaskingSampler(PerStep(1), ...)"
        )
    if isinstance(sampler.order, BlindOrder):
        raise ValueError(f"{sampler.order} doesn't ask the model, so it has no guesses; use order=Confidence()")
    if sampler.window.width is not None:
        raise ValueError("guesses need a fixed window; use WholeCanvas() or Blocks(size) instead of a sliding one")
    if not sampler.cache.memoryless:
        raise ValueError(
            f"{sampler.cache} computes different things in different steps, and a call that looks ahead has several "
            "steps at once; use NoCache(), ExactCache(), or DualCache() or PrefixCache() that refresh at the opening "
            "of a window only"
        )
    memories = [type(adjustment).__name__ for adjustment in sampler.adjustments if adjustment.remembers]
    if memories:
        raise ValueError(
            f"{memories[0]} remembers every step, and a call that looks ahead runs some that never happen; "
            "decode step by step with UnmaskingSampler(PerStep(1), ...)"
        )
    _check_common(sampler)


def _check_common(sampler: "Parts") -> None:
    if sampler.guidance.branches > 1 and not sampler.cache.guided:
        raise ValueError(
            f"{type(sampler.cache).__name__} takes the masked prompt of the unconditional input for masks to decode; "
            "use DualCache() or NoCache() with guidance"
        )
    for adjustment in sampler.adjustments:
        adjustment.check(sampler.proposal.forbidden)
    _check_constraints(sampler)
    sampler.cache.check(sampler.window)


def _check_constraints(sampler: "Parts") -> None:
    joint = [type(adjustment).__name__ for adjustment in sampler.adjustments if adjustment.joint]
    others = [type(a).__name__ for a in sampler.adjustments if a.restricts and not a.joint] + joint[1:]
    if joint and others:
        raise ValueError(
            f"{joint[0]} must know all that may be written, and {others[0]} rules tokens out without its knowledge; "
            "write what is certain into the canvas and the rest into one expression"
        )


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

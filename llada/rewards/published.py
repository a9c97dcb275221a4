"""Published methods as compositions: what each takes for the likelihood, and how it goes on from there.

Each returns the objective; the advantage that belongs to it stands beside it in `ADVANTAGES`. Samplers and numbers are
those of the authors' code, but for what their docstrings say.
"""

from llada.objectives import FrozenCopy, Reference
from llada.rewards.advantage import Advantage, GroupMean, LeaveOneOut, SoftmaxDifference, ZScore
from llada.rewards.bounds import BlockBound, Sandwich
from llada.rewards.loss import ClippedRatio, ClippedRow, OpenPositions, Reinforce, Rows
from llada.rewards.objective import OldPolicy, PolicyObjective
from llada.rewards.proxy import Coupled, FullMask, Replay
from llada.rewards.trajectory import Trajectory
from llada.samplers import Sampler

Sampling = Sampler | None


def trajectory_grpo(
    sampler: Sampling = None,
    num_steps: int | None = None,
    low: float = 0.2,
    high: float = 0.28,
    kl_weight: float = 0.0,
    reference: Reference | None = None,
    useful_only: bool = False,
) -> PolicyObjective:
    """The default: GRPO with the exact likelihood of the sampler's own steps.

    Args:
        sampler: writes the answers; None for one token per step, the surest first, at temperature 1.
        num_steps: see `Trajectory`.
        low: see `ClippedRatio`.
        high: see `ClippedRatio`.
        kl_weight: see `PolicyObjective`.
        reference: see `PolicyObjective`.
        useful_only: see `PolicyObjective`.
    """
    return PolicyObjective(
        _or_default(sampler),
        Trajectory(num_steps),
        ClippedRatio(low, high),
        kl_weight=kl_weight,
        reference=reference,
        useful_only=useful_only,
    )


def diffu_grpo(
    sampler: Sampling = None, prompt_masking: float = 0.15, kl_weight: float = 0.04, reference: Reference | None = None
) -> PolicyObjective:
    """diffu-GRPO: one pass over an answer that is masked throughout, PPO with a limit of 0.5, KL to the first model.

    Args:
        sampler: as in `trajectory_grpo`; d1 itself decodes by the drawn tokens' probability.
        prompt_masking: see `FullMask`.
        kl_weight: see `PolicyObjective`.
        reference: None for `FrozenCopy`.

    Reference:
        Zhao et al., "d1", arXiv 2504.12216.
    """
    return PolicyObjective(
        _or_default(sampler),
        FullMask(prompt_masking),
        ClippedRatio(0.5, 0.5),
        kl_weight=kl_weight,
        reference=_frozen(kl_weight, reference),
    )


def coupled_grpo(
    sampler: Sampling = None, kl_weight: float = 0.01, reference: Reference | None = None
) -> PolicyObjective:
    """coupled-GRPO: a mask and its complement.

    Args:
        sampler: as in `trajectory_grpo`.
        kl_weight: see `PolicyObjective`.
        reference: None for `FrozenCopy`.

    Reference:
        Gong et al., "DiffuCoder", arXiv 2506.20639.
    """
    return PolicyObjective(
        _or_default(sampler),
        Coupled(),
        ClippedRatio(0.5, 0.5),
        kl_weight=kl_weight,
        reference=_frozen(kl_weight, reference),
    )


def wd1(sampler: Sampling = None, prompt_masking: float = 0.15) -> PolicyObjective:
    """wd1: no ratio; the weights are in its advantage, which is taken per prompt, not over a device's batch.

    Args:
        sampler: as in `trajectory_grpo`.
        prompt_masking: see `FullMask`.

    Reference:
        Tang et al., "wd1", arXiv 2507.08838.
    """
    return PolicyObjective(_or_default(sampler), FullMask(prompt_masking), Reinforce(), Rows())


def spg(
    sampler: Sampling = None,
    draws: int = 2,
    beta: float = 1.5,
    mix: float = 0.5,
    prompt_masking: float = 0.15,
    block_length: int | None = 32,
) -> PolicyObjective:
    """SPG: a bound from below for what is good, one from above for what is bad.

    Args:
        sampler: as in `trajectory_grpo`.
        draws: see `Sandwich`.
        beta: see `Sandwich`.
        mix: see `Sandwich`.
        prompt_masking: see `Sandwich`.
        block_length: see `Sandwich`.

    Reference:
        Wang et al., "SPG", arXiv 2510.09541.
    """
    proxy = Sandwich(draws, beta, mix, prompt_masking, block_length)
    return PolicyObjective(_or_default(sampler), proxy, Reinforce())


def trace_rl(sampler: Sampling = None, shrink: int = 1, kl_weight: float = 0.01) -> PolicyObjective:
    """TraceRL without a value model: tokens where they were written, KL to the policy that wrote them.

    Args:
        sampler: as in `trajectory_grpo`.
        shrink: see `Replay`.
        kl_weight: see `PolicyObjective`.

    Reference:
        Wang et al., arXiv 2509.06949.
    """
    reference = OldPolicy() if kl_weight > 0.0 else None
    return PolicyObjective(
        _or_default(sampler),
        Replay(shrink),
        ClippedRatio(0.2, 0.2),
        OpenPositions(),
        kl_weight=kl_weight,
        reference=reference,
    )


def ebpo(
    sampler: Sampling = None,
    levels: tuple[float, ...] = (0.125, 0.375, 0.625, 0.875),
    block_length: int | None = None,
    low: float = 0.2,
    high: float = 0.28,
) -> PolicyObjective:
    """EBPO: one ratio of bounds per row. The report leaves levels, weights and limits open.

    Args:
        sampler: as in `trajectory_grpo`.
        levels: see `BlockBound`.
        block_length: see `BlockBound`.
        low: see `ClippedRow`.
        high: see `ClippedRow`.

    Reference:
        "LLaDA2.1", arXiv 2602.08676.
    """
    return PolicyObjective(_or_default(sampler), BlockBound(levels, block_length), ClippedRow(low, high), Rows())


ADVANTAGES: dict[str, Advantage] = {
    "trajectory_grpo": LeaveOneOut(),
    "diffu_grpo": GroupMean(),
    "coupled_grpo": LeaveOneOut(),
    "wd1": SoftmaxDifference(),
    "spg": GroupMean(),
    "trace_rl": ZScore(),
    "ebpo": GroupMean(),
}
"""The advantage of each published method, by the name of its function."""


def _or_default(sampler: Sampling) -> Sampler:
    return PolicyObjective().sampler if sampler is None else sampler


def _frozen(kl_weight: float, reference: Reference | None) -> Reference | None:
    return FrozenCopy() if reference is None and kl_weight > 0.0 else reference

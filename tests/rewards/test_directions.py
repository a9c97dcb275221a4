"""Where updates point, against the gradient of the expected reward as a sum over all texts."""

import pytest

from examples.policy_gradients import METHODS, SAMPLERS, direction


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_default_climbs_the_expected_reward(sampler: str) -> None:
    """For groups of two, over all pairs: not in the mean of samples, but exactly."""
    assert all(direction("trajectory_grpo", sampler, seed) >= 0.999999 for seed in range(2))


def test_the_published_methods_climb_another_hill() -> None:
    """As the table in docs/rewards.md says; draws of masks are few here, so the limits are wide."""
    found = {name: direction(name, "left to right", 0, draws=100) for name in METHODS}
    assert found.pop("trajectory_grpo") >= 0.999999
    assert found.pop("trace_rl") > 0.7  # its z-score turns every difference of two into one
    assert len(found) == 5
    assert all(0.3 < cosine < 0.95 for cosine in found.values()), found

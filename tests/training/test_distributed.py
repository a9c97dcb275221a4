"""Ranks and accumulation steps change nothing: the same gradients and weights as one big batch."""

from functools import cache

import pytest
import torch

from tests.ranks import run_two_ranks
from tests.scripts.train_distributed import fit

Result = dict[str, torch.Tensor]


@cache
def one_big_batch(objective: str) -> Result:
    return fit(1, 1, 8, objective)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What two ranks give, by objective."""
    out = tmp_path_factory.mktemp("distributed") / "spread.pt"
    run_two_ranks("train_distributed.py", out, "token", "row", "preference")
    return torch.load(out, weights_only=True)


def assert_same(result: Result, expected: Result) -> None:
    torch.testing.assert_close(result["gradients"], expected["gradients"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result["weights"], expected["weights"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("objective", ["position", "token", "row", "masked", "preference"])
def test_accumulation_equals_one_big_batch(objective: str) -> None:
    assert_same(fit(1, 4, 2, objective), one_big_batch(objective))


@pytest.mark.parametrize("objective", ["token", "row", "preference"])
def test_two_ranks_with_accumulation_equal_one_big_batch(spread: dict[str, Result], objective: str) -> None:
    assert_same(spread[objective], one_big_batch(objective))


def test_the_comparison_would_notice_another_normaliser() -> None:
    assert not torch.allclose(one_big_batch("token")["gradients"], one_big_batch("row")["gradients"])

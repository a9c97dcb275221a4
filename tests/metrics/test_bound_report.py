"""The numbers of a stage, by name."""

import math

import pytest
import torch

from llada.metrics import BoundReport
from llada.objectives import ObjectiveOutput


def output(*nelbo: float, t: float = 0.25) -> ObjectiveOutput:
    rows = torch.ones(len(nelbo), dtype=torch.int64)
    total = torch.tensor(nelbo, dtype=torch.float64)
    return ObjectiveOutput(total.sum(), rows.sum(), total, 2 * rows, t * rows.double(), total / 2, rows)


def test_draws_are_averaged_and_noise_levels_are_kept_apart() -> None:
    report = BoundReport("val", noise_levels=True)
    report.update([output(2.0, 4.0), output(4.0, 8.0, t=0.95)])
    report.update([output(3.0), output(3.0)])
    found = report.compute()
    assert found["val/nll"].item() == pytest.approx((3.0 + 6.0 + 3.0) / 6)
    assert found["val/perplexity"].item() == pytest.approx(math.exp(2.0))
    assert found["val/nll_at_noise_0.3"].item() == pytest.approx((1.0 + 2.0 + 1.5 + 1.5) / 4)
    assert found["val/nll_at_noise_1.0"].item() == pytest.approx(3.0)
    assert set(found) == {
        "val/nll", "val/nll_se", "val/perplexity", "val/perplexity_se", "val/nll_at_noise_0.3", "val/nll_at_noise_1.0",
    }  # fmt: skip
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in found.values())
    report.reset()
    assert report.compute() == {}


def test_what_was_seen_and_is_no_number_is_told() -> None:
    report = BoundReport("val", noise_levels=True)
    report.update([output(2.0, math.nan)])
    with pytest.warns(UserWarning, match="val/nll is no number, since the model's logits aren't"):
        found = report.compute()
    assert set(found) == {"val/nll", "val/nll_at_noise_0.3"}
    assert all(bool(torch.isnan(value)) for value in found.values())


def test_bytes_give_bits_and_a_plain_report_has_no_noise_levels() -> None:
    report = BoundReport("test")
    report.update([output(2.0, 4.0)])
    found = report.compute(bytes_per_token=3.0)
    assert found["test/bits_per_byte"].item() == pytest.approx(1.5 / math.log(2.0) / 3.0)
    assert set(found) == {f"test/{name}{end}" for name in ("nll", "perplexity", "bits_per_byte") for end in ("", "_se")}


def test_it_keeps_nothing_in_a_checkpoint() -> None:
    assert BoundReport("val", noise_levels=True).state_dict() == {}

"""The gradients of examples/gradients.py are the library's, and its costs are counted as they should be."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = (4, 1)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    import importlib

    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("gradients", "gradient_errors", "gradient_costs")
    return {name: importlib.import_module(name) for name in names}


def test_the_frozen_loss_is_the_librarys(parts: dict[str, ModuleType]) -> None:
    loss = parts["gradients"].build(*TINY, dtype=torch.float64)
    assert loss().item() == loss.library().item()
    gradient, value = parts["gradients"].reverse(parts["gradients"].Function(loss))
    wanted = torch.autograd.grad(loss.library(), list(loss.parameters()))
    torch.testing.assert_close(gradient, torch.cat([part.flatten() for part in wanted]), rtol=1e-12, atol=1e-15)
    assert value.item() == loss().item()


def test_four_ways_to_one_gradient(parts: dict[str, ModuleType]) -> None:
    g = parts["gradients"]
    f = g.Function(g.build(*TINY, dtype=torch.float64), 40)
    gradient, value = g.reverse(f)
    scale = float(gradient.abs().max())
    assert len(gradient) == 40
    for other, tolerance in (
        (g.entries(lambda i: g.forward(f, i), 40), 1e-13),
        (g.batched_forward(f, 7), 1e-13),
        (g.entries(lambda i: g.central(f, i, 1e-5), 40), 1e-8),
        (g.batched_central(f, 7, 1e-5), 1e-8),
        (g.entries(lambda i: g.one_sided(f, i, 1e-7, value.detach()), 40), 1e-5),
        (g.batched_one_sided(f, 7, 1e-7), 1e-5),
    ):
        torch.testing.assert_close(other, gradient, rtol=0.0, atol=tolerance * scale)
    # A part of the parameters has that part of the gradient.
    whole = g.reverse(g.Function(f.loss))[0]
    torch.testing.assert_close(gradient, whole[f.chosen], rtol=1e-12, atol=0.0)


def test_operations_are_three_times_those_of_the_value(parts: dict[str, ModuleType]) -> None:
    g = parts["gradients"]
    f = g.Function(g.build(8, 2))
    value = g.flops(lambda: f(f.point))
    assert g.flops(lambda: g.reverse(f)) == 3 * value
    assert g.flops(lambda: g.directional(f, torch.ones_like(f.point))) == 3 * value


def test_checkpoints_keep_the_inputs_of_their_segments_and_every_bit(parts: dict[str, ModuleType]) -> None:
    g, costs = parts["gradients"], parts["gradient_costs"]
    gradient = costs._gradient(g.build(8, 4))
    stream = 4 * 32 * 8 * 4  # rows, tokens, width, bytes
    saved = {size: g.saved_bytes(g.checkpointed(g.build(8, 4), size)) for size in (1, 2, 4)}
    assert saved[1] - saved[2] == 2 * stream
    assert saved[2] - saved[4] == stream
    assert g.saved_bytes(g.build(8, 4)) > 5 * saved[1]
    for size in (1, 2, 4):
        assert torch.equal(costs._gradient(g.checkpointed(g.build(8, 4), size)), gradient)


def test_the_best_steps_are_where_they_are_predicted(parts: dict[str, ModuleType]) -> None:
    double, single = parts["gradient_errors"].valleys((2, 1), count=3, per_decade=1)
    for valley in (double, single):
        for (step, error), guess, curve in zip(
            valley.best(), valley.predicted, (valley.one_sided, valley.central), strict=True
        ):
            assert 0.03 < step / guess < 30.0  # the grid alone is a factor of ten
            assert min(curve[0], curve[-1]) > 10.0 * error  # a valley: both ends are far above its bottom
    assert double.best()[1][1] < double.best()[0][1] / 30.0


def test_training_curves_coincide(parts: dict[str, ModuleType]) -> None:
    descent = parts["gradient_errors"].curves((2, 1), steps=2)
    losses = descent.losses["reverse mode"]
    assert losses[1] < losses[0]
    assert descent.deviation()["forward mode"] < 1e-13
    assert descent.deviation()["central difference"] < 1e-8


def test_extrapolation_is_time_per_entry_times_entries(parts: dict[str, ModuleType]) -> None:
    costs, timing = parts["gradient_costs"], parts["gradients"].Timing
    entry: dict[str, Any] = {"one-sided": 0.001, "central": 0.002, "forward mode": 0.003}
    size = costs.Size(1000, timing(0.001, 0, 0), timing(0.004, 0, 0), timing(0.003, 0, 0), entry, 3.0, 3.0)
    assert size.ratio("central") == pytest.approx(1000 * 0.002 / 0.004)
    assert costs.crossings(size)["one-sided"] == pytest.approx((3e7, 4e7))
    assert costs.crossings(size)["forward mode"] == pytest.approx((1e7, 1e7 * 4 / 3))
    assert costs.slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1.0)

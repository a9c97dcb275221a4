"""Training until nothing improves any more: when it looks and ends, what it keeps, and that a stop changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from examples.claims.regularised import Regulariser, regularise
from examples.claims.twins import DIFFUSION, TWINS, Recipe
from examples.claims.until import CAPPED, IMPROVED, Looks, Patience, train
from llada import DiffusionLM

RECIPE = Recipe(6, 5, width=16, num_layers=1, num_heads=1)
ROWS = torch.randint(5, (8, 5), generator=torch.Generator().manual_seed(0))
PATIENCE = Patience(factor=2.0, spacing=1.5, least=4, most=40)


def batches(epoch: int) -> list[dict[str, torch.Tensor]]:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
    return [{"tokens": ROWS[group]} for group in order.split(4)]


def model() -> DiffusionLM:
    made = TWINS[DIFFUSION](RECIPE, 0)
    made.optimizer = partial(torch.optim.AdamW, lr=1e-2)
    regularise(made.backbone, Regulariser(dropout=0.2, hidden=0.2, mask_token_id=5))
    return made


def told(values: list[float]) -> Callable[[DiffusionLM], float]:
    """Values of the looks in turn, the last of them for good."""
    left = iter(values)
    return lambda _: next(left, values[-1])


def test_it_ends_by_patience_and_keeps_the_best_weights() -> None:
    seen = []

    def measure(model: DiffusionLM) -> float:
        assert not model.training
        seen.append(model.backbone.embedding.weight.clone())
        return [3.0, 2.0, 1.0][min(len(seen), 3) - 1]

    trained = model()
    curve = train(trained, batches, Looks(measure, PATIENCE))
    # Epochs of 2 steps; a look is due at 1.5 times the last one's steps, and the third is the first of the best.
    assert [look.step for look in curve.looks] == [2, 4, 6, 10, 16]
    assert [look.epoch for look in curve.looks] == [1, 2, 3, 5, 8]
    assert (curve.best.step, curve.ended) == (6, IMPROVED)
    torch.testing.assert_close(trained.backbone.embedding.weight, seen[2], rtol=0.0, atol=0.0)
    assert not torch.equal(seen[2], seen[4])


def test_the_cap_is_told_apart_from_convergence() -> None:
    improving = iter(range(100, 0, -1))
    curve = train(model(), batches, Looks(lambda _: float(next(improving)), PATIENCE))
    assert (curve.ended, curve.looks[-1].step) == (CAPPED, 40)
    assert PATIENCE.ended(3, 1) is None  # too early to end, however bad
    assert PATIENCE.ended(4, 2) == IMPROVED


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, values = model(), [3.0, 2.0, 1.0]
    expected = train(whole, batches, Looks(told(values), PATIENCE, None, seed=7))
    left = values[:2]

    def until_killed(_: DiffusionLM) -> float:
        if not left:
            raise RuntimeError("killed in the third look")
        return left.pop(0)

    with pytest.raises(RuntimeError, match="killed"):
        train(model(), batches, Looks(until_killed, PATIENCE, tmp_path, seed=7))
    again = model()
    curve = train(again, batches, Looks(told(values[2:]), PATIENCE, tmp_path, seed=7))
    assert [(look.epoch, look.step, look.value) for look in curve.looks] == [
        (look.epoch, look.step, look.value) for look in expected.looks
    ]
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    # A finished run is read, and not trained again.
    finished = train(model(), lambda _: [], Looks(told([]), PATIENCE, tmp_path, seed=7))
    assert (finished.ended, finished.best.step) == (IMPROVED, 6)


def test_a_longer_patience_goes_on_where_a_shorter_one_ended(tmp_path: Path) -> None:
    values, longer = [3.0, 2.0, 1.0, 1.5, 1.5, 0.5], replace(PATIENCE, least=30)
    whole = model()
    expected = train(whole, batches, Looks(told(values), longer, None, seed=7))
    assert [look.step for look in expected.looks] == [2, 4, 6, 10, 16, 24, 36, 40]
    short = train(model(), batches, Looks(told(values), PATIENCE, tmp_path, seed=7))
    assert (short.looks[-1].step, short.best.step) == (16, 6)
    again = model()
    curve = train(again, batches, Looks(told(values[5:]), longer, tmp_path, seed=7))
    assert [look.value for look in curve.looks] == [look.value for look in expected.looks]
    assert (curve.best.step, curve.ended) == (24, expected.ended)
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_what_is_left_out_comes_back_in_evaluation() -> None:
    recipe = Recipe(6, 5, width=16, num_layers=1, num_heads=1)
    plain, other = (TWINS[DIFFUSION](recipe, 0) for _ in range(2))
    regularise(other.backbone, Regulariser(dropout=0.5))
    tokens = ROWS[:2]
    torch.testing.assert_close(other.eval()(tokens), plain.eval()(tokens), rtol=0.0, atol=0.0)
    assert not torch.equal(other.train()(tokens), plain.train()(tokens))
    # Every token but the first is hidden: the model reads masks, and can't tell rows apart that begin alike.
    regularise(plain.backbone, Regulariser(hidden=1.0, mask_token_id=5))
    rows = torch.tensor([[0, 1, 2], [0, 3, 4]])
    hidden = plain.train()(rows)
    torch.testing.assert_close(hidden[0], hidden[1], rtol=0.0, atol=0.0)
    torch.testing.assert_close(hidden[:1], plain.eval()(torch.tensor([[0, 5, 5]])))
    assert not torch.equal(plain.eval()(rows)[0], plain.eval()(rows)[1])

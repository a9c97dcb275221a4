"""Which rank sees which rows when, and a loader that goes on in the middle of an epoch.

The order of an epoch is a permutation that follows from (seed, epoch) alone. Ranks take its rows in turn: rank r of W
takes places r, r + W, r + 2 W, ..., so a global batch is the same set of rows for any number of ranks.

The place is counted where batches are handed out, not where worker processes prepare them: it is the same for any
number of workers, and it is still there when the training has ended.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from llada.data.batch import TokenBatch, already_batched
from llada.data.order import RowOrder
from llada.data.place import check_place, epoch_length

MOST_WORKERS = 1024
"""Largest number of processes that load batches."""
_AT_ONCE = 4096
"""Places whose rows are worked out together."""


class TrainingSampler(DistributedSampler[int]):
    """Whole global batches in an order that follows from (seed, epoch).

    The rows that are left over when the last global batch isn't full are other ones in every epoch.

    Args:
        dataset: the rows. Where its ``by_epoch`` is true, as of a mixture, indices count on from epoch to epoch.
        batch_size: rows per rank and batch.
        num_replicas: W, ranks.
        rank: r.
        seed: of the order.

    Raises:
        ValueError: if the data is less than one global batch.

    Examples:
        >>> from llada.data import TrainingSampler
        >>> sampler = TrainingSampler(range(7), batch_size=2, num_replicas=2, rank=1, seed=0)
        >>> list(sampler)  # this rank's half of one batch of four; three rows are left for other epochs
        [6, 3]
        >>> sampler.set_epoch(1)
        >>> list(sampler)
        [0, 5]
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        check_loading(batch_size, 0)
        check_rank(num_replicas, rank)
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size = batch_size
        self.num_rows = len(dataset)  # type: ignore[arg-type]
        self.rows_per_step = batch_size * num_replicas
        self.num_samples = self.num_rows // self.rows_per_step * batch_size
        self.total_size = self.num_samples * num_replicas
        self.epoch_was_set = False
        self.begin: tuple[int, int] | None = None
        if self.num_samples == 0:
            raise ValueError(
                f"the training data has {self.num_rows} rows, less than one batch of {batch_size} on {num_replicas} "
                "rank(s); give more text, or a smaller batch_size or max_length"
            )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the Trainer is in."""
        self.epoch = epoch
        self.epoch_was_set = True

    def __iter__(self) -> Iterator[int]:
        """This rank's rows: of the epoch, or from the place ``begin`` (an epoch, and steps that are behind)."""
        epoch, steps = (self.epoch, 0) if self.begin is None else self.begin
        order = RowOrder(self.num_rows, self.seed, epoch)
        before = epoch * self.num_rows if getattr(self.dataset, "by_epoch", False) else 0
        for first in range(steps * self.batch_size, self.num_samples, _AT_ONCE):
            own = np.arange(first, min(first + _AT_ONCE, self.num_samples))
            yield from (order(own * self.num_replicas + self.rank) + before).tolist()

    def __len__(self) -> int:
        return self.num_samples


class EvaluationSampler(DistributedSampler[int]):
    """Every row exactly once over all ranks; -1 stands for nothing where a rank has one row less than others.

    Ranks must run the same number of batches, or collective operations wait for ever.

    Args:
        dataset: the rows.
        num_replicas: W, ranks.
        rank: r.

    Examples:
        >>> from llada.data import EvaluationSampler
        >>> [list(EvaluationSampler(range(5), num_replicas=2, rank=rank)) for rank in range(2)]
        [[0, 2, 4], [1, 3, -1]]
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int = 1, rank: int = 0) -> None:
        check_rank(num_replicas, rank)
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.num_rows = len(dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield place if place < self.num_rows else -1


class ResumableLoader(DataLoader[TokenBatch]):
    """A loader whose state is its place: an epoch, and the rows of it that all ranks together have taken.

    The iteration starts when the first batch is asked for: the Trainer makes an iterator before it tells the epoch.

    Attributes:
        trainer: whose counters must agree with the place; None for a loop of your own.

    Raises:
        ValueError: by ``load_state_dict``, if the state is of other data, another seed or another global batch.

    Examples:
        >>> from llada.data import ResumableLoader, TrainingSampler
        >>> first, second = (ResumableLoader(range(6), 2, sampler=TrainingSampler(range(6), 2)) for _ in range(2))
        >>> batches = iter(first)
        >>> before = next(batches)
        >>> second.load_state_dict(first.state_dict())
        >>> [batch.tolist() for batch in second] == [batch.tolist() for batch in batches]
        True
    """

    trainer: Trainer | None = None
    _running: Any = None
    _resumed: dict[str, int] | None = None
    _epoch = 0
    _steps = 0

    def __iter__(self) -> Iterator[TokenBatch]:  # type: ignore[override]  # the base class names its own iterator
        self.stop()
        if isinstance(self.sampler, TrainingSampler):  # the Trainer puts another in place to overfit a few batches
            self._begin(self.sampler)
        self._running = super().__iter__()
        for batch in self._running:
            self._steps += 1
            yield batch

    def stop(self) -> None:
        """End the worker processes of an iteration that was left early; garbage collection waits seconds for each."""
        running, self._running = self._running, None
        if self.num_workers and running is not None:
            running._shutdown_workers()

    def state_dict(self) -> dict[str, int]:
        """The place behind the last batch that was handed out, and what must not change; empty without an order."""
        if self._resumed is not None or not isinstance(self.sampler, TrainingSampler):
            return self._resumed or {}
        place = {
            "epoch": self._epoch if self._steps else self.sampler.epoch,
            "taken": self._steps * self.sampler.rows_per_step,
            "finished": int(self._steps >= epoch_length(self.trainer, len(self))),
        }
        return place | _fixed(self.sampler)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the state was taken, at the next iteration."""
        if not state_dict or not isinstance(self.sampler, TrainingSampler):
            return
        check_place(state_dict, _fixed(self.sampler))
        self._resumed = dict(state_dict)

    def _begin(self, sampler: TrainingSampler) -> None:
        """Set the place from which this iteration takes rows."""
        state, self._resumed = self._resumed, None
        self._epoch, self._steps = sampler.epoch, 0
        if state is not None and not state["finished"]:
            self._epoch, self._steps = state["epoch"], state["taken"] // sampler.rows_per_step
        elif state is not None and not sampler.epoch_was_set:
            self._epoch = state["epoch"] + 1
        if not sampler.epoch_was_set:
            sampler.epoch = self._epoch
        sampler.begin = self._epoch, self._steps


def _fixed(sampler: TrainingSampler) -> dict[str, int]:
    """What a place means nothing without."""
    return {"num_rows": sampler.num_rows, "seed": sampler.seed, "rows_per_step": sampler.rows_per_step}


def shard_of(trainer: Trainer | None) -> dict[str, int]:
    """Which of how many parts of the rows this process gets; the strategy knows, for ranks may share a replica."""
    kwargs = None if trainer is None else trainer.distributed_sampler_kwargs
    return {"num_replicas": 1, "rank": 0} if kwargs is None else kwargs


def training_loader(
    rows: Dataset[TokenBatch], batch_size: int, num_workers: int, seed: int, num_replicas: int = 1, rank: int = 0
) -> ResumableLoader:
    """Whole batches in a new order each epoch; arguments as in `TrainingSampler`."""
    sampler = TrainingSampler(rows, batch_size, num_replicas, rank, seed)
    return ResumableLoader(
        dataset=rows, batch_size=batch_size, sampler=sampler, drop_last=True, **_loading(num_workers)
    )


def evaluation_loader(
    rows: Dataset[TokenBatch], batch_size: int, num_workers: int, num_replicas: int = 1, rank: int = 0
) -> DataLoader[TokenBatch]:
    """Every row once, in order; arguments as in `EvaluationSampler`."""
    sampler = EvaluationSampler(rows, num_replicas, rank)
    return DataLoader(dataset=rows, batch_size=batch_size, sampler=sampler, **_loading(num_workers))


def check_rank(num_replicas: int, rank: int) -> None:
    """Whether a rank is one of so many.

    Raises:
        ValueError: if not.
    """
    if num_replicas < 1 or not 0 <= rank < num_replicas:
        raise ValueError(f"rank must be in 0 .. num_replicas - 1; got {rank=} and {num_replicas=}")


def check_loading(batch_size: int, num_workers: int) -> None:
    """Whether batches can be loaded like that.

    Args:
        batch_size: rows of a batch.
        num_workers: processes that load batches.

    Raises:
        ValueError: if a batch has no row, or no machine could start so many processes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size}")
    if not 0 <= num_workers <= MOST_WORKERS:
        raise ValueError(f"num_workers must be from 0 to {MOST_WORKERS}; got {num_workers}")


def _loading(num_workers: int) -> dict[str, Any]:
    return {"num_workers": num_workers, "collate_fn": already_batched, "pin_memory": torch.cuda.is_available()}

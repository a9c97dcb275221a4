"""Which rank sees which rows when, and a loader that goes on in the middle of an epoch.

The order of an epoch is a permutation that follows from (seed, epoch) alone. Ranks take its rows in turn: rank r of W
takes places r, r + W, r + 2 W, ..., so a global batch is the same set of rows for any number of ranks.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from llada.data.batch import TokenBatch, already_batched


class TrainingSampler(DistributedSampler[int]):
    """Whole global batches in an order that follows from (seed, epoch); its iterators resume exactly.

    The rows that are left over when the last global batch isn't full are other ones in every epoch.

    Args:
        dataset: the rows.
        batch_size: rows per rank and batch.
        num_replicas: W, ranks.
        rank: r.
        seed: of the order.

    Raises:
        ValueError: if the data is less than one global batch.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size = batch_size
        self.num_rows = len(dataset)  # type: ignore[arg-type]
        per_step = batch_size * num_replicas
        self.num_samples = self.num_rows // per_step * batch_size
        self.total_size = self.num_samples * num_replicas
        self.epoch_was_set = False
        if self.num_samples == 0:
            raise ValueError(
                f"the training data has {self.num_rows} rows, less than one batch of {batch_size} on {num_replicas} "
                "rank(s); give more text, or a smaller batch_size or max_length"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iterator gives."""
        self.epoch = epoch
        self.epoch_was_set = True

    def indices(self, epoch: int) -> list[int]:
        """This rank's rows of an epoch, in order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)[: self.total_size]
        rows: list[int] = order[self.rank :: self.num_replicas].tolist()
        return rows

    def __iter__(self) -> "TrainingIterator":
        return TrainingIterator(self)

    def __len__(self) -> int:
        return self.num_samples


class TrainingIterator(Iterator[int]):
    """One epoch of a `TrainingSampler`. Its state is the epoch and the place in it, the same on every rank."""

    def __init__(self, sampler: TrainingSampler) -> None:
        self.sampler, self.epoch, self.taken = sampler, sampler.epoch, 0
        self._indices: list[int] | None = None

    def __next__(self) -> int:
        if self.taken == self.sampler.num_samples:
            raise StopIteration
        if self._indices is None:
            self._indices = self.sampler.indices(self.epoch)
        self.taken += 1
        return self._indices[self.taken - 1]

    def state_dict(self) -> dict[str, int]:
        """The epoch, rows taken by all ranks together, and what must not change."""
        return {
            "epoch": self.epoch,
            "taken": self.taken * self.sampler.num_replicas,
            "num_rows": self.sampler.num_rows,
            "seed": self.sampler.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken.

        Raises:
            ValueError: if the data or the seed is another, or the place falls inside a global batch.
        """
        sampler = self.sampler
        for name, value in (("num_rows", sampler.num_rows), ("seed", sampler.seed)):
            if state[name] != value:
                raise ValueError(f"can't resume: the data has {name}={value}, but had {state[name]} when it was saved")
        per_step = sampler.batch_size * sampler.num_replicas
        if state["taken"] % per_step:
            raise ValueError(
                f"can't resume after {state['taken']} rows with {per_step} rows per step; keep batch_size times ranks"
            )
        self._indices, self.epoch, self.taken = None, state["epoch"], state["taken"] // sampler.num_replicas
        if sampler.epoch_was_set and sampler.epoch != self.epoch:
            # The trainer has gone on to another epoch, as after a checkpoint at the end of one cut short.
            self.epoch, self.taken = sampler.epoch, 0
        elif not sampler.epoch_was_set and self.taken >= sampler.num_samples:
            self.epoch, self.taken = self.epoch + 1, 0
        sampler.epoch = self.epoch


class EvaluationSampler(DistributedSampler[int]):
    """Every row exactly once over all ranks; -1 stands for nothing where a rank has one row less than others.

    Ranks must run the same number of batches, or collective operations wait for ever.

    Args:
        dataset: the rows.
        num_replicas: W, ranks.
        rank: r.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.num_rows = len(dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield place if place < self.num_rows else -1


class ResumableLoader(StatefulDataLoader[TokenBatch]):  # type: ignore[misc]  # torchdata isn't annotated
    """torchdata's `StatefulDataLoader`, started when the first batch is asked for.

    The Trainer makes an iterator before it tells the sampler the epoch, and worker processes would then fetch the wrong
    epoch's rows.

    Raises:
        ValueError: by ``load_state_dict``, if the number of workers has changed.
    """

    _running: Any = None

    def __iter__(self) -> Iterator[TokenBatch]:
        self.stop()
        self._running = super().__iter__()
        yield from self._running

    def stop(self) -> None:
        """End the worker processes of an iteration that was left early; garbage collection waits seconds for each."""
        running, self._running = self._running, None
        if self.num_workers and running is not None:
            running._shutdown_workers()

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch."""
        return {"num_workers": self.num_workers, "loader": super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken, at the next iteration."""
        saved = state_dict["num_workers"]
        if saved != self.num_workers:
            raise ValueError(f"can't resume with num_workers={self.num_workers}: the checkpoint has {saved}")
        super().load_state_dict(state_dict["loader"])


def training_loader(
    rows: Dataset[TokenBatch], batch_size: int, num_workers: int, seed: int, num_replicas: int = 1, rank: int = 0
) -> ResumableLoader:
    """Whole batches in a new order each epoch; arguments as in `TrainingSampler`."""
    sampler = TrainingSampler(rows, batch_size, num_replicas, rank, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 calls it
        return ResumableLoader(
            dataset=rows, batch_size=batch_size, sampler=sampler, drop_last=True, **_loading(num_workers)
        )


def evaluation_loader(
    rows: Dataset[TokenBatch], batch_size: int, num_workers: int, num_replicas: int = 1, rank: int = 0
) -> DataLoader[TokenBatch]:
    """Every row once, in order; arguments as in `EvaluationSampler`."""
    sampler = EvaluationSampler(rows, num_replicas, rank)
    return DataLoader(dataset=rows, batch_size=batch_size, sampler=sampler, **_loading(num_workers))


def _loading(num_workers: int) -> dict[str, Any]:
    return {"num_workers": num_workers, "collate_fn": already_batched, "pin_memory": torch.cuda.is_available()}

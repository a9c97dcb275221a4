"""Rollouts as a data loader: whoever asks for a batch gets answers of the policy as it is now, with their rewards.

    for each window of M micro-batches:      M batches of prompts are answered, judged and kept
        for inner = 0 .. mu - 1:             each of them is handed out again, for one optimiser step

so that the first of the mu steps is on-policy. Rollouts are a function of weights and seeds: prompt k of epoch e has
the same seeds for any number of ranks. Kept batches whose steps aren't all done are part of the loader's state, since
the weights that wrote them are gone by then; a resumed run goes on with them, bit by bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from llada.data.loader import shard_of
from llada.data.order import RowOrder
from llada.data.place import check_place, epoch_length
from llada.random import RowRandom
from llada.rewards.writer import Columns, Prompt, Writer, again

_SEEDS = 31


class RolloutLoader:
    """Batches of answers by the policy that is being trained.

    Args:
        prompts: what is asked; each once in an epoch, in an order that follows from seed and epoch.
        writer: how they are answered and judged.
        batch_size: prompts per batch and rank; a batch has as many times ``group_size`` rows.
        inner_steps: mu, optimiser steps for each answer.
        seed: of the order and of the answers.
        trainer: whose model is the policy.

    Raises:
        ValueError: if a number is less than 1, or a group has one answer alone.

    Examples:
        >>> from llada.rewards import ExactMatch, Prompt, Rollout, RolloutLoader, Writer
        >>> writer = Writer(Rollout(group_size=4, answer_length=8), ExactMatch(), decode=bytes.fromhex)
        >>> prompts = [Prompt([number], str(number), {"answer": str(number)}) for number in range(6)]
        >>> len(RolloutLoader(prompts, writer, batch_size=2, inner_steps=3))  # three batches, three steps from each
        9
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        writer: Writer,
        batch_size: int,
        inner_steps: int = 1,
        seed: int = 0,
        trainer: Trainer | None = None,
    ) -> None:
        if batch_size < 1 or inner_steps < 1:
            raise ValueError(f"batch_size and inner_steps must be 1 or more; got {batch_size} and {inner_steps}")
        if writer.rollout.group_size < 2:
            raise ValueError(f"group_size must be 2 or more, for answers are compared; got {writer.rollout.group_size}")
        self.prompts, self.writer, self.batch_size = prompts, writer, batch_size
        self.inner_steps, self.seed, self.trainer = inner_steps, seed, trainer
        self._epoch, self._taken = 0, 0
        self._kept: list[list[Columns]] = []
        self._resumed: dict[str, Any] | None = None

    def __len__(self) -> int:
        """Batches of an epoch; known, so that the Trainer asks for none before the step that comes first.

        Raises:
            ValueError: if there are none, for which the Trainer would end in silence.
        """
        if self._windows == 0:
            raise ValueError(
                f"there are {len(self.prompts)} prompts, less than the {self._fixed['rows_per_step']} of one optimiser "
                "step; give more, or a smaller batch_size or accumulate_grad_batches"
            )
        return self._windows * self._window * self.inner_steps

    def __iter__(self) -> Iterator[Columns]:
        self._begin()
        while self._taken < len(self):
            number, place = divmod(self._taken, self._window * self.inner_steps)
            inner, micro = divmod(place, self._window)
            if not self._kept:
                self._kept = self._gathered([self._roll(number * self._window + m) for m in range(self._window)])
            batch = self._kept[self._rank][micro]
            self._taken += 1
            if place + 1 == self._window * self.inner_steps:
                self._kept = []
            yield again(batch, inner)

    def state_dict(self) -> dict[str, Any]:
        """The place, and the answers that are still to be learnt from."""
        if self._resumed is not None:
            return self._resumed
        finished = int(self._taken >= epoch_length(self.trainer, len(self)))
        kept = [[_on_cpu(batch) for batch in batches] for batches in self._kept]
        return {"epoch": self._epoch, "taken": self._taken, "finished": finished, "kept": kept, **self._fixed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken, at the next iteration.

        Raises:
            ValueError: if it is of other prompts, another seed or another size of steps.
        """
        if state_dict:
            check_place(state_dict, self._fixed)
            self._resumed = dict(state_dict)

    def _roll(self, number: int) -> Columns:
        """Batch ``number`` of this rank in the epoch, answered now."""
        size, total = self.writer.rollout.group_size, len(self.prompts)
        places = (number * self.batch_size + torch.arange(self.batch_size)) * self._world + self._rank
        chosen = RowOrder(total, self.seed, self._epoch)(places.numpy().astype(np.int64))
        rows = (places[:, None] * size + torch.arange(size)).flatten()
        seeds = RowRandom.for_step(self.seed, self._epoch, rows, total * size).fold_in(_SEEDS).keys
        return self.writer(self._module, [self.prompts[int(row)] for row in chosen], seeds, self.inner_steps)

    def _gathered(self, own: list[Columns]) -> list[list[Columns]]:
        """The batches of all ranks, for one rank alone writes checkpoints; where nothing is kept, only this one's."""
        everybody: list[list[Columns]] = [[] for _ in range(self._world)]
        if self.inner_steps > 1 and self._world > 1 and dist.is_initialized():
            dist.all_gather_object(everybody, [_on_cpu(batch) for batch in own])
        everybody[self._rank] = own
        return everybody

    def _begin(self) -> None:
        """Set the place from which this iteration goes on."""
        state, self._resumed = self._resumed, None
        self._epoch = 0 if self.trainer is None else self.trainer.current_epoch
        self._taken, self._kept = 0, []
        if state is not None and not state["finished"]:
            self._epoch, self._taken = state["epoch"], state["taken"]
            self._kept = [[_moved(batch, self._module.device) for batch in batches] for batches in state["kept"]]

    @property
    def _module(self) -> Any:
        module: LightningModule | None = None if self.trainer is None else self.trainer.lightning_module
        if module is None:
            raise ValueError("rollouts need a model: give the loader the trainer that trains it")
        return module

    @property
    def _window(self) -> int:
        return 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)

    @property
    def _windows(self) -> int:
        return len(self.prompts) // (self.batch_size * self._world * self._window)

    @property
    def _world(self) -> int:
        return shard_of(self.trainer)["num_replicas"]

    @property
    def _rank(self) -> int:
        return shard_of(self.trainer)["rank"]

    @property
    def _fixed(self) -> dict[str, int]:
        """What a place means nothing without."""
        rows = self.batch_size * self._world * self._window
        return {
            "num_rows": len(self.prompts),
            "seed": self.seed,
            "rows_per_step": rows,
            "inner_steps": self.inner_steps,
        }


def _on_cpu(batch: Columns) -> Columns:
    return _moved(batch, torch.device("cpu"))


def _moved(batch: Columns, device: torch.device) -> Columns:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

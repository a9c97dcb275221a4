"""Several processes of one command, as torchrun starts them: each computes its share, all have the answers in order.

    torchrun --nproc-per-node 8 -m llada generate CHECKPOINT questions.jsonl answers.jsonl

Each process holds the whole model, on a GPU of its own if there are any. An answer doesn't depend on its batch, so how
many processes there are changes no answer, up to the rounding of the model.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others; torchrun ends them all where one fails."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a command.

    Args:
        rank: number of this process, from 0.
        size: how many there are.

    Examples:
        >>> from llada.text import Ranks
        >>> list(Ranks().share([1, 2, 3], lambda number: number**2))
        [1, 4, 9]
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item], compute: Callable[[Item], Result]) -> Iterator[Result]:
        """The results of all items, in their order and in every process; each process computes every size-th one.

        Args:
            items: the same in every process.
            compute: what to do with one.

        Raises:
            ValueError: if ``compute`` raised one, in whichever process.
        """
        for start in range(0, len(items), self.size):
            mine: tuple[Result | None, ValueError | None] = (None, None)
            try:
                if start + self.rank < len(items):
                    mine = (compute(items[start + self.rank]), None)
            except ValueError as error:
                mine = (None, error)
            for value, failed in self._gather(mine)[: len(items) - start]:
                if failed is not None:
                    raise failed
                yield value  # type: ignore[misc]  # an item that didn't fail has a result

    def once(self, compute: Callable[[], Result]) -> Result:
        """What the first process computes, in every process.

        Raises:
            ValueError: if ``compute`` raised one.
        """
        return next(self.share([None], lambda _: compute()))

    def _gather(self, mine: Result) -> list[Result]:
        found = [mine] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, mine)
        return found


def launched() -> Ranks:
    """The processes that torchrun started, joined so that they can share their work; one where it didn't.

    With GPUs, a process takes the one of its number on its machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not distributed.is_available():
        return Ranks()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size())

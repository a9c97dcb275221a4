"""litdata's loader with a place that survives: the end of an epoch, and the end of the training."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer

from llada.data.batch import TokenBatch
from llada.data.place import check_place, epoch_length


class StreamLoader:
    """Batches of a stream, and where in it they are; the state is that of rank 0, and serves all.

    litdata deals out its shards to ranks and workers, so in the middle of an epoch a place means nothing to another
    number of them.

    Args:
        loader: litdata's ``StreamingDataLoader``.
        num_ranks: processes that each take rows of their own.
        trainer: whose counters must agree with the place; None for a loop of your own.

    Raises:
        ValueError: by ``load_state_dict``, if the place is one of another global batch or number of workers.
    """

    def __init__(self, loader: Any, num_ranks: int = 1, trainer: Trainer | None = None) -> None:
        self.loader, self.num_ranks, self.trainer = loader, num_ranks, trainer
        self._resumed: dict[str, Any] | None = None
        self._steps = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[TokenBatch]:
        state, self._resumed = self._resumed, None
        self._steps = 0
        # The Trainer asks for no batch beyond the last, so litdata doesn't learn that a resumed epoch is over.
        self.loader.restore = False
        if state is not None:
            # litdata counts epochs from 1, and adds one when an iteration begins.
            self.loader.current_epoch = state["epoch"] + 1
            if not state["finished"]:
                self.loader.load_state_dict(state["stream"])
                self._steps = state["taken"] // self._fixed()["rows_per_step"]
        for batch in self.loader:
            self._steps += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place behind the last batch that was handed out, and what must not change."""
        if self._resumed is not None:
            return self._resumed
        finished = self._steps >= epoch_length(self.trainer, len(self))
        return {
            "epoch": max(self.loader.current_epoch - 1, 0),
            "taken": self._steps * self._fixed()["rows_per_step"],
            "finished": int(finished),
            "stream": {} if finished or not self._steps else self.loader.state_dict(),
            **self._fixed(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken, at the next iteration."""
        fixed = self._fixed()
        if state_dict.get("finished"):
            del fixed["num_workers"]
        check_place(state_dict, fixed)
        if not state_dict["taken"]:
            return
        self._resumed = dict(state_dict)

    def _fixed(self) -> dict[str, int]:
        rows = self.loader.batch_size * self.num_ranks
        return {"rows_per_step": rows, "seed": self.loader.dataset.seed, "num_workers": self.loader.num_workers}

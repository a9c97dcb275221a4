"""What the Trainer must count for a run to go on at the place of its data.

Lightning's loops count epochs as begun (ready, started) and over (processed, completed). A checkpoint that is saved as
the last act of a training, or behind it, says that an epoch is over, also where `max_steps` ended it in the middle, and
it still holds the number of the last batch. A run that is resumed from it would skip the rest of the epoch, or end the
next one after a batch. And a run that was resumed at the end of an epoch counts one epoch less as begun. The place of
the data has none of these faults, so the counters are set by it.
"""

from typing import Any

from lightning.pytorch import Trainer

_REMEDIES = {
    "num_rows": "give the same data",
    "seed": "give the same seed",
    "rows_per_step": "keep batch_size times ranks",
    "num_workers": "give as many, or resume from a checkpoint at the end of an epoch",
}


def check_place(state: dict[str, Any], fixed: dict[str, int]) -> None:
    """Refuse a place that means nothing to these data.

    Args:
        state: of a loader.
        fixed: what the place means nothing without, by name.

    Raises:
        ValueError: if one of them is another, or the state is of an older version.
    """
    weights = "begin a new run from the weights with --init_from"
    if "rows_per_step" not in state:
        raise ValueError(f"can't resume: an older version of llada took the rows in another order; {weights}")
    for name, value in fixed.items():
        if state[name] != value:
            raise ValueError(
                f"can't resume: the data has {name}={value}, but had {state[name]} when it was saved; "
                f"{_REMEDIES[name]}, or {weights}"
            )


def set_counters(trainer: Trainer, epoch: int, finished: bool) -> None:
    """Make the restored counters of a Trainer those of a run that was interrupted where its data is.

    Args:
        trainer: whose loops have been restored, and haven't begun.
        epoch: from which the last batch came.
        finished: whether it was the epoch's last batch.
    """
    loop = trainer.fit_loop
    counts: list[Any] = [loop.epoch_progress.total, loop.epoch_progress.current]
    for count in counts:
        count.ready = count.started = epoch + 1
        if not finished:
            count.processed = count.completed = epoch
    if loop.epoch_progress.total.completed == epoch + 1:
        batches = loop.epoch_loop
        steps = batches.automatic_optimization.optim_progress
        for progress in (batches.batch_progress, batches.scheduler_progress, steps):
            progress.reset_on_run()


def reopen_epoch(trainer: Trainer | None) -> None:
    """Let a Trainer that is about to ask for its loader restore the loader's place in the middle of an epoch.

    Where it counts epochs instead of steps, and the last one as over, it wouldn't.

    Args:
        trainer: None where there is none.
    """
    if trainer is None:
        return
    for state in trainer.fit_loop._combined_loader_states_to_load:
        if state.get("taken") and not state.get("finished"):
            set_counters(trainer, state["epoch"], finished=False)
            trainer.fit_loop.restarting = True


def epoch_length(trainer: Trainer | None, length: int) -> int:
    """Batches of an epoch that the Trainer takes.

    Args:
        trainer: None to take all.
        length: of the whole epoch.
    """
    limit = None if trainer is None else trainer.limit_train_batches
    if limit is None:
        return length
    return int(limit * length) if isinstance(limit, float) else min(limit, length)

"""The place of a loader in its data: when it means nothing to other data, and where an epoch ends.

The Trainer's own counters, which must say the same, have an owner of their own: `llada.training.resume_point`.
"""

from typing import Any

from lightning.pytorch import Trainer

_REMEDIES = {
    "num_rows": "give the same data",
    "seed": "give the same seed",
    "rows_per_step": "keep batch_size times ranks",
    "inner_steps": "give as many",
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

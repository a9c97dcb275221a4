"""Learning-rate schedules, as factors of the optimiser's own rate, by steps or by what is measured."""

import math
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


class WarmupStableDecay(LambdaLR):
    """Rise linearly, stay, drop, stay, fall linearly: LLaDA's pretraining and fine-tuning schedules.

    LLaDA's pretraining with a peak of 4e-4: warm up for 2000 steps, stay for 1.2T tokens, go on at 0.25 of the peak for
    0.8T, and decay to 0.025 of it over the last 0.3T. Its fine-tuning is ``stable_factor=1, final_factor=0.1``.

    Args:
        optimizer: its rates are the peak.
        warmup_steps: from 0 to the peak.
        stable_steps: at the peak.
        second_steps: at ``second_factor`` of the peak.
        decay_steps: linearly down to ``final_factor``.
        second_factor: of the second plateau.
        final_factor: at the end, and after it.

    Raises:
        ValueError: if a number of steps is negative.

    Reference:
        arXiv 2502.09992, section 2.2 and 2.3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        second_steps: int = 0,
        second_factor: float = 1.0,
        final_factor: float = 0.0,
    ) -> None:
        if min(warmup_steps, stable_steps, decay_steps, second_steps) < 0:
            raise ValueError("warmup_steps, stable_steps, second_steps and decay_steps must be 0 or more")
        start_decay = warmup_steps + stable_steps + second_steps
        plateau = second_factor if second_steps else 1.0

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            if step < warmup_steps + stable_steps:
                return 1.0
            if step < start_decay:
                return second_factor
            left = max(0.0, 1.0 - (step - start_decay) / decay_steps) if decay_steps else 0.0
            return final_factor + (plateau - final_factor) * left

        super().__init__(optimizer, factor)


class WarmupCosine(LambdaLR):
    """Rise linearly, then fall along half a cosine.

    Args:
        optimizer: its rates are the peak.
        warmup_steps: from 0 to the peak.
        total_steps: where the cosine ends.
        final_factor: of the peak at the end, and after it.

    Raises:
        ValueError: if ``total_steps`` isn't above ``warmup_steps``.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, final_factor: float = 0.1) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"need 0 <= warmup_steps < total_steps; got {warmup_steps} and {total_steps}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            share = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * share))

        super().__init__(optimizer, factor)


class ReduceOnPlateau(ReduceLROnPlateau):
    """PyTorch's `ReduceLROnPlateau` with what the Trainer has to know: which metric, and when to look at it.

    Args:
        optimizer: its rates are reduced.
        monitor: name of a logged metric.
        interval: "epoch", after the validation at its end; "step", after every ``frequency`` optimiser steps.
        frequency: how many of them lie between two looks.
        mode: "min" if the metric is to fall, "max" if it is to rise.
        factor: by which the rates are multiplied.
        patience: looks without an improvement that are let pass.
        threshold: relative improvement that counts as one.
        cooldown: looks to wait after a reduction.
        min_lr: lowest rate.

    Raises:
        ValueError: if ``interval`` is another word, or ``factor`` isn't below 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str = "val/nll",
        interval: str = "epoch",
        frequency: int = 1,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if interval not in ("epoch", "step"):
            raise ValueError(f'interval must be "epoch" or "step"; got {interval!r}')
        super().__init__(optimizer, mode, factor, patience, threshold, cooldown=cooldown, min_lr=min_lr)
        self.monitor, self.interval, self.frequency = monitor, interval, frequency


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """How the Trainer is to call a scheduler.

    Args:
        scheduler: what the module's ``lr_scheduler`` has made. A schedule by steps is called once per optimiser step;
            one that looks at a metric (`ReduceOnPlateau`, PyTorch's or Lightning's `ReduceLROnPlateau`) once per epoch,
            at "val/nll" if it doesn't say otherwise by ``monitor``, ``interval`` and ``frequency``. A dictionary is
            what Lightning's ``lr_scheduler`` configuration is, and is taken as it is.
    """
    if isinstance(scheduler, dict):
        return scheduler
    plateau = isinstance(scheduler, ReduceLROnPlateau)
    config = {"scheduler": scheduler, "interval": getattr(scheduler, "interval", "epoch" if plateau else "step")}
    if plateau:
        config["monitor"] = getattr(scheduler, "monitor", "val/nll")
        config["frequency"] = getattr(scheduler, "frequency", 1)
    return config

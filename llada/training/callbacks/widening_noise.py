"""Begin with medium noise, and widen the interval of noise levels as training goes on.

Very noisy rows have large gradients that say little while a model doesn't know its neighbours yet; nearly clean ones
say little too. Once it does, the whole of (0, 1] is what the bound asks for.

    t_min(s) = first_t_min + (t_min - first_t_min) min(1, s / steps),    t_max(s) likewise
"""

from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class WideningNoise(Callback):
    """Widens the times of the module's objective linearly from a first interval to a last one, step by step.

    It follows from the optimiser step alone, so a resumed run goes on with the right interval. Needs an objective with
    ``times`` that have ``t_min`` and ``t_max``, such as `MaskedNELBO` with `StratifiedTimes`; what is reported as the
    bound isn't touched.

    Args:
        first_t_min: lowest noise level at first.
        first_t_max: highest noise level at first.
        steps: optimiser steps until the last interval is reached.
        t_min: lowest noise level from then on.
        t_max: highest noise level from then on.

    Raises:
        ValueError: if ``steps`` is less than 1; when training starts, if the objective has no such times.
    """

    def __init__(
        self, first_t_min: float, first_t_max: float, steps: int, t_min: float = 0.0, t_max: float = 1.0
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be 1 or more; got {steps}")
        for low, high in ((first_t_min, first_t_max), (t_min, t_max)):
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(f"an interval of noise levels needs 0 <= t_min < t_max <= 1; got {low} to {high}")
        self.first_t_min, self.first_t_max, self.steps = first_t_min, first_t_max, steps
        self.t_min, self.t_max = t_min, t_max

    def interval(self, step: int) -> tuple[float, float]:
        """Lowest and highest noise level of an optimiser step."""
        share = min(1.0, step / self.steps)
        low = (1.0 - share) * self.first_t_min + share * self.t_min
        return low, (1.0 - share) * self.first_t_max + share * self.t_max

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an objective without an interval before any step is spent on it."""
        times = getattr(getattr(pl_module, "objective", None), "times", None)
        if not (hasattr(times, "t_min") and hasattr(times, "t_max")):
            raise ValueError(
                "WideningNoise needs an objective whose times have t_min and t_max, such as StratifiedTimes; "
                f"got {times!r}"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Give the objective the interval of this step."""
        low, high = self.interval(trainer.global_step)
        module: Any = pl_module
        module.objective = replace(module.objective, times=replace(module.objective.times, t_min=low, t_max=high))

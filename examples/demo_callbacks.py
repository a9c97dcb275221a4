"""A callback for models as small as the demo's; docs/claims/scaling.md has what it brings.

`WideningNoise` begins with medium noise and widens the interval of noise levels as training goes on. Very noisy rows
have large gradients that say little while a model doesn't know its neighbours yet; nearly clean ones say little, too.

    t_min(s) = first_t_min + (t_min - first_t_min) min(1, s / steps),    t_max(s) likewise

In YAML, for commands called in the root of the repository: ``class_path: examples.demo_callbacks.WideningNoise``.
"""

from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from llada.objectives import Objective


class WideningNoise(Callback):
    """Widens the noise levels of the module's objective linearly from a first interval to a last one, step by step.

    It follows from the optimiser step alone, so a resumed run goes on with the right interval. Needs a `NELBO` whose
    design has ``times`` with ``t_min`` and ``t_max``, such as `IndependentMasks` with `StratifiedTimes`; objectives
    around it that hold it as ``inner``, such as `RandomLength`, are fine. What is reported as the bound isn't touched.

    Args:
        first_t_min: lowest noise level at first.
        first_t_max: highest noise level at first.
        steps: optimiser steps until the last interval is reached.
        t_min: lowest noise level from then on.
        t_max: highest noise level from then on.

    Raises:
        ValueError: if ``steps`` is less than 1 or an interval isn't within [0, 1]; when training starts, if the
            objective has no such times.
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
        with_interval(getattr(pl_module, "objective", None), *self.interval(0))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Give the objective the interval of this step."""
        module: Any = pl_module
        module.objective = with_interval(module.objective, *self.interval(trainer.global_step))


def with_interval(objective: Any, t_min: float, t_max: float) -> Any:
    """The same objective with its noise levels between two values.

    Raises:
        ValueError: if the objective has no such interval.
    """
    if isinstance(inner := getattr(objective, "inner", None), Objective):
        return replace(objective, inner=with_interval(inner, t_min, t_max))
    design = getattr(objective, "design", None)
    times = getattr(design, "times", None)
    if not (hasattr(times, "t_min") and hasattr(times, "t_max")):
        raise ValueError(
            "WideningNoise needs an objective with a design whose times have t_min and t_max, such as "
            f"NELBO(IndependentMasks(StratifiedTimes())); got {objective!r}"
        )
    return replace(objective, design=replace(design, times=replace(times, t_min=t_min, t_max=t_max)))

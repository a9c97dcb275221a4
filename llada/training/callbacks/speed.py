"""How fast a run is, and what it waits for: tokens per second, model FLOPs utilisation, data wait, peak memory.

Lightning's own `ThroughputMonitor` waits for the GPU after every batch and knows neither padding nor which positions
the head runs on; its table of what each GPU can do is used here.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks.throughput_monitor import _plugin_to_compute_dtype
from lightning.pytorch.profilers import Profiler
from typing_extensions import override

from llada.data.foreign import as_token_batch
from llada.training.flops import ForwardFlops, count_pairs, forward_flops
from llada.training.parallel import TENSOR, replicas

FETCH = "train_dataloader_next"
"""How the Trainer calls the wait for a batch in its profiler."""

Clock = Callable[[], float]


class Speed(Callback):
    """Logs the speed of training since the last logged step, validation left out.

    - ``speed/tokens_per_second``: of all ranks together, padding left out; every rank is taken to have as many as this.
    - ``speed/mfu``: share of the device's peak that the operations a step needs (see `llada.training.flops`) make use
      of. Only where the peak is known.
    - ``speed/data_wait``: share of the time spent on waiting for the data loader.
    - ``speed/peak_memory_gib``: highest memory since the run began: of the GPU's allocator, or of the process.

    The first interval holds what happens once, such as compilation.

    Args:
        scored: share of the tokens whose logits the loss needs: 0.5 for noise levels that are uniform in (0, 1); 1 for
            next-token prediction, and for comparison with figures that count the head everywhere.
        peak_flops: operations per second of one device; None: what Lightning knows of it.
        clock: seconds.

    Raises:
        ValueError: if ``scored`` isn't in (0, 1] or ``peak_flops`` isn't above 0.

    Examples:
        >>> from llada.training.callbacks import Speed
        >>> callback = Speed(scored=0.5, peak_flops=989e12)
    """

    def __init__(self, scored: float = 0.5, peak_flops: float | None = None, clock: Clock = time.perf_counter) -> None:
        if not 0.0 < scored <= 1.0:
            raise ValueError(f"scored must be in (0, 1]; got {scored}")
        if peak_flops is not None and not peak_flops > 0.0:
            raise ValueError(f"peak_flops must be above 0; got {peak_flops}")
        self.scored, self.peak_flops, self.clock = scored, peak_flops, clock
        self._peak: float | None = None
        self._flops: ForwardFlops | None = None
        self._tokens = self._pairs = torch.zeros((), dtype=torch.float64)
        self._wait, self._start, self._paused, self._step = Stopwatch(clock), 0.0, 0.0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the device's peak, and watch the data loader."""
        device = trainer.strategy.root_device
        self._peak = self.peak_flops
        if self._peak is None and device.type == "cuda":
            self._peak = get_available_flops(device, _plugin_to_compute_dtype(trainer.precision_plugin))
        backbone: Any = getattr(pl_module, "backbone", None)
        if self._peak is not None and hasattr(backbone, "num_layers"):
            self._flops = forward_flops(backbone)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer.profiler = WatchingProfiler(trainer.profiler, self._wait)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._step = trainer.global_step
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = self.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the clock."""
        self._start += self.clock() - self._paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a batch, and log when the Trainer does."""
        rows = as_token_batch(batch)
        tokens, mask, segments = rows["tokens"], rows.get("attention_mask"), rows.get("segment_ids")
        self._tokens = self._tokens + (tokens.numel() if mask is None else mask.sum())
        self._pairs = self._pairs + count_pairs(tokens, mask, segments)
        step = trainer.global_step
        if step == self._step or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._step = step
        mesh = pl_module.device_mesh
        count = replicas(mesh, trainer.world_size, trainer.global_rank).size
        shared_by = 1 if mesh is None else mesh[TENSOR].size()
        for name, value in self._measure(count, shared_by, trainer.strategy.root_device).items():
            pl_module.log(f"speed/{name}", value, prog_bar=True, rank_zero_only=True)
        self._restart()

    def _measure(self, count: int, shared_by: int, device: torch.device) -> dict[str, float]:
        tokens, pairs = float(self._tokens), float(self._pairs)  # waits for the device
        elapsed = self.clock() - self._start
        values = {"tokens_per_second": count * tokens / elapsed, "data_wait": self._wait.total / elapsed}
        if self._flops is not None and self._peak is not None:
            flops = self._flops.training(tokens, pairs, self.scored * tokens)
            values["mfu"] = flops / shared_by / elapsed / self._peak
        peak = peak_memory(device)
        if peak is not None:
            values["peak_memory_gib"] = peak / 2**30
        return values

    def _restart(self) -> None:
        self._tokens = self._pairs = torch.zeros((), dtype=torch.float64)
        self._wait.total, self._start = 0.0, self.clock()


class Stopwatch:
    """Sums up intervals.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.total, self._since = clock, 0.0, 0.0

    def start(self) -> None:
        """Begin an interval."""
        self._since = self.clock()

    def stop(self) -> None:
        """End it."""
        self.total += self.clock() - self._since


class WatchingProfiler(Profiler):
    """Another profiler, and a stopwatch that runs while the Trainer waits for a batch.

    Args:
        inner: the Trainer's own.
        stopwatch: to be started and stopped.
    """

    def __init__(self, inner: Profiler, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.inner, self.stopwatch = inner, stopwatch

    @override
    def start(self, action_name: str) -> None:
        self.inner.start(action_name)
        if action_name.endswith(FETCH):
            self.stopwatch.start()

    @override
    def stop(self, action_name: str) -> None:
        if action_name.endswith(FETCH):
            self.stopwatch.stop()
        self.inner.stop(action_name)

    @override
    def summary(self) -> str:
        return self.inner.summary()

    @override
    def setup(self, *arguments: Any, **options: Any) -> None:
        self.inner.setup(*arguments, **options)

    @override
    def describe(self) -> None:
        self.inner.describe()

    @override
    def teardown(self, *arguments: Any, **options: Any) -> None:
        self.inner.teardown(*arguments, **options)


def peak_memory(device: torch.device) -> int | None:
    """Highest memory so far in bytes: of the CUDA allocator, or of this process; None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024

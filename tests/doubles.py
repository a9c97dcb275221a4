"""Stand-ins that replace chance by given numbers."""

from dataclasses import dataclass

from torch import Tensor

from llada.denoiser import Denoiser
from llada.noise import TimeSampler
from llada.objectives import Batch, Design, Draw
from llada.objectives.design import segments_of
from llada.objectives.objective import model_inputs
from llada.process import Process
from llada.random import RowRandom


@dataclass(frozen=True)
class GivenTimes(TimeSampler):
    """A time sampler that returns what it was given."""

    t: Tensor

    def __call__(self, random: RowRandom) -> Tensor:
        return self.t.double()


@dataclass(frozen=True)
class GivenNumbers(RowRandom):
    """Random streams whose per-row numbers are given, (B, L)."""

    numbers: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> "GivenNumbers":
        plain = RowRandom.from_seed(0, len(numbers))
        return cls(plain.keys, plain.shared_key, plain.rows, plain.num_rows, numbers.double())

    def fold_in(self, *tags: int) -> "GivenNumbers":
        return self

    def uniform(self, *size: int) -> Tensor:
        assert size == tuple(self.numbers.shape[1:])
        return self.numbers


@dataclass(frozen=True)
class GivenDesign(Design):
    """Masks and noise levels that a test has chosen, (B, L) each."""

    t: Tensor
    masked: Tensor

    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        tokens = batch["tokens"].masked_fill(self.masked, process.mask_token_id)
        return Draw(
            x_0=batch["tokens"],
            maskable=batch["maskable"],
            tokens=tokens,
            scored=self.masked,
            t=self.t,
            bound_weight=process.bound_weight(self.t, tokens, batch["tokens"]),
            level=self.t.mean(1),
            inputs=model_inputs(batch),
            segments=segments_of(batch),
        )

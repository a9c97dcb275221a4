"""How the noise levels of a batch are drawn for training and evaluation.

Every row's time is uniform on (t_min, t_max]; the samplers differ in how the rows of a batch depend on one another.
Strata are laid over the *global* batch: all ranks and gradient-accumulation steps together, without communication,
since every rank can compute the others' share.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from llada.random import RowRandom


class TimeSampler(ABC):
    """Draws a time for every row."""

    @property
    def covers_all(self) -> bool:
        """Whether a row's time is uniform on all of (0, 1], as a bound needs it."""
        return True

    @abstractmethod
    def __call__(self, random: RowRandom) -> Tensor:
        """The times.

        Args:
            random: the rows' streams, which know their places in the global batch.

        Returns:
            (B,) float64.
        """


@dataclass(frozen=True)
class _Interval(TimeSampler):
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < self.t_max <= 1.0:
            raise ValueError(f"need 0 <= t_min < t_max <= 1; got t_min={self.t_min} and t_max={self.t_max}")

    @property
    @override
    def covers_all(self) -> bool:
        return (self.t_min, self.t_max) == (0.0, 1.0)

    def _stretch(self, u: Tensor) -> Tensor:
        """From (0, 1) to the interval."""
        return self.t_min + (self.t_max - self.t_min) * u


@dataclass(frozen=True)
class UniformTimes(_Interval):
    """Independent times.

    Args:
        t_min: lowest time. LLaDA trains from 1e-3.
        t_max: highest time.

    Examples:
        >>> from llada.noise import UniformTimes
        >>> from llada.random import RowRandom
        >>> times = UniformTimes(t_min=1e-3)(RowRandom.from_seed(0, num_rows=4))
        >>> times.shape, times.dtype
        (torch.Size([4]), torch.float64)
    """

    @override
    def __call__(self, random: RowRandom) -> Tensor:
        return self._stretch(random.uniform())


@dataclass(frozen=True)
class StratifiedTimes(_Interval):
    """One time in each of n equal parts of the interval, n rows in the global batch.

    Which row gets which part is drawn anew each time, so no row, rank or micro-batch is noisier than another. MDLM
    calls this "antithetic" and does it per rank.

    Args:
        t_min: lowest time.
        t_max: highest time.

    Examples:
        >>> from llada.noise import StratifiedTimes
        >>> from llada.random import RowRandom
        >>> times = StratifiedTimes()(RowRandom.from_seed(0, num_rows=4))
        >>> (4 * times.sort().values).ceil().tolist()
        [1.0, 2.0, 3.0, 4.0]
    """

    @override
    def __call__(self, random: RowRandom) -> Tensor:
        part = random.shared_uniform(random.num_rows).argsort()[random.rows]
        return self._stretch((part + random.uniform()) / random.num_rows)


@dataclass(frozen=True)
class SystematicTimes(_Interval):
    """A regular grid with one random offset: t = (u + k/n) mod 1 with the same u for all rows.

    Args:
        t_min: lowest time.
        t_max: highest time.

    Reference:
        Used by SMDM's evaluation (arXiv 2410.18514) and GIDD (arXiv 2503.04482).

    Examples:
        >>> from llada.noise import SystematicTimes
        >>> from llada.random import RowRandom
        >>> times = SystematicTimes()(RowRandom.from_seed(0, num_rows=4)).sort().values
        >>> times.diff()
        tensor([0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """

    @override
    def __call__(self, random: RowRandom) -> Tensor:
        numbers = random.shared_uniform(random.num_rows + 1)
        part = numbers[1:].argsort()[random.rows]
        return self._stretch((part + numbers[0]) / random.num_rows)


@dataclass(frozen=True)
class AntitheticTimes(_Interval):
    """Pairs (u, 1 - u): what one row sees masked, its partner is likely to see clean.

    The last row of an odd batch has no partner.

    Args:
        t_min: lowest time.
        t_max: highest time.

    Examples:
        >>> from llada.noise import AntitheticTimes
        >>> from llada.random import RowRandom
        >>> times = AntitheticTimes()(RowRandom.from_seed(0, num_rows=4))
        >>> times[0::2] + times[1::2]
        tensor([1., 1.], dtype=torch.float64)
    """

    @override
    def __call__(self, random: RowRandom) -> Tensor:
        u = random.shared_uniform((random.num_rows + 1) // 2)[random.rows // 2]
        return self._stretch(u.where(random.rows % 2 == 0, 1.0 - u))

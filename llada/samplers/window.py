"""Where a sampler may write now: the whole canvas, one block after the other, or the masks on the left."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Window(ABC):
    """Cuts the canvas into parts that are finished one after the other."""

    @abstractmethod
    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        """The parts, in the order of decoding.

        Args:
            first: leftmost mask of any row.
            length: L, columns of the canvas.

        Returns:
            (start, stop) columns of each part; together they cover ``first`` to ``length``. Which columns share a part
            must not depend on ``first``: rows with other first masks may be in the same batch.
        """

    def check_padding(self, offset: Tensor) -> None:
        """Whether rows with such padding have the windows that they would have alone.

        Args:
            offset: (B, 1) int64, the padding in front of each row.

        Raises:
            ValueError: if they don't.
        """
        return

    @property
    def stop_token_id(self) -> int | None:
        """A token after which nothing more needs to be decoded, or None."""
        return None

    @property
    def stops_within(self) -> bool:
        """Whether the stop token is looked for after every step, rather than after a finished part."""
        return False

    @property
    def width(self) -> int | None:
        """How many masks of a part, counted from the left, may be written in a step; None for all."""
        return None


@dataclass(frozen=True)
class WholeCanvas(Window):
    """Every mask may be filled at any time: pure diffusion."""

    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        """See `Window`."""
        return [(first, length)]


@dataclass(frozen=True)
class Blocks(Window):
    """Blocks from left to right, each finished before the next is begun: semi-autoregressive decoding.

    The model still sees the masks of later blocks.

    Args:
        size: tokens per block.
        stop: when a finished block holds this token, the row's remaining masks are filled with it, without model calls.
            Later blocks can't change earlier ones, so the text up to the token is the same. None: decode all.
        from_start: count blocks from the first column (LLaDA2), so that the last may be shorter; otherwise from the
            end of the canvas, where rows of different prompt lengths are aligned, and the first may be shorter.

    Raises:
        ValueError: if ``size`` is less than 1.

    Reference:
        arXiv 2502.09992, appendix B.4.
    """

    size: int
    stop: int | None = None
    from_start: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the block size must be 1 or more; got {self.size}")

    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        """See `Window`."""
        shift = 0 if self.from_start else length % self.size
        begin = first - (first - shift) % self.size
        return [(max(start, 0), min(start + self.size, length)) for start in range(begin, length, self.size)]

    def check_padding(self, offset: Tensor) -> None:
        """See `Window`."""
        if self.from_start and bool((offset % self.size).any()):
            raise ValueError(
                f"blocks of {self.size} that count from the start of a row can't begin together in rows whose padding "
                f"differs by other than multiples of {self.size}; pad by those, decode the rows one by one, or use "
                "Blocks(size), which counts from the end of the canvas"
            )

    @property
    def stop_token_id(self) -> int | None:
        """See `Window`."""
        return self.stop


@dataclass(frozen=True)
class Sliding(Window):
    """The leftmost masks of each row: a window that moves on as soon as one of them is written.

    Args:
        size: masks in the window.
        stop: when this token has been written and no mask is left before it, the row's remaining masks are filled with
            it, without model calls. Later tokens can't change earlier ones, so the text up to the token is the same.
            None: decode all.

    Raises:
        ValueError: if ``size`` is less than 1.
    """

    size: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the window size must be 1 or more; got {self.size}")

    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        """See `Window`."""
        return [(first, length)]

    @property
    def width(self) -> int:
        """See `Window`."""
        return self.size

    @property
    def stop_token_id(self) -> int | None:
        """See `Window`."""
        return self.stop

    @property
    def stops_within(self) -> bool:
        """See `Window`."""
        return self.stop is not None


def stopped(tokens: Tensor, start: int, stop: int, token: int, masked: Tensor) -> Tensor:
    """Which rows hold ``token`` among what was decoded in columns start to stop, (B,) bool.

    Args:
        tokens: (B, L) canvas after the block.
        start: first column of the block.
        stop: column after its last.
        token: the stop token.
        masked: (B, L) bool, which columns were masks in the beginning.
    """
    return ((tokens == token) & masked)[:, start:stop].any(1)


def ended(tokens: Tensor, token: int, fillable: Tensor, masked: Tensor) -> Tensor:
    """Which rows hold ``token`` with no mask before it, (B,) bool.

    Args:
        tokens: (B, L) canvas.
        token: the stop token.
        fillable: (B, L) bool, which columns were masks in the beginning.
        masked: (B, L) bool, which are now.
    """
    return ((tokens == token) & fillable & (masked.cumsum(1) == 0)).any(1)

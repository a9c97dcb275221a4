"""Where a sampler may write now: the whole canvas, one block after the other, or the open positions on the left."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from typing_extensions import override

from llada.samplers.part import Part
from llada.samplers.stopping import TokenIds, token_ids


class Window(Part, ABC):
    """Cuts the canvas into spans that are finished one after the other.

    Attributes:
        stop_token_ids: tokens after which nothing more needs to be decoded, or None.
        width: how many open positions of a span, counted from the left, may be written in a step; None for all.
    """

    stop_token_ids: TokenIds = None
    width: int | None = None

    def stopping(self, stop_token_ids: TokenIds) -> "Window":
        """The same window with other stop tokens.

        Raises:
            ValueError: if it has no place to stop at.
        """
        raise ValueError(
            f"{type(self).__name__} has no early stop; use window=Blocks(block_length), or a preset with block_length"
        )

    @abstractmethod
    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        """The spans, in the order of decoding.

        Args:
            first: leftmost open column of any row.
            length: L, columns of the canvas.

        Returns:
            (start, stop) columns of each span; together they cover ``first`` to ``length``. Which columns share a span
            must not depend on ``first``: rows with other first open columns may be in the same batch.
        """

    @property
    def from_first(self) -> int | None:
        """Length of blocks that count from the first token of a row, not from the end of the canvas; or None."""
        return None

    def check_padding(self, offset: Tensor) -> None:
        """Whether rows with such padding have the windows that they would have alone.

        Args:
            offset: (B, 1) int64, the padding in front of each row.

        Raises:
            ValueError: if they don't.
        """
        return


@dataclass(frozen=True)
class WholeCanvas(Window):
    """Every open position may be written at any time: pure diffusion.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, UnmaskingSampler, WholeCanvas
        >>> sure = torch.arange(6.0)  # logit of token 1, which rises to the right
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), window=WholeCanvas())
        >>> steps = sampler.iterate(model, torch.full((1, 6), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [5, 4, 3, 2, 1, 0]
    """

    @override
    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        return [(first, length)]


@dataclass(frozen=True)
class Blocks(Window):
    """Blocks from left to right, each finished before the next is begun: semi-autoregressive decoding.

    The model still sees the masks of later blocks.

    Args:
        block_length: tokens per block.
        stop_token_ids: when a finished block holds one of these tokens, what is open in the row is filled with the
            first of them, without model calls. Later blocks can't change earlier ones, so the text up to the stop
            token is the same. None: decode all.
        from_start: count blocks from the first token of a row (LLaDA2), so that the last may be shorter; otherwise from
            the end of the canvas, where rows of different prompt lengths are aligned, and the first may be shorter.

    Raises:
        ValueError: if ``block_length`` is less than 1.

    Reference:
        arXiv 2502.09992, appendix B.4.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, PerStep, UnmaskingSampler
        >>> sure = torch.arange(6.0)  # logit of token 1, which rises to the right
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), window=Blocks(3))
        >>> steps = sampler.iterate(model, torch.full((1, 6), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [2, 1, 0, 5, 4, 3]
    """

    block_length: int
    stop_token_ids: TokenIds = None
    from_start: bool = False

    def __post_init__(self) -> None:
        if self.block_length < 1:
            raise ValueError(f"block_length must be 1 or more; got {self.block_length}")

    @override
    def stopping(self, stop_token_ids: TokenIds) -> Window:
        return replace(self, stop_token_ids=stop_token_ids)

    @override
    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        size = self.block_length
        shift = 0 if self.from_start else length % size
        begin = first - (first - shift) % size
        return [(max(start, 0), min(start + size, length)) for start in range(begin, length, size)]

    @property
    @override
    def from_first(self) -> int | None:
        return self.block_length if self.from_start else None

    @override
    def check_padding(self, offset: Tensor) -> None:
        size = self.block_length
        if self.from_start and bool((offset % size).any()):
            raise ValueError(
                f"blocks of {size} that count from the start of a row can't begin together in rows whose padding "
                f"differs by other than multiples of {size}; pad by those, decode the rows one by one, or use "
                "Blocks(block_length), which counts from the end of the canvas"
            )


@dataclass(frozen=True)
class Sliding(Window):
    """The leftmost open positions of each row: a window that moves on as soon as one of them is written.

    Args:
        width: open positions in the window.
        stop_token_ids: when one of these tokens has been written and nothing is open before it, the rest of the row is
            filled with the first of them, without model calls. Later tokens can't change earlier ones, so the text up
            to the stop token is the same. None: decode all.

    Raises:
        ValueError: if ``width`` is less than 1.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, Sliding, UnmaskingSampler
        >>> sure = torch.arange(6.0)  # logit of token 1, which rises to the right
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(PerStep(1), window=Sliding(3))
        >>> steps = sampler.iterate(model, torch.full((1, 6), 2), MaskingProcess(2))
        >>> [int(step.changed[0].nonzero()) for step in steps]
        [2, 3, 4, 5, 1, 0]
    """

    width: int
    stop_token_ids: TokenIds = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"the width of a sliding window must be 1 or more; got {self.width}")

    @override
    def spans(self, first: int, length: int) -> list[tuple[int, int]]:
        return [(first, length)]

    @override
    def check(self, sampler: Any) -> None:
        amount = getattr(sampler, "amount", None)
        if amount is None:
            return
        name = type(amount).__name__
        if amount.steps is not None or amount.on_grid:
            raise ValueError(
                f"{name} shares its steps among all masks, but a sliding window offers {self.width} of them at a time; "
                "use PerStep(count) or a policy of the Threshold kind, or window=Blocks(block_length)"
            )
        most = amount.most(2**62, 0, 2**62)
        if most is not None and most > self.width:
            raise ValueError(
                f"{name} takes {most} tokens per step, but the sliding window holds only {self.width} masks"
            )


def stops_within(window: Window) -> bool:
    """Whether the stop token is looked for after every step, rather than after a finished span."""
    return window.width is not None and bool(token_ids(window.stop_token_ids))

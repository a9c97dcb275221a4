"""What samplers have in common that come back to their own tokens: each step looks at a whole window.

Shapes: B rows, L columns of the canvas, M positions of the window in a row.
"""

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from llada.samplers.composed import ComposedSampler
from llada.samplers.run import Run
from llada.samplers.state import State


@dataclass(frozen=True)
class RevisingSampler(ComposedSampler):
    """Changes tokens of a window that it has written before; a subclass says which.

    Raises:
        ValueError: if a part doesn't show it the whole window, or counts on tokens that were written.
    """

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.window.width is not None:
            raise ValueError(
                "a sliding window has no block to be corrected; use window=Blocks(block_length) or WholeCanvas()"
            )
        if not self.cache.editable:
            raise ValueError(
                f"{type(self.cache).__name__} keeps the keys of written tokens, which {name} may change; use "
                "NoCache(), DualCache() or PrefixCache(), which compute the whole window in each step"
            )
        joint = [type(adjustment).__name__ for adjustment in self.adjustments if adjustment.joint]
        if joint:
            raise ValueError(
                f"{joint[0]} allows a token by what stands at other places, which {name} may change; use "
                "UnmaskingSampler with it"
            )
        super().__post_init__()

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it masks tokens again that it has written"

    def _at(self, run: Run, state: State, k: int, window: tuple[Tensor, Tensor], active: Tensor) -> State:
        """The state at a step of the window.

        Args:
            run: asks the model.
            state: after the step before.
            k: index of the step.
            window: columns of the positions, (B, M) int64, and which entries are in the window, (B, M) bool.
            active: (B,) bool, the rows that take part.
        """
        columns, within = window
        run.cache.begin_call(active)
        left = state.open[:, : state.stop].sum(1)
        return replace(state, step=k, left=left, columns=columns, valid=within & active[:, None])

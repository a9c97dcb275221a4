"""Wide in, narrow out (WINO): write boldly, and let the same call check what earlier ones have written.

Beside the canvas the model gets a mask in the place of each token of the window (`llada.backbones.shadow`). A step

- writes the masks whose confidence is above a bound, at most a share of them, or the best one;
- masks the tokens of earlier steps again whose probability, by the mask in their place, is below another bound: fewer
  than the step before has written, and none if this one writes only one.

So no window takes more steps than it has masks.

Shapes: B rows, L columns of the canvas, M positions of the window in a row.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import as_denoiser
from llada.random import RowRandom
from llada.samplers.amount.amount import take_best
from llada.samplers.layout import Span, first_true
from llada.samplers.revising import RevisingSampler
from llada.samplers.run import Run, write
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.window import Blocks, Window


@dataclass(frozen=True)
class VerifyingSampler(RevisingSampler):
    """Writes many tokens at once, and takes back what doesn't follow from the others.

    Args:
        threshold: a token above this probability is written.
        keep_threshold: a written token below this probability is masked again.
        share: of the masks, so many are written in a step at most.
        fewest: the bound by ``share`` isn't less than this,
        most: nor more than this.
        proposal: how a token is drawn.
        window: where a step may write; finished windows are left as they are.
        cache: none.
        guidance: none.
        adjustments: constraints and memories that edit the logits of what is written, applied in this order.

    Raises:
        ValueError: if a number is out of its range, or the parts don't fit together.

    Reference:
        Hong et al., "Wide-In, Narrow-Out: Revokable Decoding for Efficient and Effective DLLMs", arXiv 2507.18578; the
        released ``decoding_wino``.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, VerifyingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sample = VerifyingSampler(window=Blocks(4))(model, torch.full((1, 8), 8), MaskingProcess(8))
        >>> int(sample.generated)
        8
    """

    threshold: float = 0.6
    keep_threshold: float = 0.9
    share: float = 0.7
    fewest: int = 5
    most: int = 20
    window: Window = field(default_factory=lambda: Blocks(128), kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most or not 0.0 <= self.share <= 1.0:
            raise ValueError(
                "a step writes from 1 token on: share must be in [0, 1] and 1 <= fewest <= most; got "
                f"share={self.share}, fewest={self.fewest}, most={self.most}"
            )
        if self.cache.windowed or self.cache.counts_columns or not self.cache.memoryless:
            raise ValueError(
                f"{type(self.cache).__name__} keeps keys of a canvas without the masks beside it that check it; "
                "use cache=NoCache()"
            )
        if self.guidance.branches > 1:
            raise ValueError("what guidance would say of the masks that check a canvas isn't defined; use no guidance")
        super().__post_init__()

    @override
    def run(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Run:
        if not as_denoiser(model).takes("shadow"):
            raise ValueError(
                f"{type(model).__name__} can't check a canvas by masks beside it: it takes no argument shadow; use "
                "llada.backbones.BidirectionalTransformer, or a sampler that needs none, such as saber"
            )
        return super().run(model, state, model_kwargs)

    @override
    def _fill(self, run: Run, span: Span, state: State, random: RowRandom) -> Generator[Step, None, State]:
        window = first_true(state.inside, int(state.inside.sum(1).max()))
        last = torch.full_like(state.initial, span.stop)
        for k in count():
            asking = state.open[:, : span.stop].any(1)
            if not bool(asking.any()):
                break
            state = self._at(run, state, k, window, asking)
            state, kept = run.verify(state, window[1], state.grid(), random=random.fold_in(k))
            taken = self._taken(state)
            again = self._again(state, kept, taken.sum(1), last)
            last = taken.sum(1)
            state, step = write(state, taken, asking, again)
            yield step
        return state

    def _taken(self, state: State) -> Tensor:
        """Open positions that are written, (B, M) bool."""
        sure, masks = state.probability, state.valid & state.open.gather(1, state.columns)
        most = (masks.sum(1).double() * self.share).long().clamp(self.fewest, self.most)
        above = masks & (sure > self.threshold)
        alone = take_best(sure, masks, torch.ones_like(most))
        return torch.where(above.any(1, keepdim=True), take_best(sure, above, most), alone)

    def _again(self, state: State, kept: Tensor, number: Tensor, last: Tensor) -> Tensor:
        """Written tokens that are masked again, (B, L) bool.

        Args:
            state: the step.
            kept: (B, M), how likely the tokens are that stand there.
            number: (B,) of tokens that this step writes.
            last: (B,) of those that the one before has written.
        """
        doubted = state.valid & ~state.open.gather(1, state.columns) & (kept < self.keep_threshold)
        most = (last - 1).masked_fill(number <= 1, 0)
        return torch.zeros_like(state.open).scatter(1, state.columns, take_best(-kept, doubted, most))

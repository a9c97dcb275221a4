"""The exact cache of block-causal models, whose finished blocks never change.

Shapes: B rows, L columns of the canvas, M wanted positions per row, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process.columns import Edit
from llada.samplers.caches.partial_pass import region_logits
from llada.samplers.caches.policy import CachePolicy, OpenCache, caching_backbone
from llada.samplers.window import Blocks


@dataclass(frozen=True)
class ExactCache(CachePolicy):
    """For block-causal models: finished blocks never change, so their keys are final and nothing is approximated.

    Every step computes its block alone and sees nothing of later ones. A finished block is run once more, together
    with the first step of the next, to store the keys of its final tokens; the prompt is run with the first step of
    all.

    Reference:
        Arriola et al., "Block Diffusion", arXiv 2503.09573, section 3.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, ExactCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2, block_length=4)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4, from_start=True), cache=ExactCache())
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    everywhere: ClassVar[bool] = False

    @property
    @override
    def memoryless(self) -> bool:
        return True

    @override
    def check(self, sampler: Any) -> None:
        super().check(sampler)
        if not (isinstance(sampler.window, Blocks) and sampler.window.from_start):
            raise ValueError(
                "ExactCache decodes a block-causal model block by block; "
                "use window=Blocks(block_length, from_start=True) with the model's own block_length"
            )

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        backbone = caching_backbone(denoiser)
        blocks = getattr(backbone, "block_length", None)
        if blocks is None:
            raise ValueError(
                f"{type(backbone).__name__} isn't block-causal (it has no block_length), so no cache is exact for it; "
                "use PrefixCache, DualCache or DelayedCache"
            )
        return _Exact(denoiser, len(first), length, blocks)


class _Exact(OpenCache):
    """Buffers of one canvas, in which the first ``written`` columns are final."""

    def __init__(self, denoiser: Denoiser, rows: int, length: int, block_length: int) -> None:
        self.denoiser, self.length, self.blocks = denoiser, length, block_length
        self.store = caching_backbone(denoiser).new_cache(rows, length)
        self.written, self.start, self.stop = 0, 0, length

    @override
    def begin_window(self, start: int, stop: int) -> None:
        if start % self.blocks or (stop % self.blocks and stop != self.length):
            raise ValueError(
                f"columns {start} to {stop} aren't whole blocks of the model, whose block_length is {self.blocks}"
                f"; use window=Blocks({self.blocks}, from_start=True)"
            )
        self.start, self.stop = start, stop

    @override
    def move(self, edit: Edit) -> None:
        self.store.move(edit.source)
        self.length = edit.source.shape[1]
        self.written = min(self.written, int(edit.first.min()) // self.blocks * self.blocks)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """Logits at positions of the window, (B, M, V)."""
        assert where is not None
        region = slice(max(0, min(self.written, self.start - self.store.lead)), self.stop)
        self.written = self.start
        return region_logits(self.denoiser, self.store, tokens, where, region, model_kwargs)

"""Caches that choose tokens rather than columns: delayed keys (dKV-Cache) and partial updates (dLLM-cache).

Shapes: B rows, L columns of the canvas, Q tokens computed per row, M wanted positions per row, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llada.denoiser import Denoiser, flat_indices
from llada.samplers.caches.policy import CachePolicy, CachingBackbone, OpenCache, Shape, View, caching_backbone
from llada.samplers.caches.regions import region_logits
from llada.samplers.layout import first_true


@dataclass(frozen=True)
class DelayedCache(CachePolicy):
    """A token's key and value are kept one step after it was written; until then, and while masked, they are fresh.

    They still change strongly in the step after the writing, because the token is then seen for the first time.

    Args:
        refresh: steps after which all are computed again; None: only when a window is opened. With 1 nothing is reused.

    Reference:
        Ma et al., "dKV-Cache: The Cache for Diffusion Language Models", arXiv 2505.15781.
    """

    guided: ClassVar[bool] = False
    editable: ClassVar[bool] = False
    refresh: int | None = 8

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ValueError(f"refresh must be 1 or more; got {self.refresh}")

    def open(self, denoiser: Denoiser, shape: Shape, model_kwargs: dict[str, Any]) -> OpenCache:
        """See `CachePolicy`."""
        return _Delayed(self, caching_backbone(denoiser), shape)


class _Delayed(OpenCache):
    def __init__(self, policy: DelayedCache, backbone: CachingBackbone, shape: Shape) -> None:
        self.policy, self.backbone, self.length = policy, backbone, shape.length
        self.store = backbone.new_cache(shape.rows, shape.length)

    def view(self, start: int, stop: int, mask_token_id: int) -> View:
        """See `OpenCache`."""
        return _DelayedView(self, stop, mask_token_id)


class _DelayedView(View):
    """Computes what was masked at the previous call: what still is, and what has been written since."""

    def __init__(self, opened: _Delayed, stop: int, mask_token_id: int) -> None:
        self.opened, self.stop, self.mask_token_id = opened, stop, mask_token_id
        self.calls, self.left, self.beyond = 0, 0, 0
        self.masked = torch.empty(0)  # (B, L) at the previous call
        self.fullest = 0  # masks of the fullest row at the previous call, counted without asking the device

    def begin_step(self, masks_left: int) -> None:
        """See `View`."""
        self.left = masks_left

    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """See `Denoiser.logits`; positions must be masked."""
        assert where is not None
        opened, refresh = self.opened, self.opened.policy.refresh
        masked = tokens == self.mask_token_id
        if self.calls == 0:
            self.beyond = int(masked[:, self.stop :].sum(1).max())
        if self.calls == 0 or (refresh is not None and self.calls % refresh == 0):
            whole = slice(0, opened.length)
            logits = region_logits(opened.backbone, opened.store, tokens, where, whole, model_kwargs)
        else:
            logits = self._partial(tokens, where, model_kwargs)
        self.masked, self.fullest, self.calls = masked, self.left + self.beyond, self.calls + 1
        return logits

    def _partial(self, tokens: Tensor, where: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        lead, needed = self.opened.store.lead, self.masked
        if lead:  # predictions are read at the left neighbour
            needed = needed | torch.cat((needed[:, lead:], torch.zeros_like(needed[:, :lead])), 1)
        width = min(self.opened.length, self.fullest * (1 + lead))
        positions, valid = first_true(needed, width)
        # Rows with fewer compute their first one several times, not tokens that would stay stale in a batch of one.
        positions = torch.where(valid, positions, positions[:, :1])
        index = torch.arange(width, device=tokens.device).expand_as(positions)
        place = torch.zeros_like(tokens).scatter(1, positions, index)
        part = tokens.gather(1, positions)
        select = flat_indices(part, place.gather(1, (where - lead).clamp(min=0)))
        backbone, store = self.opened.backbone, self.opened.store
        hidden = backbone.hidden(part, select=select, cache=store, region=positions, **model_kwargs)
        return backbone.head(hidden).view(*where.shape, -1)


@dataclass(frozen=True)
class IntervalCache(CachePolicy):
    """All layers' outputs are kept: the prompt is renewed rarely, the rest sooner, and in between a share of it.

    Steps are counted from the opening of each window, which computes everything, so that a row doesn't depend on how
    long its neighbours took for the window before.

    Args:
        prompt_interval: steps after which everything is computed again.
        interval: steps after which everything from the row's first mask on is.
        share: of those tokens that a step in between computes in each layer, those whose values have changed most.

    Raises:
        ValueError: if an interval is less than 1, or the share isn't in (0, 1].

    Reference:
        Liu et al., "dLLM-Cache", arXiv 2506.06295.
    """

    prompt_interval: int = 100
    interval: int = 7
    share: float = 0.25

    def __post_init__(self) -> None:
        if self.prompt_interval < 1 or self.interval < 1 or not 0.0 < self.share <= 1.0:
            raise ValueError(f"intervals must be 1 or more, and the share in (0, 1]; got {self}")

    def open(self, denoiser: Denoiser, shape: Shape, model_kwargs: dict[str, Any]) -> OpenCache:
        """See `CachePolicy`."""
        backbone = caching_backbone(denoiser)
        if not hasattr(backbone, "new_feature_cache"):
            raise ValueError(
                f"{type(backbone).__name__} has no new_feature_cache, so its layers can't be updated in part; "
                "use PrefixCache, DualCache or DelayedCache"
            )
        return _Interval(self, backbone, shape)


class _Interval(OpenCache):
    def __init__(self, policy: IntervalCache, backbone: Any, shape: Shape) -> None:
        self.policy, self.backbone = policy, backbone
        self.features = backbone.new_feature_cache(shape.rows, shape.length)
        start = (shape.first - self.features.lead).clamp(min=0)  # the first mask is read there
        self.everything = torch.zeros_like(start), shape.length
        self.answer = start, shape.length - int(start.min())

    def view(self, start: int, stop: int, mask_token_id: int) -> View:
        """See `OpenCache`."""
        return _IntervalView(self)


class _IntervalView(View):
    def __init__(self, opened: _Interval) -> None:
        self.opened, self.calls = opened, 0

    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """See `Denoiser.logits`."""
        assert where is not None
        opened, policy = self.opened, self.opened.policy
        everything = self.calls % policy.prompt_interval == 0
        start, width = opened.everything if everything else opened.answer
        share = 1.0 if everything or self.calls % policy.interval == 0 else policy.share
        self.calls += 1
        select = flat_indices(tokens, (where - opened.features.lead).clamp(min=0))
        hidden = opened.features.hidden(tokens, start, width, share, select=select, **model_kwargs)
        return opened.backbone.head(hidden).view(*where.shape, -1)

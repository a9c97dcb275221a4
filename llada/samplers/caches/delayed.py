"""Caches that choose tokens rather than columns: delayed keys (dKV-Cache) and partial updates (dLLM-cache).

Shapes: B rows, L columns of the canvas, Q tokens computed per row, M wanted positions per row, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import BackboneDenoiser, Denoiser
from llada.process.columns import Edit
from llada.rows import flat_indices, left_padding
from llada.samplers.caches.partial_pass import read_columns, region_logits
from llada.samplers.caches.policy import CachePolicy, OpenCache, caching_backbone
from llada.samplers.caches.turns import Turns
from llada.samplers.layout import first_true


@dataclass(frozen=True)
class DelayedCache(CachePolicy):
    """A token's key and value are kept one step after it was written; until then, and while masked, they are fresh.

    They still change strongly in the step after the writing, because the token is then seen for the first time.

    Args:
        refresh: steps after which all are computed again; None: only when a window is opened. With 1 nothing is reused.

    Reference:
        Ma et al., "dKV-Cache: The Cache for Diffusion Language Models", arXiv 2505.15781.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, DelayedCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=DelayedCache(refresh=8))
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    guided: ClassVar[bool] = False
    editable: ClassVar[bool] = False
    refresh: int | None = 8

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ValueError(f"refresh must be 1 or more; got {self.refresh}")

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        return _Delayed(self, denoiser, len(first), length)


class _Delayed(OpenCache):
    """Computes what was open at the previous call: what still is, and what has been written since."""

    def __init__(self, policy: DelayedCache, denoiser: Denoiser, rows: int, length: int) -> None:
        self.policy, self.denoiser, self.length = policy, denoiser, length
        self.store = caching_backbone(denoiser).new_cache(rows, length)
        self.turns, self.stop, self.left, self.beyond = Turns(rows), length, 0, 0
        self.open = self.before = torch.empty(0)  # (B, L) bool, now and at the previous call
        self.fullest = 0  # open positions of the fullest row at the previous call, counted without asking the device

    @override
    def begin_window(self, start: int, stop: int) -> None:
        self.stop = stop
        self.turns.begin_window()

    @override
    def move(self, edit: Edit) -> None:
        self.store.move(edit.source)
        self.length = edit.source.shape[1]
        self.turns.begin_window()  # the next call computes everything

    @override
    def begin_step(self, still_open: Tensor, most: int) -> None:
        self.open, self.left = still_open, most

    @override
    def begin_call(self, asking: Tensor) -> None:
        self.turns.begin_call(asking)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        """Logits at open positions, (B, M, V)."""
        assert where is not None
        refresh = self.policy.refresh
        if self.turns.calls == 0:
            self.beyond = int(self.open[:, self.stop :].sum(1).max())
        full = self.turns.due(lambda call: call == 0 or (refresh is not None and call % refresh == 0))
        if full is True:
            logits = region_logits(self.denoiser, self.store, tokens, where, slice(0, self.length), model_kwargs)
        else:
            logits = self._partial(tokens, where, None if full is False else full, model_kwargs)
        self.before, self.fullest = self.open, self.left + self.beyond
        self.turns.end_call()
        return logits

    def _partial(self, tokens: Tensor, where: Tensor, full: Tensor | None, model_kwargs: dict[str, Any]) -> Tensor:
        """Logits at open positions, from a pass over what is needed; all of the rows that are ``full``, (B,) bool."""
        lead, needed = self.store.lead, self.before
        if lead:  # predictions are read at the left neighbour
            needed = needed | torch.cat((needed[:, lead:], torch.zeros_like(needed[:, :lead])), 1)
        width = min(self.length, self.fullest * (1 + lead))
        if full is not None:
            needed, width = needed | full.to(needed.device)[:, None], self.length
        positions, valid = first_true(needed, width)
        # Rows with fewer compute their first one several times, not tokens that would stay stale in a batch of one.
        positions = torch.where(valid, positions, positions[:, :1])
        index = torch.arange(width, device=tokens.device).expand_as(positions)
        # Of a column that is computed several times any result will do; a padded entry never replaces another column.
        place = torch.zeros_like(tokens).scatter(1, positions, index)
        part = tokens.gather(1, positions)
        read = read_columns(tokens, where, lead, model_kwargs.get("attention_mask"))
        return self.denoiser.logits(part, place.gather(1, read), cache=self.store, region=positions, **model_kwargs)


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

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Blocks, IntervalCache, Quota, UnmaskingSampler
        >>> model = BidirectionalTransformer(9, 8, 1, 2)
        >>> sampler = UnmaskingSampler(Quota(steps=4), window=Blocks(4), cache=IntervalCache(interval=2))
        >>> sampler(model, torch.full((1, 8), 8), MaskingProcess(8)).calls
        tensor([4])
    """

    counts_columns: ClassVar[bool] = True
    prompt_interval: int = 100
    interval: int = 7
    share: float = 0.25

    def __post_init__(self) -> None:
        if self.prompt_interval < 1 or self.interval < 1 or not 0.0 < self.share <= 1.0:
            raise ValueError(f"intervals must be 1 or more, and the share in (0, 1]; got {self}")

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        backbone = caching_backbone(denoiser)
        if not hasattr(backbone, "new_feature_cache"):
            raise ValueError(
                f"{type(backbone).__name__} has no new_feature_cache, so its layers can't be updated in part; "
                "use PrefixCache, DualCache or DelayedCache"
            )
        features, mask = backbone.new_feature_cache(len(first), length), model_kwargs.get("attention_mask")
        start = first - features.lead  # the first open position is read there, or at itself if nothing is before it
        padding = 0 if mask is None else left_padding(mask, mask)[:, 0].repeat(len(first) // len(mask))
        assert isinstance(denoiser, BackboneDenoiser)
        return _Interval(self, features, denoiser, start.clamp(min=padding), length)


class _Interval(OpenCache):
    def __init__(
        self, policy: IntervalCache, features: Any, denoiser: BackboneDenoiser, start: Tensor, length: int
    ) -> None:
        self.policy, self.features, self.denoiser = policy, features, denoiser
        self.turns, self.start, self.length = Turns(len(start)), start, length
        self.width = length - int(start.min())

    @override
    def begin_window(self, start: int, stop: int) -> None:
        self.turns.begin_window()

    @override
    def move(self, edit: Edit) -> None:
        self.features.move(edit.source)
        self.length = edit.source.shape[1]
        self.start = torch.minimum(self.start, (edit.first - self.features.lead).clamp(min=0))
        self.width = self.length - int(self.start.min())
        self.turns.begin_window()  # the next call computes everything

    @override
    def begin_call(self, asking: Tensor) -> None:
        self.turns.begin_call(asking)

    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        assert where is not None
        features, (start, width, share) = self.features, self._reach(tokens.device)
        read = read_columns(tokens, where, features.lead, model_kwargs.get("attention_mask"))
        select, asking = flat_indices(tokens, read), self.turns.asking
        update = partial(features.hidden, tokens, start, width, share, select=select, **model_kwargs)
        # An update more of a row that rests would choose other tokens in the next one.
        hidden = update() if asking is None else features.sparing((~asking).to(tokens.device), update)
        self.turns.end_call()
        return self.denoiser.project(hidden).view(*where.shape, -1)

    def _reach(self, device: torch.device) -> tuple[Tensor, int, float | Tensor]:
        """From where on each row is computed, how many columns at most, and which share of them in each layer."""
        policy = self.policy
        everything = self.turns.due(lambda call: call % policy.prompt_interval == 0)
        answer = self.turns.due(lambda call: call % policy.prompt_interval == 0 or call % policy.interval == 0)
        share: float | Tensor = 1.0 if answer is True else policy.share
        if isinstance(answer, Tensor):
            share = torch.where(answer, 1.0, policy.share).double()
        if isinstance(everything, Tensor):
            return self.start.masked_fill(everything.to(device), 0), self.length, share
        return (torch.zeros_like(self.start), self.length, share) if everything else (self.start, self.width, share)

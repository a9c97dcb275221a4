"""Region passes of cached decoding, recorded once and replayed: CUDA graphs.

A cached step of a large model runs a few hundred small kernels, and starting them from Python takes longer than the
kernels themselves. A graph starts them all at once, but it reads and writes fixed memory. So the inputs are copied into
static buffers before a replay, positions are a tensor instead of a slice, so that one graph serves every block of a
canvas, and the keys and values of all canvases of one shape live in the same buffers, one canvas after the other.

Shapes: B rows, L columns of the canvas, Q columns of the region, D width, N tokens selected out of B * Q.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones.body import Body
from llada.backbones.cache import KeyValueCache, Region


class Recording(NamedTuple):
    """A recorded computation.

    Attributes:
        replay: computes it again, from what now stands in the inputs' memory, into the output's memory.
        output: the tensor that holds the result after a replay.
    """

    replay: Callable[[], None]
    output: Tensor


class Recorder(ABC):
    """Records a computation whose inputs and outputs stay at the same addresses in memory."""

    @abstractmethod
    def record(self, run: Callable[[], Tensor]) -> Recording:
        """Record ``run``, which is called at least once meanwhile; replay the recording before reading its output."""


@dataclass(frozen=True)
class CudaRecorder(Recorder):
    """CUDA graphs.

    Args:
        warm_up: passes on a side stream before the recording, in which libraries choose kernels and allocate.
    """

    warm_up: int = 2

    @override
    def record(self, run: Callable[[], Tensor]) -> Recording:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(self.warm_up):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = run()
        return Recording(graph.replay, output)


@dataclass(frozen=True)
class EagerRecorder(Recorder):
    """No graph: a replay runs the computation again into the same output. For tests of the buffers on any device."""

    @override
    def record(self, run: Callable[[], Tensor]) -> Recording:
        output = run()
        return Recording(lambda: _into(output, run()), output)


def _into(target: Tensor, value: Tensor) -> None:
    target.copy_(value)


class GraphedBackbone(nn.Module):
    """A backbone whose passes over a region of a canvas are graphs; everything else goes to the backbone as it is.

    Give it to a sampler with a region cache (`llada.samplers.DualCache`, `PrefixCache`, `VicinityCache`) in place of
    the backbone. Passes over the whole canvas aren't recorded: they are bound by arithmetic, not by starting kernels.
    A graph is recorded for each shape of canvas and region. The buffers and graphs of the shapes that were asked for
    last are kept, so that a conversation whose canvas grows doesn't fill the memory.

    Args:
        backbone: a body with a head, such as `BidirectionalTransformer`. Its parameters must stay where they are in
            memory.
        recorder: what makes the graphs.
        kept_shapes: of canvases whose buffers and graphs are kept.

    Raises:
        ValueError: if the backbone keeps no keys and values, or is block-causal: there, regions have many sizes.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer, GraphedBackbone
        >>> backbone = BidirectionalTransformer(9, 8, num_layers=1, num_heads=2)
        >>> graphed = GraphedBackbone(backbone)  # for a sampler with a cache, such as llada.samplers.fast_dllm_dual()
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> torch.equal(graphed(tokens), backbone(tokens))  # whole passes are the backbone's own
        True
    """

    def __init__(self, backbone: Body, recorder: Recorder = CudaRecorder(), kept_shapes: int = 4) -> None:
        super().__init__()
        if kept_shapes < 1:
            raise ValueError(f"kept_shapes must be 1 or more; got {kept_shapes}")
        if not hasattr(backbone, "new_cache"):
            raise ValueError(
                f"{type(backbone).__name__} has no new_cache(rows, length), so no pass over a region of a canvas can "
                "be recorded; use the backbone itself"
            )
        self.backbone, self.recorder, self.kept_shapes = backbone, recorder, kept_shapes
        self._stores: dict[tuple[int, int], KeyValueCache] = {}
        self._owners: dict[tuple[int, int], Lease] = {}
        self._graphs: dict[tuple[int, ...], _Graph] = {}

    def forward(self, tokens: Tensor, **model_kwargs: Any) -> Tensor:
        """Logits of every position, (B, L) -> (B, L, V)."""
        return self.backbone(tokens, **model_kwargs)

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.backbone.head(hidden)

    def new_cache(self, batch_size: int, length: int) -> "Lease":
        """The key/value cache for canvases of that shape; it ends the one that was given before for the same shape."""
        shape = batch_size, length
        store = self._stores.pop(shape, None)
        while store is None and len(self._stores) >= self.kept_shapes:
            self._forget(next(iter(self._stores)))  # before new buffers are made
        store = self._stores[shape] = self.backbone.new_cache(batch_size, length) if store is None else store
        if store.ends_at_region:
            raise ValueError(
                "graphs are for models that see the whole canvas; decode a causal or block-causal one without them"
            )
        self._owners[shape] = Lease(store, shape)
        return self._owners[shape]

    def _forget(self, shape: tuple[int, int]) -> None:
        """Let go of the buffers and graphs of a shape."""
        del self._stores[shape]
        self._owners.pop(shape, None)
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[:2] != shape}

    def hidden(
        self,
        tokens: Tensor,
        *,
        select: Tensor | None = None,
        cache: "Lease | None" = None,
        region: Region | None = None,
        attention_mask: Tensor | None = None,
        **model_kwargs: Any,
    ) -> Tensor:
        """Hidden states, what the head turns into logits; a pass over a part of a cached canvas is a replay.

        Args:
            tokens: (B, Q) int64.
            select: (N,) flat indices into B * Q.
            cache: the newest one that `new_cache` gave for its shape, or None.
            region: where ``tokens`` stand on the cache's canvas.
            attention_mask: (B, L) bool, true for real tokens.
            model_kwargs: other keywords of the backbone; none can be given with a region.

        Returns:
            (B, Q, D), or (N, D) with ``select``; not to be kept over the next call.

        Raises:
            ValueError: if a newer cache has taken the buffers, gradients are wanted, or the keywords aren't known.
        """
        arguments = {**model_kwargs}
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask
        if cache is None or region is None:
            return self.backbone.hidden(tokens, select=select, **arguments)
        if self._owners.get(cache.shape) is not cache:
            raise ValueError(
                "the buffers of this cache serve a newer canvas; decode one canvas after the other, or make a "
                "GraphedBackbone for each"
            )
        if tokens.shape[1] == cache.length:
            return self.backbone.hidden(tokens, select=select, cache=cache.store, region=region, **arguments)
        if model_kwargs or torch.is_grad_enabled():
            raise ValueError(
                f"a recorded pass takes no gradient and no keywords but attention_mask; got {sorted(model_kwargs)} and "
                f"gradients {'on' if torch.is_grad_enabled() else 'off'}; use torch.no_grad(), or the backbone itself"
            )
        hidden = self._graph(cache, tokens, attention_mask)(tokens, region, attention_mask)
        return hidden if select is None else hidden.flatten(0, 1)[select]

    def _graph(self, cache: "Lease", tokens: Tensor, attention_mask: Tensor | None) -> "_Graph":
        key = (*cache.shape, tokens.shape[1], int(attention_mask is not None))
        if key not in self._graphs:
            self._graphs[key] = _Graph(self.backbone, self.recorder, cache.store, tokens, attention_mask)
        return self._graphs[key]


class Lease:
    """The right to use a cache's buffers, until a newer canvas of the same shape takes them.

    Args:
        store: the cache with the buffers.
        shape: numbers of rows and columns of the canvas.
    """

    def __init__(self, store: KeyValueCache, shape: tuple[int, int]) -> None:
        self.store, self.shape = store, shape
        self.lead, self.length = store.lead, store.length


class _Graph:
    """A pass over Q columns of one shape of canvas, with the memory that it reads."""

    def __init__(
        self,
        backbone: Body,
        recorder: Recorder,
        store: KeyValueCache,
        tokens: Tensor,
        attention_mask: Tensor | None,
    ) -> None:
        self.backbone, self.recorder, self.store = backbone, recorder, store
        self.tokens, self.positions = torch.empty_like(tokens), torch.empty_like(tokens)
        self.mask = None if attention_mask is None else torch.empty_like(attention_mask, dtype=torch.bool)
        self.columns = torch.arange(tokens.shape[1], device=tokens.device)
        self.recording: Recording | None = None

    def __call__(self, tokens: Tensor, region: Region, attention_mask: Tensor | None) -> Tensor:
        """Fill the buffers and replay; (B, Q, D), overwritten by the next call."""
        self.tokens.copy_(tokens)
        self.positions.copy_(self.columns + region.start if isinstance(region, slice) else region)
        if self.mask is not None and attention_mask is not None:
            self.mask.copy_(attention_mask)
        if self.recording is None:  # the buffers hold real values by now: a recording writes into the cache
            self.recording = self.recorder.record(self._run)
        self.recording.replay()
        return self.recording.output

    def _run(self) -> Tensor:
        arguments = {} if self.mask is None else {"attention_mask": self.mask}
        return self.backbone.hidden(self.tokens, cache=self.store, region=self.positions, **arguments)

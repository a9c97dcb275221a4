"""Keys and values of earlier forward passes, kept after rotation in buffers that are allocated once.

A pass that computes only some columns of a canvas writes their fresh keys and values into the buffers, by slice or by
index, and attends to the whole buffer. Which columns to compute, and when to refresh all, is the sampler's cache
policy; this class only stores.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.backbones.sizes import check_sizes

Region = slice | Tensor
"""Where the tokens of a pass stand on the canvas: ``slice(start, stop)`` for every row, or columns (B, Q) int64."""


def writable(buffer: Tensor, fresh: Tensor) -> Tensor:
    """The buffer, or a copy of it where earlier passes need its content for their gradients.

    Args:
        buffer: what is kept.
        fresh: what is to be written into it.
    """
    tracked = torch.is_grad_enabled() and (buffer.requires_grad or fresh.requires_grad)
    return buffer.clone() if tracked else buffer


class KeyValueCache:
    """Buffers for one canvas.

    Args:
        num_layers: number of attention layers.
        shape: (B, G, L, d): rows, key/value heads, canvas length, head width.
        device: device of the buffers.
        dtype: dtype of the buffers.
        lead: how many columns to the left of a token its prediction is read: 1 for models with shifted outputs.
        ends_at_region: whether nothing to the right of a region given as a slice may be seen (block-causal models).

    Examples:
        >>> import torch
        >>> from llada.backbones import KeyValueCache
        >>> cache = KeyValueCache(1, (1, 1, 4, 1), device=torch.device("cpu"), dtype=torch.float32)
        >>> keys = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1)
        >>> _ = cache.write(0, keys, keys, slice(0, 4))
        >>> fresh, _ = cache.write(0, keys[:, :, :2] * 10, keys[:, :, :2], slice(1, 3))
        >>> fresh.flatten()  # a canvas of four columns, of which two were computed again
        tensor([ 1., 10., 20.,  4.])
    """

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        lead: int = 0,
        ends_at_region: bool = False,
    ) -> None:
        check_sizes(num_layers=num_layers)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.neighbours: dict[int, Tensor] = {}
        self.length, self.lead, self.ends_at_region = shape[2], lead, ends_at_region

    def visible(self, region: Region) -> int:
        """How many columns, from the first, a pass over ``region`` attends to."""
        return region.stop if self.ends_at_region and isinstance(region, slice) else self.length

    def write(self, layer: int, keys: Tensor, values: Tensor, region: Region) -> tuple[Tensor, Tensor]:
        """Store fresh keys and values, and return those of the canvas.

        Args:
            layer: index of the attention layer.
            keys: (B, G, Q, d), already rotated.
            values: (B, G, Q, d).
            region: where the Q tokens stand.

        Returns:
            Keys and values, (B, G, `visible`, d) each: views of the buffers, not copies.
        """
        for buffers, fresh in ((self.keys, keys), (self.values, values)):
            buffer = buffers[layer] = writable(buffers[layer], fresh)
            if isinstance(region, slice):
                buffer[:, :, region] = fresh
            else:
                index = region[:, None, :, None].expand_as(fresh)
                buffer.scatter_(2, index, fresh.to(buffer.dtype))
        stop = self.visible(region)
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def move(self, source: Tensor) -> None:
        """Follow a canvas whose columns have moved. Keys keep their rotation, so one is right only where it was before.

        Args:
            source: (B, N) int64, the old column of each of the N new ones; -1 for those that have nothing yet.
        """
        column = source.clamp(min=0)
        index = column[:, None, :, None].expand(-1, *self.keys[0].shape[1:2], -1, self.keys[0].shape[3])
        self.keys = [buffer.gather(2, index) for buffer in self.keys]
        self.values = [buffer.gather(2, index) for buffer in self.values]
        for layer, buffer in self.neighbours.items():
            self.neighbours[layer] = buffer.gather(1, column[..., None].expand(-1, -1, buffer.shape[-1]))
        self.length = source.shape[1]

    def write_neighbours(self, layer: int, source: Tensor, region: Region) -> Tensor:
        """Store what a short convolution reads of the region's tokens, and return that of the canvas.

        Args:
            layer: index of the layer.
            source: (B, Q, D).
            region: where the Q tokens stand.

        Returns:
            (B, L, D); zero where no pass has been.
        """
        if layer not in self.neighbours:
            self.neighbours[layer] = source.new_zeros(len(source), self.length, source.shape[-1])
        buffer = self.neighbours[layer] = writable(self.neighbours[layer], source)
        if isinstance(region, slice):
            buffer[:, region] = source
        else:
            buffer.scatter_(1, region[..., None].expand_as(source), source)
        return buffer


class Cached(NamedTuple):
    """The place of a layer's keys and values in a cache.

    Attributes:
        cache: the keys and values of all layers, for the whole canvas.
        layer: index of the layer.
        region: where the tokens of a pass stand on the canvas.
    """

    cache: KeyValueCache
    layer: int
    region: Region

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store fresh keys and values, (B, G, Q, d) each, and return those of the canvas, (B, G, K, d) each."""
        return self.cache.write(self.layer, keys, values, self.region)

    def write_neighbours(self, source: Tensor) -> Tensor:
        """Store what a convolution reads of the fresh tokens, (B, Q, D), and return that of the canvas, (B, L, D)."""
        return self.cache.write_neighbours(self.layer, source, self.region)

    def columns(self, rows: int, device: torch.device) -> Tensor:
        """Where the Q tokens stand, (B, Q) int64."""
        if isinstance(self.region, Tensor):
            return self.region
        return torch.arange(self.cache.length, device=device)[self.region].expand(rows, -1)

"""The gradient of LLaDA's loss in four ways, and what each costs: the parts of why_backpropagation.py.

With f(theta) the loss of a batch whose noise levels and masks were drawn once, and e_i the i-th unit vector:

    one-sided    (f(theta + h e_i) - f(theta)) / h              N + 1 evaluations, error O(h) + rounding / h
    central      (f(theta + h e_i) - f(theta - h e_i)) / 2h     2 N evaluations, error O(h^2) + rounding / h
    forward      d/ds f(theta + s e_i) at s = 0                 N passes with dual numbers, exact
    reverse      all of it in one sweep backwards               one pass, exact
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from llada import BidirectionalTransformer, MaskingProcess
from llada.denoiser import as_denoiser
from llada.heads.cross_entropy import nll
from llada.objectives import llada_pretraining
from llada.objectives.design import MASKS, TIMES
from llada.random import RowRandom

TOKENS, T_MIN = 62, 1e-3
"""Tokens of the made-up text, and LLaDA's lowest noise level."""
PAD = 2
"""Further rows of the embedding: the mask, and one that is never used."""


class FrozenLoss(nn.Module):
    """LLaDA's pretraining loss of one batch, sum over masked tokens of nll / t, over B L, its masks drawn only once.

    Args:
        backbone: a network with `hidden` and `head`.
        rows: (B, L) int64, clean tokens.
        seed: of noise levels and masks.
    """

    def __init__(self, backbone: nn.Module, rows: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.backbone, self.rows, self.random = backbone, rows, RowRandom.from_seed(seed, len(rows))
        self.process = MaskingProcess(TOKENS)
        t = llada_pretraining(T_MIN).design.times(self.random.fold_in(TIMES))  # type: ignore[attr-defined]
        self.noised = self.process.corrupt(rows, t, random=self.random.fold_in(MASKS))
        self.weights = (1.0 / t)[:, None].expand_as(rows)[self.noised.scored] / rows.numel()

    def forward(self) -> Tensor:
        """The loss, ()."""
        tokens, masked = self.noised
        terms = nll(as_denoiser(self.backbone).logits(tokens, masked), self.rows[masked])
        return (terms * self.weights.to(terms)).sum()

    def library(self) -> Tensor:
        """The same from the library's objective, which draws the masks itself; the two must be one number."""
        return llada_pretraining(T_MIN)(self.backbone, self.process, self.rows, random=self.random).loss


def build(width: int, num_layers: int, *, batch: int = 4, length: int = 32, dtype: torch.dtype = torch.float32) -> Any:
    """The loss of a small LLaDA in evaluation mode, weights and text from fixed seeds.

    The attention is written out: fused kernels have no forward mode.
    """
    torch.manual_seed(0)
    heads = max(1, width // 32)
    backbone = BidirectionalTransformer(
        TOKENS + PAD, width, num_layers, heads, hidden_width=math.ceil(width * 8 / 3), attention="plain"
    )
    rows = torch.randint(TOKENS, (batch, length), generator=torch.Generator().manual_seed(1))
    return FrozenLoss(backbone.to(dtype).eval(), rows)


@dataclass(frozen=True)
class Function:
    """The loss as a function of some of its parameters, in one vector.

    Args:
        loss: of a batch.
        count: how many parameters, chosen at random, are variables; the others keep their values. None: all.
    """

    loss: FrozenLoss
    count: int | None = None

    @cached_property
    def all(self) -> Tensor:
        """(P,) every parameter."""
        return torch.cat([parameter.detach().flatten() for parameter in self.loss.parameters()])

    @cached_property
    def chosen(self) -> Tensor:
        """(N,) int64, which of them are variables."""
        order = torch.randperm(len(self.all), generator=torch.Generator().manual_seed(2))
        return order[: self.count].sort().values

    @cached_property
    def point(self) -> Tensor:
        """(N,) where the gradient is wanted."""
        return self.all[self.chosen]

    def __call__(self, theta: Tensor) -> Tensor:
        """The loss, (), at (N,) values."""
        vector = theta if len(self.chosen) == len(self.all) else self.all.index_copy(0, self.chosen, theta)
        named = dict(self.loss.named_parameters())
        parts = vector.split([parameter.numel() for parameter in named.values()])
        values = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
        return functional_call(self.loss, values, ())


def reverse(f: Function) -> tuple[Tensor, Tensor]:
    """Gradient (N,) and value ()."""
    theta = f.point.clone().requires_grad_()
    value = f(theta)
    return torch.autograd.grad(value, theta)[0], value.detach()


def directional(f: Function, tangent: Tensor) -> Tensor:
    """The derivative along a direction, by one pass of forward mode, ()."""
    return jvp(f, (f.point,), (tangent,))[1]


def unit(f: Function, index: int) -> Tensor:
    """e_i, (N,)."""
    return nn.functional.one_hot(torch.tensor(index), len(f.point)).to(f.point)


def one_sided(f: Function, index: int, h: float, value: Tensor) -> Tensor:
    """One entry of the gradient by a forward difference, given f(theta)."""
    return (f(_moved(f, index, h)) - value) / h


def central(f: Function, index: int, h: float) -> Tensor:
    """One entry of the gradient by a central difference."""
    return (f(_moved(f, index, h)) - f(_moved(f, index, -h))) / (2 * h)


def forward(f: Function, index: int) -> Tensor:
    """One entry of the gradient by forward mode."""
    return directional(f, unit(f, index))


def _moved(f: Function, index: int, h: float) -> Tensor:
    moved = f.point.clone()
    moved[index] += h
    return moved


def entries(entry: Callable[[int], Tensor], count: int) -> Tensor:
    """A gradient entry by entry, (count,)."""
    with torch.no_grad():
        return torch.stack([entry(index) for index in range(count)])


def batched_forward(f: Function, chunk: int) -> Tensor:
    """The gradient by forward mode, ``chunk`` directions per pass, (N,)."""
    return _batched(lambda tangent: directional(f, tangent), f, chunk, 1.0)


def batched_one_sided(f: Function, chunk: int, h: float) -> Tensor:
    """The gradient by forward differences, ``chunk`` evaluations per pass, (N,)."""
    with torch.no_grad():
        return (_batched(lambda step: f(f.point + step), f, chunk, h) - f(f.point)) / h


def batched_central(f: Function, chunk: int, h: float) -> Tensor:
    """The gradient by central differences, ``chunk`` evaluations per pass, (N,)."""
    with torch.no_grad():
        right, left = (_batched(lambda step: f(f.point + step), f, chunk, side) for side in (h, -h))
        return (right - left) / (2 * h)


def _batched(function: Callable[[Tensor], Tensor], f: Function, chunk: int, length: float) -> Tensor:
    many = vmap(function)
    pieces = torch.arange(len(f.point)).split(chunk)
    return torch.cat([many(length * nn.functional.one_hot(i, len(f.point)).to(f.point)) for i in pieces])


class Timing(NamedTuple):
    """Processor time of one call in seconds: median and quartiles."""

    median: float
    low: float
    high: float


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call; of a single thread, it doesn't count the waiting for a core that others use."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time functions in turn, so that all of them see the same disturbances; a first round is to warm up."""
    taken = [{name: seconds(function) for name, function in functions.items()} for _ in range(rounds + 1)]
    quartiles = {name: statistics.quantiles([each[name] for each in taken[1:]], n=4) for name in functions}
    return {name: Timing(q[1], q[0], q[2]) for name, q in quartiles.items()}


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and attention in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(loss: FrozenLoss) -> int:
    """What the forward pass keeps for the backward pass: bytes of all different storages, the parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # kept alive, so that no address comes twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


class Segment(nn.Module):
    """Some blocks of a Transformer as one, so that they are recomputed together.

    Args:
        blocks: in their order.
    """

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, context: Any, select: Tensor | None = None) -> Tensor:
        """As `llada.backbones.layers.Block`."""
        for index, block in enumerate(self.blocks):
            x = block(x, context, select if index == len(self.blocks) - 1 else None)
        return x


def checkpointed(loss: FrozenLoss, blocks_per_segment: int) -> FrozenLoss:
    """Let a loss keep the inputs of its segments only, and compute the rest again on the way back; changes ``loss``."""
    backbone: Any = loss.backbone
    blocks = list(backbone.blocks)
    pieces = [blocks[i : i + blocks_per_segment] for i in range(0, len(blocks), blocks_per_segment)]
    backbone.blocks, backbone.num_layers = nn.ModuleList(map(Segment, pieces)), len(pieces)
    backbone.activation_checkpointing = True
    return loss.train()  # what turns recomputation on; there is no dropout that it could turn on as well

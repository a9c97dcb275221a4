"""Models of puzzles whose cells can be written in any order, and the orders in which `orders.py` lets them write.

model = make(vocab_size, mask, places, seed, twin=False)
written(model, prompts, open_places, ORDERS["margin"], seed)      # one place per call
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sudoku import CellEmbedding
from torch import Tensor
from typing_extensions import override

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.autoregressive import AutoregressiveLM
from llada.objectives import NELBO, ExactCounts
from llada.samplers import LeftToRight, Margin, Order, PerStep, RandomOrder, State, TopProb, UnmaskingSampler


@dataclass(frozen=True)
class RightToLeft(Order):
    """From the last position to the first."""

    reads_drawn: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    @override
    def __call__(self, state: State) -> Tensor:
        """The later, the sooner."""
        return state.positions.double()


ORDERS: dict[str, Order] = {
    "random order": RandomOrder(),
    "left to right": LeftToRight(),
    "right to left": RightToLeft(),
    "top probability": TopProb(),
    "margin": Margin(),
}


def make(
    vocab_size: int, mask: int, places: int, seed: int, twin: bool, width: int = 64, layers: int = 3
) -> DiffusionLM:
    """A fresh model; twins of one seed and length start from the same weights."""
    torch.manual_seed(seed)
    network = BidirectionalTransformer(
        vocab_size, width=width, num_layers=layers, num_heads=width // 16, causal=twin, shift=twin
    )
    network.embedding = CellEmbedding(vocab_size, width, places)
    process = MaskingProcess(mask)
    bound = NELBO(ExactCounts())
    model = AutoregressiveLM(network, process, seed=seed) if twin else DiffusionLM(network, process, bound, seed=seed)
    model.undescribed = "weights"  # whoever loads a checkpoint puts the places' vectors in by hand, as above
    return model


def written(model: DiffusionLM, prompts: Tensor, open_places: Tensor, order: Order, seed: int) -> Tensor:
    """Canvases with the open places filled, one per call; (N, L)."""
    sampler = UnmaskingSampler(PerStep(1), order)
    return model.generate(prompts, given=~open_places, sampler=sampler, seed=seed).tokens

"""How large a run of rewards.py is, and where it begins: a network that supervised training brought to some percent."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from sudoku import MASK, SIDE, CellEmbedding, puzzles, solved
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.objectives import NELBO, ExactCounts
from llada.samplers import Amount, DistinctRows, PerStep, Proposal, Sampler, Threshold, TopProb, UnmaskingSampler

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How large a run is.

    Args:
        width: of the network.
        layers: of the network.
        fine_tuning: supervised steps of 64 whole grids, at most.
        enough: share of solved training puzzles that ends them; looked at every five steps.
        steps: of learning from rewards.
        learning_rate: of the latter.
        prompts: puzzles of such a step.
        group: grids to each.
        threshold: cells at least as sure as this are filled together, and always the surest one; None: two per call.
        least: blanks of a puzzle, at least.
        most: and at most.
        judged: held-out puzzles.
    """

    width: int = 64
    layers: int = 3
    fine_tuning: int = 200
    enough: float = 0.1
    steps: int = 1200
    learning_rate: float = 5e-4
    prompts: int = 64
    group: int = 8
    threshold: float | None = None
    least: int = 6
    most: int = 8
    judged: int = 1000

    @property
    def blanks(self) -> tuple[int, int]:
        """Least and most of a puzzle."""
        return self.least, self.most

    @property
    def sampler(self) -> UnmaskingSampler:
        """What fills grids in training: the surest cells first, at temperature 1."""
        return _surest(PerStep(2) if self.threshold is None else Threshold(self.threshold))


def _surest(amount: Amount) -> UnmaskingSampler:
    return UnmaskingSampler(amount, TopProb(), proposal=Proposal(temperature=1.0), cache=DistinctRows())


ONE_BY_ONE = _surest(PerStep(1))
"""A model that learned by two cells per call is judged by one, too: the second of two is drawn without the first."""
FULL = Setting()
QUICK = Setting(width=32, layers=2, enough=0.2, steps=100, learning_rate=1e-3, least=3, most=4, judged=500, prompts=32)


def judge(
    model: DiffusionLM, held_out: Tensor, setting: Setting, sampler: Sampler | None = None
) -> tuple[float, float]:
    """The share of held-out puzzles that are solved, and its standard error.

    Args:
        model: of any state.
        held_out: grids.
        setting: says how many puzzles, and how many blanks they have.
        sampler: what fills them; None: as in training.
    """
    asked = puzzles(held_out, setting.judged, 10**6, setting.blanks)
    share = float(solved(model.generate(asked, sampler=sampler, seed=0).tokens).double().mean())
    return share, math.sqrt(max(share * (1.0 - share), 0.25 / setting.judged) / setting.judged)


@dataclass
class Enough(Callback):
    """Ends supervised training as soon as training puzzles are solved often enough.

    Args:
        training: grids.
        setting: says how often.
    """

    training: Tensor
    setting: Setting

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % 5 == 0:
            share, _ = judge(pl_module, self.training, replace(self.setting, judged=250))
            trainer.should_stop = share >= self.setting.enough


def start(seed: int, training: Tensor, setting: Setting) -> DiffusionLM:
    """A model after short supervised training on whole grids."""
    torch.manual_seed(seed)
    network = BidirectionalTransformer(SIDE + 1, width=setting.width, num_layers=setting.layers, num_heads=4)
    network.embedding = CellEmbedding(SIDE + 1, setting.width)
    model = DiffusionLM(network, MaskingProcess(MASK), NELBO(ExactCounts()), sampler=setting.sampler, seed=seed)
    model.undescribed = "weights"  # whoever loads a checkpoint puts the cells' vectors in by hand, as above
    model.optimizer = partial(torch.optim.AdamW, lr=1e-3)
    random = torch.Generator().manual_seed(seed)
    drawn = training[torch.randint(len(training), (setting.fine_tuning * 64,), generator=random)]
    options = {"gradient_clip_val": 1.0, "enable_checkpointing": False, "callbacks": [Enough(training, setting)]}
    trainer = Trainer(max_steps=setting.fine_tuning, **options, **QUIET)
    trainer.fit(model, DataLoader([{"tokens": grid} for grid in drawn], 64))
    return model

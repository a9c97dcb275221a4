"""What rewards.py learns: questions with a rule for their answers, and a network that can do a tenth of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from llada import DiffusionLM, MaskingProcess
from llada.cli.quiet import quiet
from llada.denoiser import Backbone
from llada.objectives import NELBO, ExactCounts
from llada.rewards import Prompt, Reward
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
        fine_tuning: supervised steps of 64 rows, at most.
        enough: share of solved training questions that ends them; looked at every five steps.
        steps: of learning from rewards.
        learning_rate: of the latter.
        prompts: questions of such a step.
        group: answers to each.
        threshold: cells at least as sure as this are filled together, and always the surest one; None: two per call.
        judged: held-out questions.
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
    judged: int = 1000

    @property
    def sampler(self) -> UnmaskingSampler:
        """What fills gaps in training: the surest cells first, at temperature 1."""
        return _surest(PerStep(2) if self.threshold is None else Threshold(self.threshold))


def _surest(amount: Amount) -> UnmaskingSampler:
    return UnmaskingSampler(amount, TopProb(), proposal=Proposal(temperature=1.0), cache=DistinctRows())


ONE_BY_ONE = _surest(PerStep(1))
"""A model that learned by two cells per call is judged by one, too: the second of two is drawn without the first."""


class RewardTask(ABC):
    """Questions whose answers are checked by a rule. Some are for training, and others for judging.

    Attributes:
        solved: 1 for a right answer, else 0.
        parts: rewards beside it, by name, for what is half right.
    """

    solved: ClassVar[Reward]
    parts: ClassVar[Mapping[str, Reward]]

    @property
    @abstractmethod
    def mask(self) -> int:
        """The mask token."""

    @abstractmethod
    def network(self, width: int, layers: int) -> Backbone:
        """A fresh one."""

    @abstractmethod
    def ask(self, number: int, seed: int, held_out: bool = False) -> list[Prompt]:
        """Questions by chance, as rows of one length with masks where the answer goes.

        Args:
            number: of them.
            seed: of the choice.
            held_out: those for judging.
        """

    @abstractmethod
    def show(self, number: int, seed: int) -> list[dict[str, Tensor]]:
        """Rows with right answers to training questions, for supervised training; arguments as of `ask`."""

    @abstractmethod
    def text(self, row: list[int]) -> str:
        """A filled row as the rewards read it."""


def judge(
    model: DiffusionLM,
    task: RewardTask,
    number: int,
    sampler: Sampler | None = None,
    held_out: bool = True,
) -> tuple[float, float]:
    """The share of questions that are solved, and its standard error.

    Args:
        model: of any state.
        task: what is asked.
        number: of questions.
        sampler: what fills the gaps; None: as in training.
        held_out: whether training knew none of them.
    """
    asked = task.ask(number, 10**6, held_out)
    filled = model.generate(torch.tensor([prompt.tokens for prompt in asked]), sampler=sampler, seed=0).tokens
    right = [
        task.solved.score(prompt.text, task.text(row), prompt.row)
        for prompt, row in zip(asked, filled.tolist(), strict=True)
    ]
    share = sum(right) / number
    return share, math.sqrt(max(share * (1.0 - share), 0.25 / number) / number)


@dataclass
class Enough(Callback):
    """Ends supervised training as soon as training questions are solved often enough.

    Args:
        task: what is asked.
        share: how often.
    """

    task: RewardTask
    share: float

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % 5 == 0:
            trainer.should_stop = judge(pl_module, self.task, 250, held_out=False)[0] >= self.share


@quiet()
def start(task: RewardTask, setting: Setting, seed: int) -> DiffusionLM:
    """A model after short supervised training on right answers.

    Args:
        task: what is asked.
        setting: how large it is.
        seed: of weights and rows.
    """
    torch.manual_seed(seed)
    network = task.network(setting.width, setting.layers)
    model = DiffusionLM(network, MaskingProcess(task.mask), NELBO(ExactCounts()), sampler=setting.sampler, seed=seed)
    model.undescribed = "weights"  # a task may change its network by hand; whoever loads a checkpoint does it again
    model.optimizer = partial(torch.optim.AdamW, lr=1e-3)
    options = {"gradient_clip_val": 1.0, "enable_checkpointing": False, "callbacks": [Enough(task, setting.enough)]}
    trainer = Trainer(max_steps=setting.fine_tuning, **options, **QUIET)
    trainer.fit(model, DataLoader(task.show(setting.fine_tuning * 64, seed), 64))
    return model

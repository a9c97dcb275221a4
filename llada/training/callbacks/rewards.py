"""What a training on rewards shows: rewards of its own answers, and of answers to held-out prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from llada.random import RowRandom
from llada.rewards.writer import Prompt, Writer, policy_of
from llada.training.loop import replicas_of

_HELD_OUT, _BATCH = 41, 64


class Rewards(Callback):
    """Logs what the answers of a step are worth, and now and then what the model makes of held-out prompts.

        train/reward              mean over the answers of a step, and train/reward_NAME of each part of a sum
        train/reward_spread       standard deviation within a prompt's answers, mean over prompts; 0: nothing to learn
        train/answer_tokens       tokens that count, per answer
        train/calls               model calls per answer
        train/rollout_seconds     what writing and judging a batch took
        val/reward                of held-out prompts, by the model's own sampler, on the same seeds each time

    Beside them stand the objective's numbers, ``train/policy_ratio_error`` among them: by how much the importance ratio
    differs from 1 where the policy is still the one that wrote the answers. It is 0; if not, training and sampling
    don't compute the same law.

    Args:
        every_n_steps: optimiser steps between looks at held-out prompts; 0 for none but that at the end.
        num_prompts: held-out prompts that are answered.
        show: answers to held-out prompts that are shown in the terminal at each look.

    Raises:
        ValueError: if a number is negative.

    Examples:
        >>> from llada.training.callbacks import Rewards
        >>> callback = Rewards(every_n_steps=50, num_prompts=32, show=2)
    """

    def __init__(self, every_n_steps: int = 100, num_prompts: int = 64, show: int = 0) -> None:
        if min(every_n_steps, num_prompts, show) < 0:
            raise ValueError(f"numbers must be 0 or more; got {every_n_steps}, {num_prompts} and {show}")
        self.every_n_steps, self.num_prompts, self.show = every_n_steps, num_prompts, show
        self._looked = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See whether there is a policy.

        Raises:
            ValueError: if the objective isn't about rewards.
        """
        policy_of(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the answers that are about to be learnt from."""
        if "reward" not in batch:
            return
        values = {f"train/{name}": batch[name].mean() for name in batch if str(name).startswith("reward_")}
        reward, advantage = batch["reward"], batch["advantage"]
        values["train/answer_tokens"] = batch["maskable"].sum(1).double().mean()
        values["train/calls"] = batch["calls"].double().mean()
        values["train/reward_spread"] = self._spread(trainer, reward)
        values["train/rollout_seconds"] = torch.tensor(batch.get("seconds", 0.0))
        values["train/useful_answers"] = (advantage != 0.0).double().mean()
        options: dict[str, Any] = {"batch_size": len(reward), "sync_dist": replicas_of(pl_module).size > 1}
        pl_module.log_dict({name: value.float() for name, value in values.items()}, **options)
        pl_module.log("train/reward", reward.mean().float(), prog_bar=True, **options)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at held-out prompts, if it is time."""
        step = trainer.global_step
        due = bool(self.every_n_steps) and step % self.every_n_steps == 0
        if step != self._looked and (due or step == trainer.max_steps):
            self._looked = step
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, module: Any) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        prompts: list[Prompt] = getattr(data, "held_out", [])[: self.num_prompts]
        if not prompts:
            return
        ranks = replicas_of(module)
        own = range(ranks.rank, len(prompts), ranks.size)
        answered = [
            self._answered(data.writer.once(), module, prompts, own[start : start + _BATCH])
            for start in range(0, len(own), _BATCH)
        ]
        found = torch.zeros(len(prompts), dtype=torch.float64, device=module.device)
        for numbers, values, texts in answered:
            found[torch.tensor(numbers)] = values.to(found)
            for number, text in list(zip(numbers, texts, strict=True))[: self.show]:
                trainer.print(f"{prompts[number].text!r} -> {text!r}: {float(found[number]):.3g}")
        if ranks.size > 1:
            torch.distributed.all_reduce(found, group=ranks.group)
        module.log("val/reward", found.mean().float(), prog_bar=True, batch_size=len(prompts))

    @staticmethod
    def _answered(
        writer: Writer, module: Any, prompts: Sequence[Prompt], numbers: Sequence[int]
    ) -> tuple[list[int], Tensor, list[str]]:
        """The rewards of some prompts, and what was written."""
        seeds = RowRandom.for_step(module.seed, 0, torch.tensor(list(numbers)), len(prompts)).fold_in(_HELD_OUT).keys
        batch = writer.judged(module, module.sampler, [prompts[number] for number in numbers], seeds)
        return list(numbers), batch["reward"], writer.texts(batch)

    @staticmethod
    def _spread(trainer: Trainer, reward: Tensor) -> Tensor:
        loader: Any = trainer.train_dataloader
        size = loader.writer.rollout.group_size if hasattr(loader, "writer") else len(reward)
        return reward.view(-1, size).std(1, unbiased=False).mean()

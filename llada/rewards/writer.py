"""The policy answers, and is judged: rollouts with their rewards and advantages, as one batch."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.inference import evaluating
from llada.rewards.advantage import Advantage, LeaveOneOut
from llada.rewards.objective import PolicyObjective
from llada.rewards.reward import Reward, Row
from llada.rewards.rollout import Rollout, until_stop
from llada.samplers import Sampler

Columns = dict[str, Any]


class Prompt(NamedTuple):
    """What is asked.

    Attributes:
        tokens: ids; mask tokens among them are gaps to be filled.
        text: the same as text, for the reward.
        row: the fields of its record, for the reward.
    """

    tokens: Sequence[int]
    text: str
    row: Row


@dataclass(frozen=True)
class Writer:
    """Lets a policy answer prompts, and its answers be judged.

    Args:
        rollout: how prompts are answered.
        reward: what answers are worth.
        decode: text of token ids.
        advantage: how the answers of a group are compared.
        pad_token_id: what shorter prompts get in front.
        stop_token_ids: tokens that end an answer.
        whole_row: whether the reward reads the whole row, prompt and filled gaps, in place of what was written.

    Examples:
        >>> import torch
        >>> from llada import DiffusionLM
        >>> from llada.process import MaskingProcess
        >>> from llada.rewards import ExactMatch, PolicyObjective, Prompt, Rollout, Writer
        >>> uniform = torch.nn.Embedding.from_pretrained(torch.zeros(3, 3))  # every token gives the same logits
        >>> module = DiffusionLM(uniform, MaskingProcess(2), PolicyObjective())
        >>> writer = Writer(Rollout(group_size=4, answer_length=1), ExactMatch(), decode=lambda ids: "ab"[ids[0]])
        >>> batch = writer(module, [Prompt([1], "b", {"answer": "a"})], seeds=torch.arange(4))
        >>> batch["tokens"][:, 1].tolist(), batch["reward"].tolist()
        ([1, 0, 0, 1], [0.0, 1.0, 1.0, 0.0])
        >>> batch["advantage"]
        tensor([-0.6667,  0.6667,  0.6667, -0.6667], dtype=torch.float64)
    """

    rollout: Rollout
    reward: Reward
    decode: Callable[[list[int]], str]
    advantage: Advantage = LeaveOneOut()  # noqa: RUF009 - frozen
    pad_token_id: int = 0
    stop_token_ids: Collection[int] = ()
    whole_row: bool = False

    def __call__(self, module: Any, prompts: Sequence[Prompt], seeds: Tensor, inner_steps: int = 1) -> Columns:
        """Answers to learn from.

        Args:
            module: a `llada.DiffusionLM` with a `PolicyObjective`.
            prompts: P of them.
            seeds: (P * G,) int64, one per answer.
            inner_steps: how often they will be learnt from.

        Returns:
            Columns of `Rollout`, with ``advantage``, ``reward``, one ``reward_NAME`` for each part of a sum, and
            ``seconds``, what it took. For a proxy with noise of its own that is asked more than once, ``old_by_inner``
            (B, inner_steps, L) in place of ``old_log_prob``.

        Raises:
            ValueError: if the model has another objective, or a reward can't be computed.
        """
        begun, objective = time.perf_counter(), policy_of(module)
        batch = self.judged(module, objective.sampler, prompts, seeds)
        advantage = self.advantage(batch["reward"].view(-1, self.rollout.group_size)).flatten()
        batch["advantage"] = advantage.to(module.device)
        if not objective.proxy.recorded:
            batch.pop("old_log_prob", None)
            if inner_steps > 1:  # else it is what the proxy says when the step is made
                with _as_trained(module):
                    values = [
                        objective.old_log_prob(module._denoiser, module.process, again(batch, inner))
                        for inner in range(inner_steps)
                    ]
                batch["old_by_inner"] = torch.stack(values, 1)
        return {**batch, "seconds": time.perf_counter() - begun}

    def judged(self, module: Any, sampler: Sampler, prompts: Sequence[Prompt], seeds: Tensor) -> Columns:
        """Answers of any sampler, with their rewards."""
        with _as_trained(module):
            batch: Columns = self.rollout(
                sampler,
                module._denoiser,
                module.process,
                [prompt.tokens for prompt in prompts],
                seeds=seeds.to(module.device),
                pad_token_id=self.pad_token_id,
                stop_token_ids=self.stop_token_ids,
            )
        asked = [prompt for prompt in prompts for _ in range(self.rollout.group_size)]
        texts, rows = [prompt.text for prompt in asked], [prompt.row for prompt in asked]
        parts = self.reward.parts(texts, self.texts(batch), rows)
        named = {f"reward_{name}": value for name, value in parts.items() if len(parts) > 1}
        return {**batch, "reward": self.reward.total(parts), **named}

    def texts(self, batch: Mapping[str, Any]) -> list[str]:
        """What was written in each row, without what ends it."""
        tokens = batch["tokens"]
        stops = torch.tensor(sorted(self.stop_token_ids), dtype=torch.int64, device=tokens.device)
        shown = until_stop(tokens, batch["open"], self.stop_token_ids) & ~torch.isin(tokens, stops)
        if self.whole_row:
            shown = shown | (~batch["open"] & batch.get("attention_mask", torch.ones_like(shown)))
        rows = zip(tokens.tolist(), shown.tolist(), strict=True)
        return [self.decode(list(compress(row, keep))) for row, keep in rows]

    def once(self) -> "Writer":
        """The same with one answer per prompt, as for held-out prompts."""
        return replace(self, rollout=replace(self.rollout, group_size=1))


@contextmanager
def _as_trained(module: Any) -> Iterator[None]:
    """The model as it is in a training step, but for dropout and gradients."""
    trainer = getattr(module, "_trainer", None)
    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
        if trainer is not None:  # in the same precision; else the ratio wouldn't be 1
            stack.enter_context(trainer.precision_plugin.forward_context())
        yield


def again(batch: Columns, inner: int) -> Columns:
    """A batch that is learnt from for the ``inner``-th time."""
    columns = {**batch, "inner": torch.full_like(batch["seed"], inner)}
    old = columns.pop("old_by_inner", None)
    return columns if old is None else {**columns, "old_log_prob": old[:, inner]}


def policy_of(module: Any) -> PolicyObjective:
    """The objective of a model.

    Raises:
        ValueError: if it isn't about rewards.
    """
    objective = getattr(module, "objective", None)
    if not isinstance(objective, PolicyObjective):
        raise ValueError(
            f"rollouts are for llada.rewards.PolicyObjective; the model's objective is {type(objective).__name__}"
        )
    return objective

"""Rollouts: the policy answers prompts, several times each, and writes down how."""

from abc import ABC
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import as_denoiser
from llada.process import Process
from llada.samplers import Canvas, Sampler, canvas
from llada.samplers.likelihood import ScoringSampler


@dataclass(frozen=True)
class Rollout(ABC):  # noqa: B024 - so that configurations name it, or one of your own, by class_path
    """How prompts are answered.

    Args:
        group_size: answers to each prompt.
        answer_length: tokens of each. 0 where the prompts themselves hold the masks that are to be filled.
        after_stop: which tokens behind an answer's end count in the loss. True: those that were there before the answer
            was finished, and may have had a part in it; the others say nothing of the reward, and leaving them out
            changes no expectation. False: none, as in published code.

    Raises:
        ValueError: if ``group_size`` is less than 1, or ``answer_length`` negative.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.rewards import PolicyObjective, Rollout
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)  # 0 and 1 are equally likely; 2 is the mask
        >>> rollout = Rollout(group_size=2, answer_length=3)
        >>> batch = rollout(PolicyObjective().sampler, model, MaskingProcess(2), [[1], [0]], seeds=torch.arange(4))
        >>> batch["tokens"]  # two answers to each prompt
        tensor([[1, 1, 1, 1],
                [1, 0, 0, 0],
                [0, 0, 1, 1],
                [0, 1, 0, 1]])
        >>> batch["old_log_prob"].sum(1).exp()  # 1/8 each
        tensor([0.1250, 0.1250, 0.1250, 0.1250], dtype=torch.float64)
    """

    group_size: int = 8
    answer_length: int = 64
    after_stop: bool = True

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.answer_length < 0:
            raise ValueError(
                f"group_size must be 1 or more and answer_length 0 or more; got {self.group_size}, {self.answer_length}"
            )

    @torch.no_grad()
    def __call__(
        self,
        sampler: Sampler,
        model: Any,
        process: Process,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Tensor,
        pad_token_id: int = 0,
        stop_token_ids: Collection[int] = (),
    ) -> dict[str, Tensor]:
        """Answer prompts.

        Args:
            sampler: of the policy.
            model: in evaluation mode; whatever `llada.denoiser.as_denoiser` takes.
            process: owner of the mask token.
            prompts: token ids of P prompts.
            seeds: (P * G,) int64, one per answer, on the device of the model.
            pad_token_id: what shorter prompts get in front.
            stop_token_ids: tokens that end an answer.

        Returns:
            Columns of P * G rows, the answers to a prompt together: all that `llada.rewards.episodes` lists but the
            advantage; ``calls`` (B,), model calls; and, if the sampler's texts have a likelihood, ``old_log_prob``.

        Raises:
            ValueError: if the sampler moves columns.
        """
        assert process.mask_token_id is not None
        one_each = canvas(
            prompts,
            self.answer_length,
            mask_token_id=process.mask_token_id,
            pad_token_id=pad_token_id,
            device=seeds.device,
        )
        start = Canvas(*(column.repeat_interleave(self.group_size, 0) for column in one_each))
        tokens, opened = start.tokens, ~start.given
        step = torch.full_like(tokens, -1)
        log_prob = torch.zeros_like(tokens, dtype=torch.float64)
        calls = torch.zeros_like(seeds)
        arguments = {"given": start.given, "seed": seeds}
        inputs = {} if bool(start.attention_mask.all()) else {"attention_mask": start.attention_mask}
        recorded = isinstance(sampler, ScoringSampler) and sampler.likelihood_gap is None
        write = sampler.trace if isinstance(sampler, ScoringSampler) and recorded else sampler.iterate
        for index, now in enumerate(write(as_denoiser(model), tokens, process, **arguments, **inputs)):
            if now.edit is not None:
                raise ValueError(f"{type(sampler).__name__} moves columns, so its steps can't be followed; use another")
            drew = now.changed & ~now.confidence.isnan()  # not what is only filled, behind a stop token
            step = torch.where(drew, index, step)
            log_prob = log_prob if now.log_prob is None else log_prob + now.log_prob
            tokens, calls = now.tokens, now.calls
        columns = {
            "tokens": tokens,
            "open": opened,
            "maskable": self._counted(tokens, opened, step, stop_token_ids),
            "step": step,
            "seed": seeds,
            "inner": torch.zeros_like(seeds),
            "calls": calls,
            **inputs,
        }
        return {**columns, "old_log_prob": log_prob} if recorded else columns

    def _counted(self, tokens: Tensor, opened: Tensor, step: Tensor, stops: Collection[int]) -> Tensor:
        """The tokens that count, (B, L) bool."""
        drawn = opened & (step >= 0)
        within = until_stop(tokens, opened, stops)
        finished = torch.where(within, step, -1).amax(1, keepdim=True)
        return drawn & (within | (step < finished)) if self.after_stop else drawn & within


def until_stop(tokens: Tensor, opened: Tensor, stops: Collection[int]) -> Tensor:
    """The written positions up to the first token that ends a text, itself included, (B, L) bool.

    Args:
        tokens: (B, L) int64.
        opened: (B, L) bool, what was written.
        stops: the tokens that end a text.
    """
    ends = torch.isin(tokens, torch.tensor(sorted(stops), dtype=torch.int64, device=tokens.device)) & opened
    return opened & (ends.long().cumsum(1) - ends.long() == 0)

"""Prompts with their answers as padded tensors, sorted by length so that little padding is computed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llada.process import Process

Tokens = Sequence[int] | Tensor


class Pairs(NamedTuple):
    """Prompts with their answers, longest first; on the CPU."""

    tokens: Tensor
    """(R, L) int64, padded on the right."""
    start: Tensor
    """(R,) tokens of the prompt."""
    size: Tensor
    """(R,) tokens of the answer, n."""
    order: Tensor
    """(R,) where each stood in the caller's list."""

    def padded(self, rows: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Some pairs, padded to the longest of them.

        Args:
            rows: (N,) int64.
            device: where the results are to be.

        Returns:
            Tokens (N, L) int64, the places of the answers (N, L) bool, and the keywords by which a model learns what is
            padding: ``attention_mask``, or none where nothing is.
        """
        start, size = self.start[rows, None], self.size[rows, None]
        column = torch.arange(int((start + size).max()))
        real = column < start + size
        arguments = {} if bool(real.all()) else {"attention_mask": real.to(device)}
        answer = real & (column >= start)
        return self.tokens[rows, : len(column)].to(device), answer.to(device), arguments


def pack(prompts: Sequence[Tokens], answers: Sequence[Tokens]) -> Pairs:
    """Check and sort.

    Raises:
        ValueError: as `ConditionalLikelihood`.
    """
    if len(prompts) != len(answers) or not len(prompts):
        raise ValueError(
            "prompts and answers must be sequences of token sequences, one answer per prompt and at least one; "
            f"got {len(prompts)} prompts and {len(answers)} answers"
        )
    empty = next((i for i, answer in enumerate(answers) if not len(answer)), None)
    if empty is not None:
        raise ValueError(f"answer {empty} has no tokens, so it has no likelihood; give every answer at least one token")
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]) - len(answers[i]))
    start, size = (torch.tensor([len(texts[i]) for i in order]) for texts in (prompts, answers))
    rows = [torch.cat([_ids(prompts[i]), _ids(answers[i])]) for i in order]
    return Pairs(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), start, size, torch.tensor(order))


def mask_of(process: Process) -> int:
    """The token that hides an answer.

    Raises:
        ValueError: if the process has none, draws random tokens, so that what isn't masked may be wrong too, or takes
            tokens away.
    """
    if process.mask_token_id is None or process.scatters:
        raise ValueError(
            f"likelihoods of answers are known for masked diffusion only, and {process} draws random tokens; "
            "validate reports its bound"
        )
    if process.inserts:
        raise ValueError(
            f"an answer has no length beforehand under {type(process).__name__}; validate reports its bound. With "
            "process=MaskingProcess(...) the same model gives likelihoods of answers whose length is known"
        )
    return process.mask_token_id


def _ids(tokens: Tokens) -> Tensor:
    return torch.as_tensor(tokens, dtype=torch.int64, device="cpu")

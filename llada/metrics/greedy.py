"""Whether the model would have said it: greedy decoding compared with a given answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llada.metrics.pairs import Tokens, mask_of, pack
from llada.process import Process
from llada.samplers.amount.amount import Threshold
from llada.samplers.guidance import Guidance
from llada.samplers.unmasking import UnmaskingSampler


@torch.no_grad()
def greedy_match(
    model: Any,
    process: Process,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    *,
    guidance: Guidance | None = None,
    rows_per_call: int = 32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Whether greedy decoding of as many tokens as the answer has gives the answer.

    Every step writes the token that the model is surest of. Decoding stops when no row agrees with its answer any more.

    Args:
        model: whatever `llada.denoiser.as_denoiser` takes.
        process: the forward process, which names the mask token.
        prompts: R sequences of token ids.
        answers: R sequences of token ids, not empty.
        guidance: classifier-free guidance.
        rows_per_call: rows of one model call.
        device: where the model is.

    Returns:
        (R,) bool.

    Raises:
        ValueError: as `ConditionalLikelihood`.

    Reference:
        The released ``eval_llada.py`` of arXiv 2502.09992, ``suffix_greedy_prediction``.
    """
    pairs = pack(prompts, answers)
    sampler = UnmaskingSampler(Threshold(2.0), guidance=guidance or Guidance())  # beyond any probability: one per step
    matches = []
    for rows in torch.arange(len(pairs.order)).split(rows_per_call):
        tokens, answer, arguments = pairs.padded(rows, device)
        canvas = tokens.masked_fill(answer, mask_of(process))
        wrong = torch.zeros_like(answer[:, 0])
        for step in sampler.iterate(model, canvas, process, **arguments):
            wrong |= (step.changed & answer & (step.tokens != tokens)).any(1)
            if bool(wrong.all()):
                break
        matches.append(~wrong.cpu())
    return torch.cat(matches)[pairs.order.argsort()]

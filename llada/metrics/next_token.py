"""Answers under an autoregressive model: their exact log-likelihood, and whether greedy decoding gives them.

    log p(answer | prompt) = sum over the answer of log p(x_i | x_1, ..., x_{i-1})

One pass over prompt and answer tells both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import as_denoiser
from llada.metrics.likelihood import LikelihoodEstimate
from llada.metrics.pairs import Tokens, mask_of, pack
from llada.process import Process
from llada.rows import has_context


def next_token_log_likelihood(
    model: Any, process: Process, tokens: Tensor, answer: Tensor, **model_kwargs: Any
) -> Tensor:
    """Log-likelihood of answers: log p(answer | before) = sum over the answer of log p(x_i | x_1, ..., x_{i-1}).

    Args:
        model: causal and shifted, whatever `llada.denoiser.as_denoiser` takes.
        process: the forward process, which names the mask token.
        tokens: (N, L) int64, prompts with their answers.
        answer: (N, L) bool, true where the tokens of the answers stand.
        model_kwargs: further arguments of the model; ``attention_mask`` (N, L) bool marks padding.

    Returns:
        (N,) float64, nats.

    Raises:
        ValueError: if an answer begins where nothing stands before it.
    """
    lonely = (answer & ~has_context(tokens, **model_kwargs)).any(1)
    if bool(lonely.any()):
        row = int(lonely.int().argmax())
        raise ValueError(
            f"the answer of row {row} begins the row, and an autoregressive model says nothing of a first token; "
            "begin prompts with a BOS token"
        )
    terms = as_denoiser(model).token_nll(tokens, tokens, answer, suppressed=process.suppressed, **model_kwargs)
    nll = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    nll[answer] = terms.double()
    return -nll.sum(1)


@dataclass(frozen=True)
class NextTokenLikelihood:
    """Called as `llada.metrics.ConditionalLikelihood` is; its result is exact.

    Args:
        rows_per_call: rows of one model call; changes speed and memory, not the result.

    Examples:
        >>> import torch
        >>> from llada.metrics import NextTokenLikelihood
        >>> from llada.process import MaskingProcess
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> NextTokenLikelihood()(uniform, MaskingProcess(4), prompts=[[0, 1]], answers=[[2, 3]]).log_likelihood
        tensor([-2.7726], dtype=torch.float64)
    """

    rows_per_call: int = 32

    def __post_init__(self) -> None:
        if self.rows_per_call < 1:
            raise ValueError(f"rows_per_call must be 1 or more; got {self.rows_per_call}")

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        process: Process,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        seed: int | Tensor = 0,
        device: torch.device | str | None = None,
    ) -> LikelihoodEstimate:
        """Score; arguments as in `ConditionalLikelihood`, prompts not empty, ``seed`` unused.

        Raises:
            ValueError: if there are no pairs, their numbers differ, or a prompt or an answer is empty.
        """
        pairs = pack(prompts, answers)
        values = []
        for rows in torch.arange(len(pairs.size)).split(self.rows_per_call):
            tokens, answer, arguments = pairs.padded(rows, device)
            values.append(next_token_log_likelihood(model, process, tokens, answer, **arguments).cpu())
        back = pairs.order.argsort()
        value = torch.cat(values)[back]
        return LikelihoodEstimate(value, torch.zeros_like(value), torch.ones_like(back))


@torch.no_grad()
def next_token_greedy_match(
    model: Any,
    process: Process,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    *,
    rows_per_call: int = 32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Whether greedy decoding from left to right gives the answer.

    It does if every token of the answer is the likeliest one after those in front of it, which one pass over the answer
    tells.

    Args:
        model: causal and shifted, whatever `llada.denoiser.as_denoiser` takes.
        process: the forward process, which names the mask token, which is never written.
        prompts: R sequences of token ids, not empty.
        answers: R sequences of token ids, not empty.
        rows_per_call: rows of one model call.
        device: where the model is.

    Returns:
        (R,) bool.

    Raises:
        ValueError: if there are no pairs, their numbers differ, or an answer is empty.
    """
    pairs = pack(prompts, answers)
    matches = []
    for rows in torch.arange(len(pairs.order)).split(rows_per_call):
        tokens, answer, arguments = pairs.padded(rows, device)
        logits = as_denoiser(model).logits(tokens, answer, **arguments)
        logits[:, mask_of(process)] = -torch.inf
        wrong = torch.zeros_like(answer)
        wrong[answer] = logits.argmax(-1) != tokens[answer]
        matches.append(~wrong.any(1).cpu())
    return torch.cat(matches)[pairs.order.argsort()]

"""The likelihood of a text that the reverse process writes in one step.

    log p(y) = sum_i log p(x_0^i = y_i | x_1)

In one step every position is drawn once, independently given the noise x_1. Where all noise is masks, x_1 is known and
the number is exact. Where it is random tokens, a seed draws them: the number is the text's log-probability given them,
and its mean over seeds is a lower bound. With more steps a text is reached in many ways.

Shapes: B rows, L columns, M candidates per row.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llada.denoiser import Denoiser
from llada.process import Process
from llada.samplers.chain import ChainSampler
from llada.samplers.propose import broken_rows, check_answers
from llada.samplers.sampler import TextLikelihood
from llada.samplers.state import State
from llada.samplers.step_law import StepLaw


def one_step_likelihood(
    sampler: ChainSampler,
    step_law: Callable[[Denoiser, State, dict[str, Any]], StepLaw],
    model: Any,
    tokens: Tensor,
    process: Process,
    given: Tensor | None,
    seed: int | Tensor,
    model_kwargs: dict[str, Any],
) -> TextLikelihood:
    """The log-probability of texts under a sampler of one step; arguments as in `Sampler.likelihood`.

    Args:
        sampler: of one step.
        step_law: (denoiser, state, model_kwargs) -> what its step draws from.
        model: whatever `llada.denoiser.as_denoiser` takes.
        tokens: (B, L) int64.
        process: the noise process.
        given: (B, L) bool, what isn't scored; None: all is.
        seed: of random noise.
        model_kwargs: for the model.

    Raises:
        ValueError: if a text holds a mask where it is scored.
    """
    begun = sampler.begin_text(tokens, process, given, seed, model_kwargs)
    nats, spans = torch.zeros_like(begun.calls, dtype=torch.float64), sampler.spans(begun)
    state = begun
    for span in spans:
        state = sampler.at(sampler.entered(state, span), 0)
        law = step_law(process.network(model), state, model_kwargs)
        state = replace(state, broken=broken_rows(state, ~law.answered), calls=state.calls + state.valid.any(1))
        check_answers(state)
        logits = law.own.log() if law.log is None else law.log.log_softmax(-1)
        found = logits.gather(-1, tokens.gather(1, state.columns)[..., None]).squeeze(-1)
        nats = nats + found.masked_fill(~state.valid, 0.0).sum(1)
    noise = process.prior(tokens, torch.ones_like(tokens, dtype=torch.bool), random=begun.random)
    return TextLikelihood(nats, state.calls, begun.open.sum(1), bool(process.is_masked(noise).all()))

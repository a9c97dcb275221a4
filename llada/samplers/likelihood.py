"""The probability of a text under the very sampler that would write it, without a judge model.

Step k writes the positions P_k, which follow from the canvas z_{k-1} alone, and draws their tokens independently. So
whoever knows the text y knows every canvas, and

    log p(y) = sum_k sum_{i in P_k} log q(y_i | z_{k-1})

exactly, in as many model calls as sampling takes; q is the model's law after guidance, constraints, temperature, top-p
and top-k. It is computed by the sampler's own loop, with the text's tokens in the place of drawn ones.

Where positions are drawn at random (`llada.samplers.RandomOrder`, coins), a seed draws them and the number is the
text's log-probability given them. Its mean over seeds is at most log p(y): a bound.

Reference: Turok et al., arXiv 2603.01367.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.heads.prepacked import plainly
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.amount.amount import Amount
from llada.samplers.from_state import StateSampler
from llada.samplers.order import Order
from llada.samplers.propose import Proposal, broken_rows
from llada.samplers.sampler import Step, TextLikelihood
from llada.samplers.state import State


class Scored(Proposal):
    """A proposal that also says how likely its tokens were, under the law that it draws from.

    Args:
        inner: the proposal whose law is asked.
    """

    inner: Proposal

    def __init__(self, inner: Proposal) -> None:
        for each in fields(Proposal):
            object.__setattr__(self, each.name, getattr(inner, each.name))
        object.__setattr__(self, "inner", inner)

    def token(self, state: State) -> Tensor:
        """The token that each candidate gets, (B, M) int64: the one that was drawn."""
        return state.drawn

    @override
    def __call__(self, logits: Tensor, state: State, *, random: RowRandom) -> State:
        before = state
        state = self.inner(logits, state, random=random)
        token = self.token(state)
        logits = state.filtered.double()
        law = logits.gather(-1, token[..., None]).squeeze(-1) - logits.logsumexp(-1)
        # Behind a token that was never possible a constraint may allow nothing at all.
        best = logits.amax(-1)
        log_prob = law.masked_fill(best == -torch.inf, -torch.inf)
        broken = broken_rows(before, ~(best < torch.inf))
        return replace(state, drawn=token, log_prob=log_prob, broken=broken)


class Forced(Scored):
    """A proposal whose draw is decided beforehand: the tokens of a text.

    Args:
        inner: the proposal whose law is asked.
        text: (B, L) int64.
    """

    text: Tensor

    def __init__(self, inner: Proposal, text: Tensor) -> None:
        super().__init__(inner)
        object.__setattr__(self, "text", text)

    @override
    def moved(self, move: Callable[[Tensor], Tensor]) -> Proposal:
        return Forced(self.inner, move(self.text))

    @override
    def token(self, state: State) -> Tensor:
        return self.text.gather(1, state.columns)


def proposal_gap(proposal: Proposal) -> str | None:
    """Why the tokens that a proposal draws have no probability to speak of; None if they have one."""
    if proposal.temperature == 0.0:
        return "at temperature 0 it writes one text, which has probability 1; use a temperature above 0"
    return None


def check_unread(part: Order | Amount, state: State, answer: Tensor) -> None:
    """Whether a part keeps its word that it doesn't read drawn tokens; a subclass inherits the word, too.

    Args:
        part: which says so; an amount with memory as it was before it answered.
        state: what it was asked about.
        answer: (B, M), scores of an order or choices of an amount.

    Raises:
        ValueError: if other tokens give another answer.
    """
    other = part(replace(state, drawn=(state.drawn + 1) % state.logits.shape[-1]))
    # NaN is what is left where a constraint allows nothing, behind a token that was never possible.
    if bool(((other != answer) & ~(other.isnan() & answer.isnan()) & state.valid).any()):
        name, does = type(part).__name__, "scores" if isinstance(part, Order) else "chooses"
        raise ValueError(
            f"{name} {does} positions by the tokens that are drawn there, so that a text has no likelihood; say "
            "reads_drawn = True in it, or go by state.logits and state.scores alone"
        )


class ScoringSampler(StateSampler):
    """A sampler under which texts have a likelihood, unless its `likelihood_gap` says why not."""

    proposal: Proposal

    @property
    def is_exact(self) -> bool:
        """Whether all positions follow from the canvas, none from a random number."""
        return True

    @abstractmethod
    def _write(self, proposal: Proposal, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """The loop with another proposal."""

    def trace(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        text: Tensor | None = None,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        """As `iterate`, and every step has the log-probabilities of what it writes (`Step.log_prob`).

        Gradients follow the caller: a step that is asked for while they are on is differentiable in the model's
        weights, through the guidance, the truncation and what caches keep.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            tokens: (B, L) int64, the canvas.
            process: owner of the mask token and the schedule.
            text: (B, L) int64, the finished text that is to be written; None: tokens are drawn.
            given: (B, L) bool, positions that are never written; None: all that don't hold the mask token.
            seed: as in `iterate`; the same one gives positions that are drawn at random again.
            model_kwargs: for the model.

        Raises:
            ValueError: if there is a `likelihood_gap`.
        """
        if self.likelihood_gap is not None:
            raise ValueError(f"a text has no likelihood under this sampler: {self.likelihood_gap}")
        proposal = Scored(self.proposal) if text is None else Forced(self.proposal, text)
        state = self.begin(tokens, process, given, seed, model_kwargs)
        return plainly(self._write(proposal, model, state, model_kwargs))

    @torch.no_grad()
    @override
    def likelihood(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> TextLikelihood:
        given = torch.zeros_like(tokens, dtype=torch.bool) if given is None else given
        steps = self.trace(model, tokens, process, text=tokens, given=given, seed=seed, **model_kwargs)
        start = self.begin_text(tokens, process, given, seed, model_kwargs)
        nats, canvas, calls = torch.zeros_like(start.calls, dtype=torch.float64), start.tokens, start.calls
        for step in steps:
            canvas, calls = step.tokens, step.calls
            if step.log_prob is not None:
                nats = nats + step.log_prob.sum(1)
        # What is written without a draw, such as the filling behind a stop token, is never anything else.
        never = ((canvas != tokens) & start.open).any(1)
        return TextLikelihood(nats.masked_fill(never, -torch.inf), calls, start.open.sum(1), self.is_exact)

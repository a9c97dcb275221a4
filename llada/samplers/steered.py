"""Steering by a potential: sequential Monte Carlo over the canvases of a sampler.

P chains ("particles") per row take the steps of a sampler. Each has a weight, which follows what its text seems worth,

    log w  +=  V_k - V_{k-1} + log (p_k / q_k),      V_0 = 0,  V_K = r(x_K),

with p_k the model's law of the step and q_k the guided one that was drawn from. Where the weights of a row have become
uneven, its particles are drawn anew by their weights (systematic resampling), which then all count alike. At the end

    Z = mean of w      has the expectation      sum_x p(x) exp(r(x)),

exactly and for any number of particles, and a particle drawn by its weight follows p(x) exp(r(x)) / Z as P grows. On
the way V_k = k / K r(guess), with the model's best tokens in the place of what may still change. Any V_k would do: it
says which particles to go on with, and the next weight takes it back.

Shapes: B rows, P particles per row, L columns of the canvas.

Reference: Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers" (JRSS B 2006); for diffusion Wu et al.,
arXiv 2306.17775, and Singhal et al., arXiv 2501.06848.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_built
from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.chain import ChainSampler
from llada.samplers.from_state import StateSampler
from llada.samplers.particles import Cloud, Particles
from llada.samplers.potential import Potential
from llada.samplers.propose import check_answers, inverse_cdf
from llada.samplers.reverse import AncestralSampler
from llada.samplers.sampler import Step
from llada.samplers.state import State

_RESAMPLE, _CHOOSE = 2, -3  # tags of streams; a chain uses 1 and no tag within a step, -2 before the first


@dataclass(frozen=True)
class ParticleSampler(StateSampler):
    """Texts of a model, preferred by a potential.

    Args:
        potential: of a finished text.
        sampler: whose steps are taken: `AncestralSampler`, `PsiSampler`, `GibbsSampler`, under any process; also
            `CommitAndRenoise`. Its guidance only proposes: the weights take it out again.
        particles: P.
        threshold: a row is resampled where its effective number of particles is below this share of P, in [0, 1]; 1:
            after every step; 0: never, which is importance sampling.
        lookahead: whether texts are judged before they are finished.
        floor: nats; an unfinished text counts as worth this at least, so that no guess ends a particle that may still
            become better.
        keep_guidance: prefer by the potential among the texts of the guided sampler, not of the model.

    Raises:
        ValueError: if a number is out of its range, or the sampler isn't one of chains.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AncestralSampler, ParticleSampler, TokenPotential
        >>> model = lambda tokens: torch.zeros(*tokens.shape, 3)
        >>> sampler = ParticleSampler(TokenPotential((1,), nats=4.0), AncestralSampler(steps=4), particles=8)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1, 1, 1, 1, 0]])
    """

    potential: Potential
    sampler: ChainSampler = field(default_factory=AncestralSampler)
    particles: int = 8
    threshold: float = 0.5
    lookahead: bool = True
    floor: float = -20.0
    keep_guidance: bool = False

    def __post_init__(self) -> None:
        check_built("sampler", self.sampler)
        if not isinstance(self.sampler, ChainSampler):
            raise ValueError(
                f"{type(self.sampler).__name__} can't go on from a canvas that was drawn by its weight; use "
                "AncestralSampler, PsiSampler, GibbsSampler or CommitAndRenoise, which are for every noise or say "
                "what they are for"
            )
        guided = getattr(self.sampler, "guidance", None)
        if guided is not None and guided.scale != 0.0 and not (self.sampler.weighs_guidance or self.keep_guidance):
            raise ValueError(
                f"{type(self.sampler).__name__} doesn't tell what its guidance did, so it can't be taken out again; "
                "set keep_guidance=True to prefer among its guided texts"
            )
        if self.particles < 1:
            raise ValueError(f"particles must be 1 or more; got {self.particles}")
        if not 0.0 <= self.threshold <= 1.0 or not -math.inf < self.floor < math.inf:
            raise ValueError(f"threshold must be in [0, 1] and floor a number; got {self.threshold} and {self.floor}")

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "it chooses among particles by their potentials; ParticleSampler.run estimates the evidence instead"

    @override
    def stopping(self, stop_token_ids: Any) -> "ParticleSampler":
        return replace(self, sampler=self.sampler.stopping(stop_token_ids))

    @torch.no_grad()
    def run(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Particles:
        """All particles with their weights; arguments and errors as in `iterate`."""
        walk = self._walk(model, self.begin(tokens, process, given, seed, model_kwargs), model_kwargs)
        try:
            while True:
                next(walk)
        except StopIteration as end:
            cloud: Cloud = end.value
        shape = (len(tokens), self.particles)
        texts, calls = cloud.state.tokens.view(*shape, -1), cloud.state.calls.view(shape).sum(1)
        return Particles(texts, cloud.log_weights, cloud.log_evidence, calls)

    @override
    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        return self.sampler.begin(tokens, process, given, seed, model_kwargs)

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        walk = self._walk(model, state, model_kwargs)
        shown = state.tokens
        while True:
            try:
                cloud = next(walk)
            except StopIteration as end:
                cloud = end.value
                break
            step = cloud.shown(cloud.log_weights.argmax(1), shown)
            shown = step.tokens
            yield step
        if cloud.last is None:
            return
        if bool((cloud.log_weights == -torch.inf).all(1).any()):
            row = int((cloud.log_weights == -torch.inf).all(1).int().argmax())
            raise ValueError(
                f"the potential is minus infinity for all {self.particles} particles of row {row}; give more "
                "particles, or a potential that tells better texts from worse"
            )
        random = state.random.fold_in(_CHOOSE)
        yield cloud.shown(inverse_cdf(cloud.log_weights, random.uniform(1)[:, 0]), shown)

    def _walk(self, model: Any, begun: State, model_kwargs: dict[str, Any]) -> Generator[Cloud, None, Cloud]:
        """The particles after every step; those of the end are returned."""
        chain, count, rows, process = self.sampler, self.particles, begun.random, begun.process
        random = rows.split(count)
        known = {name: _repeated(value, count) for name, value in model_kwargs.items()}
        mask = known.get("attention_mask")
        tokens, given = (part.repeat_interleave(count, 0) for part in (begun.tokens, begun.given))
        state = State.begin(process, tokens, given, random, mask)
        denoiser, spans = process.network(model), chain.spans(state)
        total = sum((torch.as_tensor(span.num_steps) for span in spans), torch.zeros_like(state.calls))
        cloud = Cloud(
            state, torch.zeros(len(begun.tokens), count, dtype=torch.float64, device=tokens.device), total, mask
        )
        for index, span in enumerate(spans):
            streams, own = (each.fold_in(len(spans) - index) for each in (random, rows))
            cloud = replace(cloud, state=chain.entered(cloud.state, span))
            for step in range(chain.length(cloud.state, span)):
                cloud = replace(cloud, state=chain.at(cloud.state, step))
                cloud = self._moved(cloud, denoiser, streams.fold_in(step), known)
                uniform = own.fold_in(step, _RESAMPLE).uniform(1)
                cloud = cloud.resampled(uniform, self.threshold)
                yield cloud
            check_answers(cloud.state)
            state, _ = chain.left(cloud.state, span)
            cloud = replace(cloud, state=state)
        return self._judged(cloud, finished=True)

    def _moved(self, cloud: Cloud, denoiser: Denoiser, random: RowRandom, known: dict[str, Any]) -> Cloud:
        """The particles a step further, with their new weights."""
        before = cloud.state
        steps, last = self.sampler.advance(denoiser, before, random, known), cloud.last
        while True:
            try:
                last = next(steps)
            except StopIteration as end:
                state: State = end.value
                break
        moved = before.valid.any(1)
        ratio = torch.zeros_like(state.log_ratio) if self.keep_guidance else state.log_ratio
        weights = cloud.log_weights + ratio.view_as(cloud.log_weights)
        state = replace(state, log_ratio=torch.zeros_like(ratio))
        cloud = replace(cloud, state=state, log_weights=weights, done=cloud.done + moved, moved=moved, last=last)
        return self._judged(cloud) if self.lookahead else cloud

    def _judged(self, cloud: Cloud, finished: bool = False) -> Cloud:
        """The particles with weights that know what their texts are worth, or what they seem to be."""
        state = cloud.state
        texts, real = (state.tokens, cloud.mask) if finished else (cloud.guess, cloud.seen)
        worth = self.potential(texts, state.given, real).double()
        if worth.shape != state.calls.shape or bool((worth.isnan() | (worth == torch.inf)).any()):
            raise ValueError(
                f"{type(self.potential).__name__} must give each of {len(state.tokens)} texts a number below infinity; "
                f"got {tuple(worth.shape)}, {worth.flatten()[:4].tolist()} ..."
            )
        if not finished:
            share = cloud.done / cloud.total.clamp(min=1)
            worth = torch.where(cloud.moved, worth.clamp(min=self.floor) * share, cloud.values)
        weights = cloud.log_weights + (worth - cloud.values).view_as(cloud.log_weights)
        return replace(cloud, log_weights=weights, values=worth)


def _repeated(value: Any, count: int) -> Any:
    return value.repeat_interleave(count, 0) if isinstance(value, Tensor) and value.dim() else value

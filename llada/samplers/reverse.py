"""Ancestral sampling: the reverse process itself, for any noise.

    x_1 ~ prior,     x_s ~ p(x_s | x_t) = process.reverse(x_t, xhat(x_t), t, s)     for t = 1, 1 - 1/K, ..., 1/K

with xhat the model's distribution of the clean token, drawn at every open position independently. Guidance changes the
law of a step.

Shapes: B rows, L columns of the canvas, M open positions per row, V vocabulary.

Reference: Sahoo et al., arXiv 2406.07524, equation 7 (masks); Schiff et al., arXiv 2412.10193 (uniform noise).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.chain import ChainSampler, moved
from llada.samplers.classifier import LawGuidance
from llada.samplers.guidance import Guidance
from llada.samplers.one_step import one_step_likelihood
from llada.samplers.propose import Proposal, broken_rows, check_answers
from llada.samplers.sampler import Step, TextLikelihood
from llada.samplers.state import State
from llada.samplers.step_law import StepLaw
from llada.samplers.window import WholeCanvas


@dataclass(frozen=True)
class AncestralSampler(ChainSampler):
    """Goes back through the process in equal steps; it is how a `UniformProcess` generates.

    For masks the preset `ancestral` has the same law and runs the model only where a token is written.

    Args:
        steps: K, model calls; in blocks they are shared among these.
        temperature: of xhat, above 0; 1 samples from the model.
        top_p: keep the smallest set of tokens with at least this much probability in xhat; None for all.
        top_k: keep this many tokens in xhat; None for all.
        suppress_tokens: ids that xhat never has.
        power: the times are ((K - k) / K)^power. With 2 the steps are short at the end, where random tokens of a
            `HybridProcess` vanish fastest; its error then falls as 1 / K, and otherwise more slowly.
        greedy_tail: whether the last step takes the best token of xhat instead of drawing one, as Duo's "greedy" does:
            likelier text of less variety. Guidance doesn't act on it.
        guidance: by the prompt, of the law of a step.
        classifier: guidance by a classifier, of the law of a step; None for none.
        window: the whole canvas, or `Blocks` that are finished one after the other.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import AncestralSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = AncestralSampler(steps=8)
        >>> sampler(model, torch.full((1, 8), 2), MaskingProcess(2)).tokens
        tensor([[1, 0, 1, 0, 1, 1, 0, 1]])
    """

    weighs_guidance: ClassVar[bool] = True
    steps: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    power: float = 1.0
    greedy_tail: bool = False
    guidance: Guidance = field(default_factory=Guidance, kw_only=True)
    classifier: LawGuidance | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.temperature > 0.0:
            raise ValueError(f"steps must be 1 or more, and temperature above 0; got {self.steps}, {self.temperature}")
        if not self.power > 0.0:
            raise ValueError(f"power, of the times, must be above 0; got {self.power}")
        _ = self.proposal  # whose checks are run

    @property
    def proposal(self) -> Proposal:
        """How the logits become xhat."""
        return Proposal(self.temperature, self.top_p, self.top_k, self.suppress_tokens)

    @property
    @override
    def likelihood_gap(self) -> str | None:
        if self.steps == 1 and isinstance(self.window, WholeCanvas):
            return "its end is greedy" if self.greedy_tail else None
        return (
            "it may write a position several times, so that a text is reached in many ways; for masks, use the preset "
            "ancestral, which has the same law"
        )

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
        if self.likelihood_gap is not None:
            return super().likelihood(model, tokens, process)
        return one_step_likelihood(self, self.step_law, model, tokens, process, given, seed, model_kwargs)

    @override
    def advance(
        self, denoiser: Denoiser, state: State, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Generator[Step, None, State]:
        (t, s), before = self.times(state), state.tokens.gather(1, state.columns)
        logits, clean = self.predict(denoiser, state, t, model_kwargs)
        own = self.amend(state.process.reverse(before, clean, t, s), state.process, before, clean, t, s)
        law = self.guided(denoiser, state, (t, s), StepLaw.of(logits, clean, own), self.reach(state), model_kwargs)
        state = replace(state, broken=broken_rows(state, ~law.answered))
        if state.step == 0:  # as broken weights show at once; later steps are looked at when the window is left
            check_answers(state)
        drawn = torch.where(state.valid, law.draw(random.uniform_at(state.positions)), before)
        state, step = moved(state, drawn, law.logits, law.log_ratio(drawn, state.valid))
        yield step
        unfinished = replace(state, valid=state.valid & ~state.is_last[:, None])
        after = yield from self.correct(denoiser, unfinished, s, random.fold_in(1), model_kwargs)
        return replace(after, valid=state.valid)

    def step_law(self, denoiser: Denoiser, state: State, model_kwargs: dict[str, Any]) -> StepLaw:
        """What `advance` draws the candidates from, where nothing is to be drawn."""
        times, reach = self.times(state), self.reach(state)
        logits, clean = self.predict(denoiser, state, times[0], model_kwargs)
        return self.guided(denoiser, state, times, StepLaw.of(logits, clean, reach(clean)), reach, model_kwargs)

    def reach(self, state: State) -> Callable[[Tensor], Tensor]:
        """From xhat to what a step draws from, both (B, M, V) float64."""
        (t, s), before, process = self.times(state), state.tokens.gather(1, state.columns), state.process
        return lambda clean: self.amend(process.reverse(before, clean, t, s), process, before, clean, t, s)

    def amend(self, law: Tensor, process: Process, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What a step draws from; here the reverse step, whose end may be greedy.

        Args:
            law: p(x_s | x_t) of M positions, (B, M, V) float64.
            process: the noise process.
            tokens: x_t there, (B, M) int64.
            clean: xhat there, (B, M, V) float64.
            t: (B,) float64, the time of ``tokens``.
            s: (B,) float64, the earlier time that is stepped to.
        """
        if not self.greedy_tail:
            return law
        best = F.one_hot((clean if process.scatters else law).argmax(-1), law.shape[-1]).to(law)
        return torch.where((s > 0.0)[:, None, None], law, best)

    def correct(
        self, denoiser: Denoiser, state: State, s: Tensor, random: RowRandom, model_kwargs: dict[str, Any]
    ) -> Generator[Step, None, State]:
        """What happens to a canvas between two steps; here nothing.

        Args:
            denoiser: the model, as the process reads its outputs (`Process.network`).
            state: the canvas at time ``s``, with its open columns.
            s: (B,) float64.
            random: the rows' random streams.
            model_kwargs: for the model.
        """
        yield from ()
        return state

    def times(self, state: State) -> tuple[Tensor, Tensor]:
        """When a step begins and ends, (B,) float64 each; a row that is through its steps stays where it was."""
        t, s = (state.grid(ahead) ** self.power for ahead in (0, 1))
        done = t <= 0.0
        return torch.where(done, 1.0, t), s

    def guided(
        self,
        denoiser: Denoiser,
        state: State,
        times: tuple[Tensor, Tensor],
        law: StepLaw,
        reach: Callable[[Tensor], Tensor],
        model_kwargs: dict[str, Any],
    ) -> StepLaw:
        """The law of a step under guidance.

        Args:
            denoiser: the model, as the process reads its outputs (`Process.network`).
            state: the canvas and its candidates.
            times: of the canvas and of what is drawn, (B,) float64 each.
            law: without guidance.
            reach: from xhat to the law of what is drawn, both (B, M, V) float64.
            model_kwargs: for the model.
        """
        mask, own, log, answered = model_kwargs.get("attention_mask"), law.own, law.log, law.answered
        if self.guidance.scale != 0.0:
            alone = self.guidance.without_prompt(state, mask)
            other, _ = self.predict(denoiser, alone, times[0], model_kwargs)
            without = (other / self.temperature).double().softmax(-1)  # a nucleus cuts the law with the prompt alone
            log = self.guidance.of_laws(own.log(), reach(without).log())
            answered = answered & without.isfinite().all(-1)
        if self.classifier is not None and self.classifier.scale != 0.0:
            hint = self.classifier(state, own > 0.0, times[1], mask)
            log = (own.log() if log is None else log) + hint
            answered = answered & (log < torch.inf).all(-1) & (log > -torch.inf).any(-1)  # NaN is no number, too
        return law._replace(log=log, answered=answered)

    def predict(
        self, denoiser: Denoiser, state: State, t: Tensor, model_kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """What the model says of the clean tokens at the candidates.

        Args:
            denoiser: the model, as the process reads its outputs (`Process.network`).
            state: a canvas, and the columns of M candidates per row.
            t: (B,) float64, its time.
            model_kwargs: for the model.

        Returns:
            Logits (B, M, V) float32, and xhat after temperature and filters, (B, M, V) float64.
        """
        process, known = state.process, {**state.process.conditioning(t), **model_kwargs}
        logits = denoiser.clean_logits(state.tokens, state.columns, process.noise_law(t[:, None]), **known)
        logits = self.proposal.suppress(logits if logits.dtype == torch.float64 else logits.float(), state)
        return logits, self.proposal.filter(logits).double().softmax(-1)

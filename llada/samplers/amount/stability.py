"""Rules that remember what the model predicted in earlier steps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.amount.amount import Amount, take_best
from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.order import Measure
from llada.samplers.state import State
from llada.samplers.window import Blocks


@dataclass(frozen=True)
class Stability(Amount):
    """KLASS: every candidate that is sure and has stopped changing its mind; where there is none, the best few.

    A candidate has stopped if KL(p_k || p_{k-1}) stayed below a bound in each of the last steps, p_k being the model's
    distribution at its position in step k. In the first ``history - 1`` steps of a window none has.

    Args:
        threshold: its probability must be above this.
        max_divergence: bound of the divergence in nats.
        history: steps for which the bound must have held.
        count: tokens that are taken where no candidate qualifies.
        ahead: whether positions behind the window are watched, too, so that they begin it with a history (KLASS); needs
            the model's answers at all open positions. False: history begins with the window.

    Raises:
        ValueError: if ``history`` or ``count`` is less than 1, or the cache computes one block alone.

    Reference:
        Kim et al., "KLASS: KL-Guided Fast Inference in Masked Diffusion Models", arXiv 2511.05664; the released
        ``stable_confident_decode``.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Stability, UnmaskingSampler
        >>> sure = torch.tensor([9.0, 1.0, 9.0, 2.0])  # logit of token 1 at each place
        >>> model = lambda tokens: (sure[:, None] * torch.eye(3)[1])[None]
        >>> sampler = UnmaskingSampler(Stability(threshold=0.9, ahead=False))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).calls
        tensor([4])
    """

    reads_drawn: ClassVar[bool] = False
    needs: ClassVar[Measure] = Measure.PROBABILITY
    threshold: float = 0.9
    max_divergence: float = 0.01
    history: int = 2
    count: int = 1
    ahead: bool = True

    def __post_init__(self) -> None:
        if self.history < 1 or self.count < 1:
            raise ValueError(f"history and count must be 1 or more; got {self.history} and {self.count}")

    @property
    @override
    def looks_ahead(self) -> bool:
        return self.ahead

    @override
    def check(self, sampler: Any) -> None:
        super().check(sampler)
        if self.ahead and not sampler.cache.everywhere and isinstance(sampler.window, Blocks):
            raise ValueError(
                f"Stability watches all masks, but {type(sampler.cache).__name__} computes one block at a time; "
                "use Stability(ahead=False), whose history begins with the block, or cache=NoCache()"
            )

    @override
    def start(self) -> Amount:
        return _StabilityRun(self)

    def __call__(self, state: State) -> Tensor:
        """Without memory nothing counts as stable."""
        return self.choose(state, torch.zeros_like(state.columns))

    def choose(self, state: State, calm: Tensor) -> Tensor:
        """The candidates that are written, (B, M) bool.

        Args:
            state: the step.
            calm: (B, M) int64, for how many steps the divergence has been small.
        """
        ready = state.valid & (state.scores > self.threshold) & (calm >= self.history)
        if state.step < self.history - 1:
            ready = torch.zeros_like(ready)
        count = torch.full_like(state.columns[:, 0], self.count)
        return torch.where(ready.any(1, keepdim=True), ready, take_best(state.scores, state.valid, count))


class _StabilityRun(Amount):
    """The memory of one run: the last distributions, and for how long each position has been calm."""

    needs: ClassVar[Measure] = Measure.PROBABILITY

    def __init__(self, rule: Stability) -> None:
        self.rule = rule
        self.log_p: Tensor | None = None  # (B, M, V) of the last step
        self.place = torch.empty(0)  # (B, L), where in it a column is, or -1
        self.calm = torch.empty(0)  # (B, L)

    @property
    @override
    def looks_ahead(self) -> bool:
        return self.rule.ahead

    def __call__(self, state: State) -> Tensor:
        columns, log_p = state.columns, state.logits.log_softmax(-1)
        asking = state.valid.any(1)[:, None]  # others have finished the window, and alone they wouldn't have asked
        if self.log_p is None:
            self.calm = torch.zeros_like(state.tokens)
            known = asking.expand_as(columns)
        else:
            place = self.place.gather(1, columns)
            known = asking | (place >= 0)
            before = self.log_p.gather(1, place.clamp(min=0)[..., None].expand(*place.shape, log_p.shape[-1]))
            terms = log_p.exp() * (log_p - before)
            divergence = terms.masked_fill(log_p == -torch.inf, 0.0).sum(-1)
            small = (place >= 0) & (divergence < self.rule.max_divergence)
            calm = self.calm.gather(1, columns)
            self.calm = self.calm.scatter(1, columns, torch.where(asking, torch.where(small, calm + 1, 0), calm))
            log_p = torch.where(asking[..., None], log_p, before)
        self.log_p = log_p
        index = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
        index = index.masked_fill(~(known & state.open.gather(1, columns)), -1)
        self.place = torch.full_like(state.tokens, -1).scatter(1, columns, index)
        return self.rule.choose(state, self.calm.gather(1, columns))


@dataclass(frozen=True)
class Credit(Adjustment):
    """dInfer's credit: a token that stayed the favourite of its position over the steps gets a bonus.

        C <- decay C;  C[favourite] += p_favourite ^ power;  logits += strength ln(1 + C)

    The memory is one number per row, column and token, (B, L, V).

    Args:
        decay: of the credit per step, in [0, 1].
        power: of the favourite's probability.
        strength: of the bonus; 0 for none.

    Reference:
        Wang et al., "CreditDecoding: Accelerating Parallel Decoding in Diffusion Large Language Models with Trace
        Credit", arXiv 2510.06133; with the numbers of Ma et al., "dInfer", arXiv 2510.08666.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Credit, Quota, UnmaskingSampler
        >>> model = lambda tokens: torch.eye(3)[tokens * 0 + 1]
        >>> sampler = UnmaskingSampler(Quota(steps=2), adjustments=(Credit(decay=0.8),))
        >>> sampler(model, torch.full((1, 4), 2), MaskingProcess(2)).tokens
        tensor([[1, 1, 1, 1]])
    """

    reads_drawn: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    decay: float = 0.8
    power: float = 0.2
    strength: float = 0.7

    def __call__(self, logits: Tensor, state: State) -> Tensor:
        """Without memory there is no credit."""
        return logits

    @override
    def start(self, state: State, suppress_tokens: tuple[int, ...] = ()) -> Adjustment:
        return _CreditRun(self)


class _CreditRun(Adjustment):
    def __init__(self, rule: Credit) -> None:
        self.rule = rule
        self.credit: Tensor | None = None  # (B, L, V)

    def __call__(self, logits: Tensor, state: State) -> Tensor:
        if self.credit is None:
            self.credit = logits.new_zeros(*state.tokens.shape, logits.shape[-1])
        index = state.columns[..., None].expand_as(logits)
        best = logits.softmax(-1).max(-1, keepdim=True)
        before = self.credit.gather(1, index)
        credit = (before * self.rule.decay).scatter_add(2, best.indices, best.values**self.rule.power)
        self.credit.scatter_(1, index, torch.where(state.valid[..., None], credit, before))
        return logits + self.rule.strength * credit.log1p()

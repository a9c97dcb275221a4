"""Self-speculation: the same weights guess several tokens at once and check them from left to right, exactly.

Let p_i be the next-token law of the causal pass, p(x_i | x_1 .. x_{i-1}), and q_i the law that a guess d_i was drawn
from. From left to right a guess is kept with probability min(1, p_i(d_i) / q_i(d_i)); the first one that isn't is
replaced by a draw from (p_i - q_i)+, normalised; if all are kept, one more token is drawn from p. For every token v

    P(x_i = v) = min(q_i(v), p_i(v)) + (1 - sum_w min(q_i(w), p_i(w))) (p_i(v) - q_i(v))+ / sum_w (p_i(w) - q_i(w))+
               = min(q_i(v), p_i(v)) + (p_i(v) - q_i(v))+  =  p_i(v),

so the text has the law of the next-token model however bad the guesses are; bad ones only cost calls. At temperature 0
both laws have one token, and the text is the greedy one.

A call verifies the guesses of the call before, and makes new ones for each number of them that may be kept (see
`llada.backbones.drafting`). So it settles between 1 and k + 1 tokens. Shapes: B rows, L columns, k guesses, V words.

Reference: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192; Liu et al.,
"TiDAR: Think in Diffusion, Talk in Autoregression", arXiv 2511.08923.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from llada.denoiser import BackboneDenoiser, as_denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.propose import check_answers, inverse_cdf
from llada.samplers.sampler import Step
from llada.samplers.sequential import SequentialSampler
from llada.samplers.state import State, token_probability
from llada.samplers.stopping import TokenIds, is_stop, token_ids

GUESS, KEEP, REPLACE = range(3)
"""Tags of the random streams of a call."""


@runtime_checkable
class DraftingBackbone(Protocol):
    """A network that checks and guesses in one pass; see `llada.backbones.drafting.Drafting`."""

    def new_drafting(self, batch_size: int, length: int, guesses: int) -> Any:
        """Passes over a canvas, with its keys and values."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        ...


class Guesses(NamedTuple):
    """Tokens for the next m columns, (B, m) int64, and the laws that they were drawn from, (B, m, V) float64."""

    tokens: Tensor
    laws: Tensor


class Verdict(NamedTuple):
    """What the causal pass says of m guesses.

    Attributes:
        kept: (B,) int64, how many of them stay.
        columns: (B, m + 1) int64, where they stand, and the one behind them.
        tokens: (B, m + 1) int64, as kept or replaced.
        taken: (B, m + 1) bool, which of them are written.
        probability: (B, m + 1), the model's own, of the tokens.
        broken: (B,) bool, rows in which the model had no answer at what is written.
    """

    kept: Tensor
    columns: Tensor
    tokens: Tensor
    taken: Tensor
    probability: Tensor
    broken: Tensor


@dataclass(frozen=True)
class DraftAndVerify(SequentialSampler):
    """Writes what the causal pass of the model's weights would write from left to right, several tokens per call.

    The model needs shifted outputs; it may be causal, have blocks, or see everything. One that was never trained with
    a causal mask gives poor text, and one that was never trained with masks guesses badly, so that it is slow.
    Positions are written from left to right, and given tokens behind an open position aren't seen by it. Keys and
    values are always kept.

    Args:
        guesses: k; a call computes (k + 1) squared tokens of each row and settles up to k + 1 of them. 0: none, the
            autoregressive decoding of the same weights.
        temperature: of the draw; 0 takes the most likely token.
        top_p: keep the smallest set of tokens with at least this much probability, in (0, 1]; None for all.
        top_k: keep this many tokens; None for all.
        stop_token_ids: a row that writes one of these is finished, and what is open in it is filled with the first of
            them.
        suppress_tokens: ids that are never written.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from llada.backbones import BidirectionalTransformer
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import DraftAndVerify
        >>> model = BidirectionalTransformer(9, 8, 1, 2, shift=True)
        >>> sample = DraftAndVerify(guesses=2)(model, torch.tensor([[1, 8, 8, 8]]), MaskingProcess(8))
        >>> bool(sample.calls <= 4)
        True
    """

    guesses: int = 4
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    stop_token_ids: TokenIds = None
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.guesses < 0:
            raise ValueError(f"guesses must be 0 or more; got {self.guesses}")
        super().__post_init__()

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "its texts have the law of NextToken on the same weights with a causal mask; score them with that"

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """As in `StateSampler`.

        Raises:
            ValueError: if the model can't draft and verify, or needs more than an attention mask.
        """
        process, random, (rows, length) = state.process, state.random, state.tokens.shape
        denoiser, backbone = _drafting(model, process, model_kwargs)
        mask, drafting = model_kwargs.get("attention_mask"), backbone.new_drafting(rows, length, self.guesses)
        known = torch.where(state.open.any(1), state.open.int().argmax(1), length)  # (B,), all before is final
        guesses, call = Guesses(known.new_zeros(len(known), 0), known.new_zeros(len(known), 0, 1)), 0
        while bool(state.open.any()):
            streams = random.fold_in(call)
            columns, read = _columns(state, known, guesses, first=call == 0)
            starts = known[:, None] + torch.arange(guesses.tokens.shape[1] + 1, device=known.device)
            canvas = _put(state.tokens, starts[:, 1:] - 1, guesses.tokens, _is_open(state, starts[:, 1:] - 1))
            hidden, drafts = drafting(canvas, columns, starts, process.mask_token_id, attention_mask=mask)
            hidden = hidden.gather(1, read[..., None].expand(-1, -1, hidden.shape[-1]))
            verdict = self._verify(denoiser.project(hidden), guesses, known, state, streams)
            state, step = self._settle(state, verdict)
            check_answers(state)
            yield step
            known = (known + verdict.kept + 1).clamp(max=length)
            drafts = drafts[torch.arange(len(known), device=known.device), verdict.kept]
            guesses, call = self._guess(denoiser.project(drafts), known, state, streams), call + 1

    def _laws(self, logits: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """The model's logits without suppressed tokens, and the laws that tokens are drawn from, (..., V) each."""
        logits = self.proposal.suppress(logits.float(), state)
        filtered = self.proposal.filter(logits).double()
        if self.temperature == 0.0:
            return logits, torch.zeros_like(filtered).scatter(-1, filtered.argmax(-1, keepdim=True), 1.0)
        return logits, filtered.softmax(-1)

    def _verify(self, logits: Tensor, guesses: Guesses, known: Tensor, state: State, random: RowRandom) -> Verdict:
        """Keep guesses from left to right, and draw what comes behind them, given the causal logits (B, m + 1, V)."""
        logits, laws = self._laws(logits, state)
        number = guesses.tokens.shape[1]
        columns = known[:, None] + torch.arange(number + 1, device=known.device)
        is_open = _is_open(state, columns)
        true, guessed = (law.gather(-1, guesses.tokens[..., None])[..., 0] for law in (laws[:, :number], guesses.laws))
        chance = random.fold_in(KEEP).uniform_at(columns[:, :number] - state.offset)
        kept = ((chance * guessed < true) | ~is_open[:, :number]).long().cumprod(1).sum(1)

        row, law = torch.arange(len(known), device=known.device), laws.gather(1, _at(kept, laws))[:, 0]
        if number:
            rest = (law - guesses.laws[row, kept.clamp(max=number - 1)]).clamp(min=0.0)
            law = torch.where(((kept < number) & (rest.sum(1) > 0.0))[:, None], rest, law)
        place = (known + kept)[:, None] - state.offset
        drawn = inverse_cdf(law.log()[:, None], random.fold_in(REPLACE).uniform_at(place))
        tokens = F.pad(guesses.tokens, (0, 1)).scatter(1, kept[:, None], drawn)
        taken = is_open & (columns <= (known + kept)[:, None])
        lost = taken & ~logits.amax(-1).isfinite()
        return Verdict(kept, columns, tokens, taken, token_probability(logits, tokens), lost.any(1))

    def _settle(self, state: State, verdict: Verdict) -> tuple[State, Step]:
        """Write what was kept; a row that has written a stop token is filled behind it."""
        stops, length = token_ids(self.stop_token_ids), state.tokens.shape[1]
        ending = verdict.taken & is_stop(verdict.tokens, stops)
        last = verdict.columns.masked_fill(~ending, length).amin(1, keepdim=True)  # of the row: its first stop token
        taken = verdict.taken & (verdict.columns <= last)
        changed = _put(torch.zeros_like(state.open), verdict.columns, taken, taken)
        tokens = _put(state.tokens, verdict.columns, verdict.tokens, taken)
        nothing = torch.full(tokens.shape, torch.nan, device=tokens.device)
        shown = _put(nothing, verdict.columns, verdict.probability.to(nothing.dtype), taken)
        filled = state.open & (torch.arange(length, device=tokens.device) > last)
        if stops:
            tokens = tokens.masked_fill(filled, stops[0])
        still_open, calls = state.open & ~changed & ~filled, state.calls + state.open.any(1)
        after = replace(state, tokens=tokens, open=still_open, calls=calls, broken=state.broken | verdict.broken)
        return after, Step(tokens, changed | filled, shown, calls, still_open)

    def _guess(self, logits: Tensor, known: Tensor, state: State, random: RowRandom) -> Guesses:
        """Tokens for the next columns, by the logits (B, k, V) of a group of masks."""
        _, laws = self._laws(logits, state)
        columns = known[:, None] + torch.arange(self.guesses, device=known.device)
        drawn = inverse_cdf(laws.log(), random.fold_in(GUESS).uniform_at(columns - state.offset))
        return Guesses(drawn, laws)


def _drafting(model: Any, process: Process, model_kwargs: dict[str, Any]) -> tuple[BackboneDenoiser, DraftingBackbone]:
    """The model, and the network behind it.

    Raises:
        ValueError: if it can't draft and verify, saying why.
    """
    denoiser = as_denoiser(model)
    backbone = denoiser.backbone if isinstance(denoiser, BackboneDenoiser) else None
    if not isinstance(denoiser, BackboneDenoiser) or not isinstance(backbone, DraftingBackbone):
        name = type(denoiser if backbone is None else backbone).__name__
        raise ValueError(
            f"{name} has no new_drafting(rows, length, guesses): it can't run causally over guesses beside masks; use "
            "a backbone such as llada.backbones.BidirectionalTransformer with shift=True, or another sampler"
        )
    if process.mask_token_id is None or process.scatters or process.time_conditioned:
        raise ValueError(
            f"guesses are made at masks, without a noise level; {process} has none, draws random tokens, or tells the "
            "model a noise level; use a MaskingProcess"
        )
    more = [name for name in model_kwargs if name != "attention_mask"]
    if more:
        raise ValueError(f"DraftAndVerify gives the model tokens and attention_mask alone; got {more[0]}")
    return denoiser, backbone


def _columns(state: State, known: Tensor, guesses: Guesses, *, first: bool) -> tuple[Tensor, Tensor]:
    """Columns of the canvas that are computed, (B, C), and which of these are read for the guesses and behind."""
    left = (known - 1)[:, None]
    if not first:
        ahead = torch.arange(guesses.tokens.shape[1] + 1, device=known.device)
        return left + ahead, ahead.expand(len(known), -1)
    read = torch.maximum(left, state.offset).clamp(max=state.tokens.shape[1] - 1)  # a row's first token: at itself
    return torch.arange(int(read.max()) + 1, device=known.device).expand(len(known), -1), read


def _is_open(state: State, columns: Tensor) -> Tensor:
    """Which columns are still to be written, like ``columns``; those behind the canvas aren't."""
    length = state.tokens.shape[1]
    return (columns < length) & state.open.gather(1, columns.clamp(max=length - 1))


def _at(index: Tensor, values: Tensor) -> Tensor:
    """An index (B,) for `gather` along the second dimension of (B, M, V)."""
    return index[:, None, None].expand(-1, 1, values.shape[-1])


def _put(canvas: Tensor, columns: Tensor, values: Tensor, where: Tensor) -> Tensor:
    """The canvas (B, L) with values (B, M) written to columns (B, M), where that is true; those from L on are dropped.

    Args:
        canvas: (B, L).
        columns: (B, M) int64, all different in a row.
        values: (B, M).
        where: (B, M) bool.
    """
    wider = F.pad(canvas, (0, columns.shape[1]))
    return wider.scatter(1, columns, torch.where(where, values, wider.gather(1, columns)))[:, : canvas.shape[1]]

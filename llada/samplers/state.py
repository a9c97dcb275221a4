"""What a step of decoding knows. Every part of a sampler is a function of it.

    order(state) -> scores,   amount(state) -> which candidates are written,   rates.unmask(state) -> a probability

Two words for where a token stands: its "column" is its index in the padded row, and its "position" counts from the
row's first real token. What is computed from positions doesn't depend on how a batch was padded.

Which positions are open, that is, still to be written, is part of the state. It is never read off the tokens, so a
prompt may hold the mask token itself.

Shapes: B rows, L columns of the canvas, M candidates per row in a step, V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from llada.process import Process
from llada.process.columns import Edit
from llada.random import RowRandom
from llada.rows import left_padding

NOTHING = torch.empty(0)
"""What a field holds that isn't known yet."""


@dataclass(frozen=True, eq=False)
class State:
    """A canvas that is being filled, and the step at hand. Later fields are empty tensors until they are known.

    Attributes:
        process: owner of the mask token and the schedule.
        tokens: (B, L) int64, the canvas before the step.
        open: (B, L) bool, positions that are still to be written.
        given: (B, L) bool, positions that are never written: the prompt and the padding.
        offset: (B, 1) int64, number of padding tokens in front of each row.
        random: random streams of the rows for this step; an order and an amount draw from them.
        window_random: random streams that stay the same in every step of a window.
        calls: (B,) int64, model calls that each row has needed so far.
        confidence: (B, L) float32, the probability that each token had when it was written, under the law it was drawn
            from where tokens may be taken back, else under the model; NaN where none was.
        start: first column of the window in which the step may write.
        stop: column after its last.
        step: index of the step in its window, from 0.
        num_steps: (B,) int64, steps that each row was given for the window; None if decoding goes on until no position
            is open.
        initial: (B,) int64, open positions of the window when it was begun.
        left: (B,) int64, open positions of the window now.
        unmask: (B,) float64, the probability that the sampler's rates give to uncovering an open position in this
            step; known to amounts with ``by_rates`` only.
        columns: (B, M) int64, columns of the candidates, rising as far as they are valid.
        valid: (B, M) bool, which entries are candidates; rows with fewer than others are filled up.
        logits: (B, M, V) float32, the model's, suppressed tokens at minus infinity.
        filtered: (B, M, V), the logits after temperature, top-p and top-k.
        drawn: (B, M) int64, the proposed tokens.
        top: (B, M), the largest of the logits of each candidate, where the proposal has found it.
        log_prob: (B, M) float64, their log-probability under the filtered logits, in nats; only where a text is scored.
        scores: (B, M) float, of the order; the highest come first.
        log_ratio: (B,) float64, how much likelier the tokens of the steps were without guidance than with it, nats; of
            chains only, since their block was begun.
        stable: (B,) int64, how many steps in a row have left the best tokens as they were; of `CommitAndRenoise`.
        broken: (B,) bool, rows in which the model had no answer at a position so far; see
            `llada.samplers.propose.check_answers`.
    """

    process: Process
    tokens: Tensor
    open: Tensor
    given: Tensor
    offset: Tensor
    random: RowRandom
    window_random: RowRandom
    calls: Tensor = NOTHING
    confidence: Tensor = NOTHING
    start: int = 0
    stop: int = 0
    step: int = 0
    num_steps: Tensor | None = None
    initial: Tensor = NOTHING
    left: Tensor = NOTHING
    unmask: Tensor = NOTHING
    columns: Tensor = NOTHING
    valid: Tensor = NOTHING
    logits: Tensor = NOTHING
    filtered: Tensor = NOTHING
    drawn: Tensor = NOTHING
    top: Tensor = NOTHING
    log_prob: Tensor | None = None
    scores: Tensor = NOTHING
    log_ratio: Tensor = NOTHING
    stable: Tensor = NOTHING
    broken: Tensor = NOTHING

    @classmethod
    def begin(
        cls,
        process: Process,
        tokens: Tensor,
        given: Tensor | None,
        random: RowRandom,
        attention_mask: Tensor | None = None,
    ) -> "State":
        """The state before the first step, with the process's prior at the open positions.

        Args:
            process: owner of the mask token.
            tokens: (B, L) int64.
            given: (B, L) bool, positions that are never written; None: all that don't hold the mask token.
            random: random streams of the rows.
            attention_mask: (B, L) bool or 0/1, true for real tokens. Padding is never written.

        Raises:
            ValueError: if the canvas isn't (B, L) int64, ``given`` or ``attention_mask`` has another shape or type, or
                ``given`` is None and the process has no mask token.
        """
        check_canvas(tokens, attention_mask)
        unknown = ~_given(process, tokens, given)
        if attention_mask is not None:
            unknown = unknown & attention_mask.bool()
        offset = left_padding(tokens, attention_mask)
        canvas = _noise(process, tokens, unknown, offset, random)
        nothing = torch.full(tokens.shape, torch.nan, device=tokens.device)
        calls, broken = torch.zeros_like(offset[:, 0]), torch.zeros_like(unknown[:, 0])
        return cls(process, canvas, unknown, ~unknown, offset, random, random, calls, nothing, broken=broken)

    def moved(self, edit: Edit, pad_token_id: int) -> "State":
        """The state after an edit of the columns: new ones hold the mask and are open.

        Args:
            edit: of the canvas.
            pad_token_id: what stands in the padding behind a row.
        """
        mask = self.process.mask_token_id
        assert mask is not None
        return replace(
            self,
            tokens=edit(self.tokens, mask, pad_token_id),
            open=edit(self.open, True, False),
            given=edit(self.given, False, True),
            confidence=edit(self.confidence, torch.nan),
        )

    @cached_property
    def positions(self) -> Tensor:
        """(B, M) int64, the candidates counted from the first real token of their row."""
        return self.columns - self.offset

    @cached_property
    def probability(self) -> Tensor:
        """(B, M) float32, the model's own probability of the proposed tokens."""
        return token_probability(self.logits, self.drawn, self.top if self.top.shape == self.drawn.shape else None)

    def scored(self, scores: Tensor) -> "State":
        """The state with the order's scores, and with what the order has computed of the proposals on its way.

        Args:
            scores: (B, M).
        """
        after = replace(self, scores=scores)
        vars(after).update({name: vars(self)[name] for name in ("probability", "positions") if name in vars(self)})
        return after

    @property
    def all_positions(self) -> Tensor:
        """(B, L) int64, positions of all columns."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) - self.offset

    @property
    def inside(self) -> Tensor:
        """(B, L) bool, the positions of the window that aren't given, written or not."""
        inside = ~self.given
        inside[:, : self.start] = False
        inside[:, self.stop :] = False
        return inside

    @property
    def written(self) -> Tensor:
        """(B, L) bool, the tokens of the window that earlier steps wrote."""
        return self.inside & ~self.open

    def grid(self, ahead: int = 0) -> Tensor:
        """The time 1 - k / K, (B,) float64: 1 at the first step, 0 after the last.

        Without a number of steps K it is the share of positions that are still open.

        Args:
            ahead: 0 for the time at which the step begins, 1 for that at which it ends.
        """
        if self.num_steps is None:
            return self.left.double() / self.initial.clamp(min=1)
        return (1.0 - (self.step + ahead) / self.num_steps.double().clamp(min=1)).clamp(min=0.0)

    @property
    def is_last(self) -> Tensor:
        """(B,) bool, whether no position may be open after this step."""
        if self.num_steps is None:
            return torch.zeros_like(self.initial, dtype=torch.bool)
        return self.num_steps <= self.step + 1


def token_probability(logits: Tensor, tokens: Tensor, top: Tensor | None = None) -> Tensor:
    """Probability of the tokens under the logits.

    Args:
        logits: (..., V) float32.
        tokens: (...) int64.
        top: (...), the largest logits, where they are known: that saves a pass; the result is the same to the last bit.

    Returns:
        (...) float32.
    """
    if top is not None:
        mass = (logits - top[..., None]).exp_().sum(-1).log_() + top
        return (logits.gather(-1, tokens[..., None]).squeeze(-1) - mass).exp()
    return (logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)).exp()


def check_canvas(tokens: Tensor, attention_mask: Tensor | None) -> None:
    """Whether these can be a canvas and its attention mask.

    Raises:
        ValueError: if the shape or type of one is wrong.
    """
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise ValueError(
            "the canvas must be (B, L) int64 with a row and a column at least; "
            f"got {tuple(tokens.shape)} {tokens.dtype}; see llada.samplers.canvas"
        )
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask must have the canvas's shape {tuple(tokens.shape)}; got {tuple(attention_mask.shape)}"
        )


def _given(process: Process, tokens: Tensor, given: Tensor | None) -> Tensor:
    """The positions that are never written, (B, L) bool."""
    if given is not None:
        if given.shape != tokens.shape or given.dtype != torch.bool:
            raise ValueError(
                f"given must be bool of the tokens' shape {tuple(tokens.shape)}; got {tuple(given.shape)} {given.dtype}"
            )
        return given.to(tokens.device)
    if process.mask_token_id is None:
        raise ValueError(
            f"{type(process).__name__} has no mask token that would show what is to be generated; pass given=, "
            "(B, L) bool, true for the tokens that stay as they are"
        )
    return ~process.is_masked(tokens)


def _noise(process: Process, tokens: Tensor, unknown: Tensor, offset: Tensor, random: RowRandom) -> Tensor:
    """The canvas with pure noise at the unknown positions; the noise of a row doesn't depend on its padding."""
    if process.mask_token_id is not None:
        return process.prior(tokens, unknown, random=random)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    drawn = process.prior(tokens, torch.ones_like(unknown), random=random.fold_in(-2))  # by position
    return torch.where(unknown, drawn.gather(1, (columns - offset).clamp(min=0)), tokens)

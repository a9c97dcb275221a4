"""A regular expression over a part of the canvas: whatever is written, the whole can still become a match.

Let F_l be the states that the automaton may be in before column l, given what is known on the left, and B_l those from
which what is known on the right can still be met. With R[s, t] = 1 where some token leads from s to t,

    F_{l+1} = F_l R at a mask, next(F_l, x_l) at a known token;  B_l = R B_{l+1}, or {s : next(s, x_l) in B_{l+1}}.

A token v may be written at column l exactly if next(s, v) is in B_{l+1} for some s of F_l: then, and only then, there
is a way to fill the other masks. Tokens written in the same step are brought to agree by
`llada.samplers.constraints.joint`.

Shapes: B rows, L columns, M candidates, S states, C classes of tokens, V vocabulary.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.constraints.adjust import Adjustment
from llada.samplers.constraints.automaton import (
    NEVER,
    STAY,
    Spelling,
    TokenAutomaton,
    compile_expression,
    token_automaton,
)
from llada.samplers.constraints.budget import MAX_STATES
from llada.samplers.state import State

_LEAST = -1e30  # a logit below all others that is still a number


@dataclass(frozen=True)
class RegularExpression(Adjustment):
    """The text of a part of the row matches a regular expression as a whole.

    A token that the model itself rules out is written only where it rules out all others as well. Tokens that are no
    whole characters (pieces of UTF-8) and special tokens other than ``end`` are never written there.

    Args:
        pattern: in Python's syntax, of the kind that `llada.samplers.constraints.automaton.compile_expression` takes.
        tokenizer: spells the tokens; see `llada.data.Tokenizer`.
        end: tokens that may follow a complete match up to the end of the part, such as EOS; without them the match must
            take exactly as many tokens as there is room for.
        part: first place of the part and the place behind its last, counted from 0 at the first real token of the row;
            None: from the row's first mask to its last. A row without masks has no part then.
        max_states: states that the expression's automaton may have, which bounds the work and the memory.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if the pattern isn't one or needs more than ``max_states``, or the part is none.

    Reference:
        Suresh et al., "DINGO: Constrained Inference for Diffusion LLMs", has the automaton with masks as edges; it
        picks the likeliest match of a block, where here the sampler's own order and draws are kept.

    Examples:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import PerStep, RegularExpression, UnmaskingSampler
        >>> spell = lambda ids: "".join("ab!"[token] for token in ids if token < 3)
        >>> encode = lambda text: ["ab!".index(sign) for sign in text]
        >>> words = SimpleNamespace(vocab_size=4, encode=encode, decode=spell)
        >>> sampler = UnmaskingSampler(PerStep(1), adjustments=(RegularExpression("(ab)+", words),))
        >>> model = lambda tokens: torch.tensor([0.0, 1.0, 5.0, 0.0]).expand(*tokens.shape, 4)  # likes "!" best
        >>> spell(sampler(model, torch.full((1, 6), 3), MaskingProcess(3)).tokens[0])
        'ababab'
    """

    restricts: ClassVar[bool] = True
    reads_drawn: ClassVar[bool] = False
    joint: ClassVar[bool] = True
    pattern: str
    tokenizer: Spelling
    end: tuple[int, ...] = ()
    part: tuple[int, int] | None = None
    max_states: int = MAX_STATES

    def __post_init__(self) -> None:
        compile_expression(self.pattern, self.max_states)
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"a part must begin at place 0 or later and end behind its begin; got {self.part}")

    @cached_property
    def automaton(self) -> TokenAutomaton:
        """The automaton over tokens, made once."""
        return token_automaton(self.pattern, self.tokenizer, self.end, self.max_states)

    @override
    def start(self, state: State, suppress_tokens: tuple[int, ...] = ()) -> "RegularRun":
        """The automaton on this canvas; there must be a match with what is given."""
        automaton = self.automaton.to(state.tokens.device)
        written = torch.ones_like(automaton.classes, dtype=torch.bool)
        never = (state.process.mask_token_id, *suppress_tokens)
        written[[token for token in never if token is not None and token < len(written)]] = False
        run = RegularRun(automaton, written, self._inside(state))
        failed = ~run.possible(state.tokens, state.open)
        if bool(failed.any()):
            row = int(failed.int().argmax())
            raise ValueError(f"row {row} can't be made to match {self.pattern!r}: {_reason(run, state, row)}")
        return run

    @override
    def __call__(self, logits: Tensor, state: State) -> Tensor:
        """Without a run every call begins with the canvas that it is shown."""
        return self.start(state)(logits, state)

    def _inside(self, state: State) -> Tensor:
        """(B, L) bool, which columns belong to the part."""
        if self.part is None:
            behind = state.open.flip(1).cumsum(1).flip(1) > 0
            return (state.open.cumsum(1) > 0) & behind
        position = state.all_positions
        if int(position[:, -1].min()) + 1 < self.part[1]:
            raise ValueError(f"the part {self.part} ends behind a row of {int(position[:, -1].min()) + 1} tokens")
        return (position >= self.part[0]) & (position < self.part[1])


class RegularRun(Adjustment):
    """The automaton on one batch.

    Args:
        automaton: over tokens.
        written: (V,) bool, tokens that may be written.
        inside: (B, L) bool, the columns that must match.
    """

    restricts: ClassVar[bool] = True
    joint: ClassVar[bool] = True

    def __init__(self, automaton: TokenAutomaton, written: Tensor, inside: Tensor) -> None:
        self.automaton, self.written, self.inside = automaton, written, inside
        self.edges = automaton.steps(written)
        used = inside.any(0)
        self.first, self.stop = (0, 0) if not bool(used.any()) else _bounds(used)
        self.accepting = automaton.accepting | ~inside.any(1, keepdim=True)  # rows that have no part need no match

    @override
    def __call__(self, logits: Tensor, state: State) -> Tensor:
        if logits.shape[-1] < len(self.written):
            raise ValueError(
                f"the tokenizer of the expression has {len(self.written)} tokens, but the model's vocabulary only "
                f"{logits.shape[-1]}; give the model's own tokenizer"
            )
        columns = state.columns
        before, after = self.forward(state.tokens, state.open), self.backward(state.tokens, state.open)
        index = columns[..., None].expand(*columns.shape, before.shape[-1])
        by_class = self._allowed(before.gather(1, index), after.gather(1, index + 1))
        # Nothing is written at known columns; they are there to fill up the batch.
        free = ~self.inside.gather(1, columns) | ~state.open.gather(1, columns)
        kinds = self.automaton.classes.masked_fill(~self.written, NEVER)
        kinds = torch.nn.functional.pad(kinds, (0, logits.shape[-1] - len(kinds)), value=NEVER)
        allowed = (by_class | free[..., None])[..., kinds]
        return logits.clamp(min=_LEAST).masked_fill_(~allowed, -torch.inf)

    def _allowed(self, before: Tensor, after: Tensor) -> Tensor:
        """Classes that lead from one of the states (B, M, S) into one of the others; (B, M, C) bool."""
        allowed = torch.zeros(*before.shape[:2], self.automaton.next.shape[1], dtype=torch.bool, device=before.device)
        for state in range(self.automaton.dead):
            allowed |= before[..., state, None] & after[..., self.automaton.next[state]]
        return allowed

    def forward(self, tokens: Tensor, still_open: Tensor) -> Tensor:
        """F, (B, L + 1, S) bool: the states before each column, and behind the last."""
        classes, masked = self._classes(tokens, still_open)
        now = torch.zeros(len(tokens), len(self.edges), device=tokens.device)
        now[:, 0] = 1.0
        found = [now] * (self.first + 1)
        for column in range(self.first, self.stop):
            known = torch.zeros_like(now).scatter_add_(1, self.automaton.next.T[classes[:, column]], now)
            known[:, self.automaton.dead] = 0.0
            now = (torch.where(masked[:, column, None], now @ self.edges, known) > 0).float()
            found.append(now)
        return torch.stack(found + [now] * (tokens.shape[1] - self.stop), 1) > 0

    def backward(self, tokens: Tensor, still_open: Tensor) -> Tensor:
        """B, (B, L + 1, S) bool: the states from which the rest can be met."""
        classes, masked = self._classes(tokens, still_open)
        now = self.accepting.float().expand(len(tokens), -1).clone()
        now[:, self.automaton.dead] = 0.0
        found = [now] * (tokens.shape[1] - self.stop + 1)
        for column in reversed(range(self.first, self.stop)):
            known = now.gather(1, self.automaton.next.T[classes[:, column]])
            now = torch.where(masked[:, column, None], (now @ self.edges.T > 0).float(), known)
            found.append(now)
        return torch.stack((found + [now] * self.first)[::-1], 1) > 0

    def possible(self, tokens: Tensor, still_open: Tensor) -> Tensor:
        """(B,) bool, which rows can become a match."""
        return self.backward(tokens, still_open)[:, 0, 0]

    def _classes(self, tokens: Tensor, still_open: Tensor) -> tuple[Tensor, Tensor]:
        """Class of each token (B, L), and where a mask is to be filled (B, L) bool."""
        known = self.automaton.classes[tokens.clamp(max=len(self.written) - 1)]
        known = known.masked_fill(tokens >= len(self.written), NEVER).masked_fill(~self.inside, STAY)
        return known, self.inside & still_open


def _bounds(used: Tensor) -> tuple[int, int]:
    """First true entry, and the place behind the last one."""
    found = used.nonzero()
    return int(found[0]), int(found[-1]) + 1


def _reason(run: RegularRun, state: State, row: int) -> str:
    """Why a row can't become a match, in words."""
    reached = run.forward(state.tokens, state.open)[row].any(-1)
    inside, masked, padding = run.inside[row], state.open[row], int(state.offset[row])
    shortest = _shortest(run.edges, run.automaton.accepting)
    length = (
        "the tokens that may be written spell none at all" if shortest is None else f"the shortest takes {shortest}"
    )
    if bool(reached[-1]):
        return (
            f"no match takes just the {int(inside.sum())} tokens from place {_bounds(inside)[0] - padding} on, "
            f"{int((inside & masked).sum())} of them masks, and has the given ones; {length}"
        )
    column = int(reached.int().argmin()) - 1
    if not bool(masked[column]):
        return f"the given token {int(state.tokens[row, column])} can't stand at place {column - padding}"
    if shortest is None:
        return length
    return f"every match is over before place {column - padding}; give less room, or tokens to follow, as end=(EOS,)"


def _shortest(edges: Tensor, accepting: Tensor) -> int | None:
    """Tokens of the shortest match; None if there is none."""
    now = torch.zeros_like(edges[0])
    now[0] = 1.0
    for length in range(len(edges)):
        if bool((now > 0)[accepting].any()):
            return length
        now = (now @ edges > 0).float()
    return None

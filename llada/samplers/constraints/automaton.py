"""A regular expression as an automaton over tokens.

The expression becomes a deterministic automaton over characters (package ``interegular``, extra ``regex``). A token is
a walk through it, one edge per character, so that the same states with whole tokens as edges are an automaton over
tokens: next[s, v] is where the characters of token v lead from state s. Most tokens lead everywhere to the same place
as some other token; they form a class, and the table has a column per class in place of one per token.

Shapes: S states, C classes, V tokens.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STAY, NEVER = 0, 1
"""Two classes that every automaton has: a token that isn't looked at, and one that no match has."""

_CHUNK = 2048  # tokens that are spelt at once
_TORN = "\ufffd"  # what a tokenizer decodes a part of a character to


class Spelling(Protocol):
    """What is asked of a tokenizer; `llada.data.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens give nothing."""


@dataclass(frozen=True)
class TokenAutomaton:
    """A deterministic automaton over tokens. It begins in state 0; its last state is a dead end.

    Attributes:
        next: (S, C) int64, the state after a token of each class.
        classes: (V,) int64, class of each token.
        accepting: (S,) bool, states in which a match is complete.
    """

    next: Tensor
    classes: Tensor
    accepting: Tensor

    @property
    def dead(self) -> int:
        """The state from which nothing is reached any more."""
        return len(self.next) - 1

    def to(self, device: torch.device) -> "TokenAutomaton":
        """The same on another device."""
        return TokenAutomaton(self.next.to(device), self.classes.to(device), self.accepting.to(device))

    def steps(self, written: Tensor) -> Tensor:
        """Which state is reached from which by one token.

        Args:
            written: (V,) bool, tokens that may be used.

        Returns:
            (S, S) float32, 1 where some token leads from the row's state to the column's; the dead end isn't reached.
        """
        table = torch.zeros(len(self.next), len(self.next), device=self.next.device)
        table.scatter_(1, self.next[:, self.classes[written].unique()], 1.0)
        table[:, self.dead] = 0.0
        return table


def token_texts(tokenizer: Spelling) -> list[str]:
    """What every token adds to a text; empty for special tokens, and for those that are no whole characters.

    A token is decoded behind another one, since decoders of some kinds drop a space at the beginning.
    """
    front = tokenizer.encode("a")
    known = tokenizer.decode(front)
    texts = [tokenizer.decode([*front, token]).removeprefix(known) for token in range(tokenizer.vocab_size)]
    return ["" if _TORN in text else text for text in texts]


def compile_expression(pattern: str) -> Any:
    r"""The minimal automaton over characters, an ``interegular.FSM``.

    Args:
        pattern: in Python's syntax, and what ``\d``, ``\w`` and ``\s`` mean is ASCII. Not to be had: anchors (the
            whole text must match anyway), word boundaries, references to groups, and what looks behind.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if it is no regular expression, or uses what is not to be had.
    """
    try:
        import interegular
        from interegular.patterns import InvalidSyntax, Unsupported
        from interegular.utils.simple_parser import NoMatch
    except ImportError as error:
        raise ImportError("regular expressions need the package interegular; pip install 'llada[regex]'") from error
    try:
        re.compile(pattern)
        fsm: Any = interegular.parse_pattern(pattern).to_fsm()
        fsm = fsm.reduce()
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    except (InvalidSyntax, Unsupported, NoMatch, RecursionError) as error:
        raise ValueError(
            f"{pattern!r} uses what a finite automaton hasn't ({str(error) or type(error).__name__}): no anchors such "
            "as ^ and $ (the whole must match anyway), word boundaries, references to groups, or looking behind"
        ) from error
    if fsm.empty():
        raise ValueError(f"{pattern!r} matches no text at all")
    return fsm


def token_automaton(pattern: str, tokenizer: Spelling, end: tuple[int, ...] = ()) -> TokenAutomaton:
    """The automaton of an expression over the tokens of a tokenizer.

    Args:
        pattern: see `compile_expression`.
        tokenizer: spells the tokens.
        end: tokens that may follow a complete match, as often as there is room, such as EOS. They are no text.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if the pattern isn't one, or an id of ``end`` isn't in the vocabulary.
    """
    outside = [token for token in end if not 0 <= token < tokenizer.vocab_size]
    if outside:
        raise ValueError(
            f"the end token {outside[0]} is outside of the tokenizer's vocabulary of {tokenizer.vocab_size}"
        )
    step, symbols, other, final = _character_table(compile_expression(pattern))
    num_states = len(step)  # of the expression, then one behind the end tokens; the last is dead
    codes = [[symbols.get(character, other) for character in text] for text in token_texts(tokenizer)]
    for token in end:
        codes[token] = []
    columns: dict[bytes, int] = {}
    never = np.full(num_states, num_states - 1)
    after_end = np.where(final, num_states - 2, num_states - 1)
    for column in (np.arange(num_states), never):
        columns[column.tobytes()] = len(columns)
    classes = np.full(len(codes), NEVER)
    ordered = sorted((token for token, code in enumerate(codes) if code), key=lambda token: len(codes[token]))
    for start in range(0, len(ordered), _CHUNK):
        tokens = ordered[start : start + _CHUNK]
        for token, column in zip(tokens, _walk(step, [codes[token] for token in tokens]), strict=True):
            classes[token] = columns.setdefault(column.tobytes(), len(columns))
    if end:
        classes[list(end)] = columns.setdefault(after_end.tobytes(), len(columns))
    table = np.stack([np.frombuffer(column, dtype=never.dtype) for column in columns], axis=1)
    return TokenAutomaton(torch.tensor(table), torch.tensor(classes), torch.tensor(final))


def _character_table(fsm: Any) -> tuple[NDArray[np.int64], dict[str, int], int, NDArray[np.bool_]]:
    """(S, K + 1) next states by kind of character, kind of each one that is named, kind of all others, final states.

    The last kind stays where it is: it fills up words that are shorter than others.
    """
    states = [fsm.initial, *(state for state in fsm.states if state != fsm.initial)]
    number = {state: index for index, state in enumerate(states)}
    named = {symbol: key for symbol, key in fsm.alphabet.items() if isinstance(symbol, str)}
    (other,) = (key for symbol, key in fsm.alphabet.items() if not isinstance(symbol, str))
    kinds = {key: index for index, key in enumerate(sorted({*named.values(), other}))}
    table = np.full((len(states) + 2, len(kinds) + 1), len(states) + 1)
    table[:, -1] = np.arange(len(table))
    for state, edges in fsm.map.items():
        for key, target in edges.items():
            table[number[state], kinds[key]] = number[target]
    final = np.zeros(len(table), dtype=np.bool_)
    final[[number[state] for state in fsm.finals]] = True
    final[len(states)] = True  # behind the end tokens
    return table, {symbol: kinds[key] for symbol, key in named.items()}, kinds[other], final


def _walk(step: NDArray[np.int64], codes: list[list[int]]) -> NDArray[np.int64]:
    """Where words lead from every state, (number of words, S)."""
    padded = np.full((len(codes), max(map(len, codes))), step.shape[1] - 1)
    for row, code in enumerate(codes):
        padded[row, : len(code)] = code
    state = np.broadcast_to(np.arange(len(step)), (len(codes), len(step)))
    for character in padded.T:
        state = step[state, character[:, None]]
    return np.ascontiguousarray(state)

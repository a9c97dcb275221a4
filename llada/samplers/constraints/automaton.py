"""A regular expression as an automaton over tokens.

The expression becomes a deterministic automaton over characters (`llada.samplers.constraints.characters`). A token is
a walk through it, one edge per character, so that the same states with whole tokens as edges are an automaton over
tokens: next[s, v] is where the characters of token v lead from state s. Most tokens lead everywhere to the same place
as some other token; they form a class, and the table has a column per class in place of one per token.

Shapes: S states, C classes, V tokens.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llada.samplers.constraints.budget import MAX_STATES, Budget, BudgetExceededError
from llada.samplers.constraints.characters import CharacterAutomaton, determine

STAY, NEVER = 0, 1
"""Two classes that every automaton has: a token that isn't looked at, and one that no match has."""

_CHUNK = 2048  # tokens that are spelt at once
_TORN = "\ufffd"  # what a tokenizer decodes a part of a character to


class Spelling(Protocol):
    """What an automaton needs of a tokenizer: its ids and their texts. `llada.data.Tokenizer` has both."""

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


def compile_expression(pattern: str, max_states: int = MAX_STATES) -> CharacterAutomaton:
    r"""The minimal automaton over characters.

    Args:
        pattern: in Python's syntax, and what ``\d``, ``\w`` and ``\s`` mean is ASCII. Not to be had: anchors (the
            whole text must match anyway), word boundaries, references to groups, comments, and what looks behind.
        max_states: states that it may have; more cost memory by their square. Its making is bounded likewise.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if it is no regular expression, uses what is not to be had, or needs more than ``max_states``.
    """
    if max_states < 1:
        raise ValueError(f"max_states must be 1 or more; got {max_states}")
    budget = Budget(pattern, max_states)
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{budget.shown} is no regular expression: {reason}") from error
    budget.check_classes()
    try:
        automaton = determine(pattern, budget)
    except (BudgetExceededError, ImportError):
        raise
    except Exception as error:  # whatever the parser stumbles over, it is the expression that it can't take
        reason = "a comment" if "(?#" in pattern else str(error) or type(error).__name__
        raise ValueError(
            f"{budget.shown} uses what a finite automaton hasn't ({reason}): no anchors "
            "such as ^ and $ (the whole must match anyway), word boundaries, references to groups, comments, or "
            "looking behind"
        ) from error
    if not len(automaton.step):
        raise ValueError(f"{budget.shown} matches no text at all")
    return automaton


def token_automaton(
    pattern: str, tokenizer: Spelling, end: tuple[int, ...] = (), max_states: int = MAX_STATES
) -> TokenAutomaton:
    """The automaton of an expression over the tokens of a tokenizer.

    Args:
        pattern: a regular expression, in the syntax that `compile_expression` reads.
        tokenizer: spells the tokens.
        end: tokens that may follow a complete match, as often as there is room, such as EOS. They are no text.
        max_states: most states that its automaton may have.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if the pattern isn't one, or an id of ``end`` isn't in the vocabulary.
    """
    outside = [token for token in end if not 0 <= token < tokenizer.vocab_size]
    if outside:
        raise ValueError(
            f"the end token {outside[0]} is outside of the tokenizer's vocabulary of {tokenizer.vocab_size}"
        )
    characters = compile_expression(pattern, max_states)
    step, final = _character_table(characters)
    num_states = len(step)  # of the expression, then one behind the end tokens; the last is dead
    codes = [
        [characters.kinds.get(character, characters.other) for character in text] for text in token_texts(tokenizer)
    ]
    for token in end:
        codes[token] = []
    columns: dict[bytes, int] = {}
    budget = Budget(pattern, max_states)
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
        budget.check_table(num_states * len(columns))
    if end:
        classes[list(end)] = columns.setdefault(after_end.tobytes(), len(columns))
    table = np.stack([np.frombuffer(column, dtype=never.dtype) for column in columns], axis=1)
    return TokenAutomaton(torch.tensor(table), torch.tensor(classes), torch.tensor(final))


def _character_table(characters: CharacterAutomaton) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(S, K + 1) next states by kind of character, and final states (S,): two states more, and one kind.

    The last state is dead, and the one before it stands behind the end tokens. The last kind stays where it is: it
    fills up words that are shorter than others.
    """
    count, num_kinds = characters.step.shape
    table = np.full((count + 2, num_kinds + 1), count + 1)
    table[:count, :-1] = np.where(characters.step < 0, count + 1, characters.step)
    table[:, -1] = np.arange(count + 2)
    return table, np.concatenate((characters.final, [True, False]))


def _walk(step: NDArray[np.int64], codes: list[list[int]]) -> NDArray[np.int64]:
    """Where words lead from every state, (number of words, S)."""
    padded = np.full((len(codes), max(map(len, codes))), step.shape[1] - 1)
    for row, code in enumerate(codes):
        padded[row, : len(code)] = code
    state = np.broadcast_to(np.arange(len(step)), (len(codes), len(step)))
    for character in padded.T:
        state = step[state, character[:, None]]
    return np.ascontiguousarray(state)

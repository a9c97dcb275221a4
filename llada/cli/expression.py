"""``--regex``: what a command writes matches a regular expression."""

from collections.abc import Iterable
from dataclasses import replace

from llada.samplers import RegularExpression
from llada.samplers.constraints.budget import MAX_STATES
from llada.text import TextModel

__all__ = ["MAX_STATES", "matching"]


def matching(text: TextModel, pattern: str | None, end: Iterable[int] = (), max_states: int = MAX_STATES) -> TextModel:
    """The model with an expression among the adjustments of its sampler.

    Args:
        text: model and tokenizer, with the sampler that is to be used.
        pattern: see `llada.samplers.RegularExpression`; None for none.
        end: tokens that may follow the match.
        max_states: states that its automaton may have.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if it is no expression, or the sampler can't keep to one.
    """
    if pattern is None:
        return text
    rule = RegularExpression(pattern, text.tokenizer, tuple(sorted(set(end))), max_states=max_states)
    return replace(text, sampler=text.decoding.with_adjustments(rule))

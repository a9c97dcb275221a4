"""``--regex``: what a command writes matches a regular expression."""

from collections.abc import Iterable

from llada.cli.text import Loaded
from llada.samplers import RegularExpression, Sampler


def matching(sampler: Sampler | None, pattern: str | None, loaded: Loaded, end: Iterable[int] = ()) -> Sampler | None:
    """The sampler with an expression among its adjustments.

    Args:
        sampler: None for the model's own.
        pattern: see `llada.samplers.RegularExpression`; None for none.
        loaded: the model and its tokenizer.
        end: tokens that may follow the match.

    Raises:
        ImportError: without the package ``interegular``.
        ValueError: if it is no expression, or the sampler can't keep to one.
    """
    if pattern is None:
        return sampler
    chosen = loaded.model.sampler if sampler is None else sampler
    return chosen.with_adjustments(RegularExpression(pattern, loaded.tokenizer, tuple(sorted(set(end)))))

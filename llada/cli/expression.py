"""``--regex``: what a command writes matches a regular expression."""

from collections.abc import Iterable
from dataclasses import replace

from llada.cli.text import Loaded
from llada.samplers import EditingSampler, RegularExpression, Sampler, SpeculativeSampler, UnmaskingSampler


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
    if not isinstance(chosen, UnmaskingSampler | SpeculativeSampler | EditingSampler):
        raise ValueError(
            f"{type(chosen).__name__} takes no constraints; give another --sampler, such as low_confidence"
        )
    rule = RegularExpression(pattern, loaded.tokenizer, tuple(sorted(set(end))))
    return replace(chosen, adjustments=(*chosen.adjustments, rule))

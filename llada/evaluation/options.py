"""How a task wants its answers written (``generation_kwargs``), and the sampler that obeys."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from llada.samplers import Sampler

_LENGTHS = ("max_gen_toks", "max_new_tokens")
_DRAWS = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
_KNOWN = {"until", "do_sample", *_LENGTHS, *_DRAWS}
_NEUTRAL: tuple[Any, ...] = (None, False, {}, [], "")


def num_new_tokens(options: dict[str, Any], default: int) -> int:
    """How many tokens a task wants.

    Raises:
        ValueError: if it isn't a positive number.
    """
    value = next((options[name] for name in _LENGTHS if options.get(name) is not None), default)
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(f"the task wants {value!r} new tokens; it must be a positive number")
    return int(value)


def endings(options: dict[str, Any]) -> tuple[str, ...]:
    """Texts that end an answer; an empty one ends none."""
    until = options.get("until") or []
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def unknown(options: dict[str, Any]) -> list[str]:
    """Options that no sampler has, and that would change its answers, each as ``name=value``."""
    same = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "length_penalty": 1.0}
    return [
        f"{name}={value}"
        for name, value in options.items()
        if name not in _KNOWN and value not in _NEUTRAL and value != same.get(name)
    ]


def draws(options: dict[str, Any]) -> dict[str, float] | None:
    """What a task says of random draws.

    Returns:
        Temperature, ``top_p`` and ``top_k``, those that say something; empty for greedy decoding, None if the task says
        nothing.
    """
    temperature, sampled = options.get("temperature"), options.get("do_sample")
    if sampled is None and temperature is None:
        return None
    if not (sampled or sampled is None) or temperature == 0:
        return {}
    asked = {"temperature": 1.0 if temperature is None else float(temperature)}
    return asked | {name: options[name] for name in ("top_p", "top_k") if options.get(name) not in (None, _DRAWS[name])}


def temperature_of(sampler: Sampler) -> float:
    """The temperature at which a sampler draws."""
    return float(getattr(getattr(sampler, "proposal", sampler), "temperature", 0.0))


def with_draws(sampler: Sampler, asked: dict[str, float]) -> Sampler:
    """A sampler that draws as a task asks.

    Args:
        sampler: to be changed.
        asked: see `draws`; what it doesn't name is off.

    Raises:
        ValueError: if the sampler has no such option.
    """
    changes = {"temperature": asked["temperature"], "top_p": asked.get("top_p"), "top_k": asked.get("top_k")}
    part: Any = sampler  # samplers are dataclasses, though their base class isn't one
    own = {field.name for field in fields(part)} if is_dataclass(part) else set()
    if set(changes) <= own:
        return replace(part, **changes)
    if "proposal" in own:
        return replace(part, proposal=replace(part.proposal, **changes))
    wanted = ", ".join(f"{name}={value}" for name, value in asked.items())
    raise ValueError(
        f"the task asks for {wanted}, which {type(sampler).__name__} doesn't have; take another sampler, or "
        "--gen_kwargs do_sample=false"
    )

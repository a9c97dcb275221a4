"""How a request is decoded: the server's own sampler, or a preset by its name with arguments of its own."""

import inspect
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from llada.samplers import PRESETS, RegularExpression, Sampler
from llada.samplers.changed import with_argument
from llada.serving.body import Body
from llada.serving.limits import Limits
from llada.text import TextModel

OPTIONS = ("temperature", "top_p", "top_k")
_TOKEN_IDS = ("stop_token_ids", "suppress_tokens")
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"
}  # fmt: skip


def decoder(body: Body, text: TextModel, limits: Limits) -> Sampler:
    """The sampler that a request asks for.

    Args:
        body: ``sampler`` is a preset's name, or an object of its ``name`` and arguments; ``temperature``, ``top_p`` and
            ``top_k`` hold for whichever sampler it is; ``response_format`` may be a regular expression.
        text: model and tokenizer, with the sampler for those who ask for none.
        limits: how large an expression's automaton and the sampler's numbers may be.

    Raises:
        ValueError: if there is no such preset, it doesn't take what is asked, or the sampler keeps to no expression.
    """
    chosen = body.take("sampler")
    options = {name: value for name in OPTIONS if (value := body.number(name)) is not None}
    if "top_k" in options:
        if not options["top_k"].is_integer() or not 1 <= options["top_k"] <= text.tokenizer.vocab_size:
            raise ValueError(
                f"top_k must be a whole number from 1 to {text.tokenizer.vocab_size}; got {options['top_k']:g}"
            )
        options["top_k"] = int(options["top_k"])
    sampler = (
        text.decoding if chosen is None else preset_of(chosen, options, limits.max_steps, text.tokenizer.vocab_size)
    )
    for name, value in options.items() if chosen is None else ():
        sampler = with_argument(sampler, name, value)
    pattern = _expression(body.take("response_format"))
    if pattern is None:
        return sampler
    rule = RegularExpression(pattern, text.tokenizer, tuple(sorted(text.stop_token_ids)), max_states=limits.max_states)
    return sampler.with_adjustments(rule)


def preset_of(chosen: Any, options: dict[str, Any], most: int, vocab_size: int) -> Sampler:
    """A preset, built with its arguments.

    Args:
        chosen: its name, or an object of ``name`` and arguments.
        options: more arguments.
        most: that a whole number among them may be, such as of steps: a loop of as many would hold up all others.
        vocab_size: token ids are below it.

    Raises:
        ValueError: if there is no such preset, or it doesn't take the arguments.
    """
    given = {"name": chosen} if isinstance(chosen, str) else chosen
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError(f'sampler must be a name, or {{"name": ..., arguments}}; got {chosen!r:.80}')
    arguments = {name: value for name, value in {**given, **options}.items() if name != "name"}
    if given["name"] not in PRESETS:
        raise ValueError(f"there is no sampler {given['name']!r:.80}; there are {', '.join(sorted(PRESETS))}")
    build = PRESETS[given["name"]]
    known = inspect.signature(build).parameters
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(f"{given['name']} takes no {name}; it takes {', '.join(known)}")
        reach = range(vocab_size) if name in _TOKEN_IDS else range(-most, most + 1)
        check_argument(name, value, known[name].annotation, reach)
    try:
        return build(**{n: tuple(v) if isinstance(v, list) else v for n, v in arguments.items()})
    except TypeError as error:
        raise ValueError(f"{given['name']} can't be built with {arguments!r:.200}: {error}") from error


def check_argument(name: str, value: Any, kind: Any, reach: range) -> None:
    """Look at an argument before anything is built with it.

    Args:
        name: of the argument.
        value: what the JSON has.
        kind: the argument's type.
        reach: what a whole number may be.

    Raises:
        ValueError: if it is of another kind, or out of reach.
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    numbers = value if isinstance(value, list) else [value]
    listed = [get_args(each)[0] for each in kinds if isinstance(value, list) and get_args(each)]
    if not all(any(_is(number, each) for each in listed or kinds) for number in numbers) or (
        isinstance(value, list) and not listed
    ):
        names = [_WORDS.get(each, "a list of numbers" if get_args(each) else str(each)) for each in kinds]
        raise ValueError(f"{name} must be {' or '.join(dict.fromkeys(names))}; got {value!r:.80}")
    for number in numbers:
        if type(number) is int and number not in reach:
            raise ValueError(f"{name} may be from {reach[0]} to {reach[-1]}; got {str(number)[:20]}")


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _expression(asked: Any) -> str | None:
    if asked is None or asked == {"type": "text"}:
        return None
    if isinstance(asked, dict) and asked.get("type") == "regex" and isinstance(asked.get("pattern"), str):
        return cast(str, asked["pattern"])
    raise ValueError(
        'response_format must be {"type": "text"} or {"type": "regex", "pattern": "..."}; '
        f"got {asked!r:.120}. JSON can be asked for by an expression"
    )


def describe(text: TextModel) -> list[dict[str, Any]]:
    """Name, arguments with defaults and first line of every preset, and whether texts have a likelihood under it."""
    found: list[dict[str, Any]] = []
    for name, build in sorted(PRESETS.items()):
        parameters = inspect.signature(build).parameters.values()
        sampler = build(temperature=1.0) if any(p.name == "temperature" for p in parameters) else build()
        defaults = {p.name: p.default for p in parameters if isinstance(p.default, int | float | str | None)}
        line = (inspect.getdoc(build) or "").partition("\n")[0]
        found.append({"name": name, "options": defaults, "about": line, "likelihood": sampler.likelihood_gap is None})
    return found

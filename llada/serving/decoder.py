"""How a request is decoded: the server's own sampler, or a preset by its name with arguments of its own."""

import inspect
from typing import Any, cast

from llada.samplers import PRESETS, RegularExpression, Sampler
from llada.samplers.changed import with_argument
from llada.serving.body import Body
from llada.text import TextModel

OPTIONS = ("temperature", "top_p", "top_k")


def decoder(body: Body, text: TextModel, max_states: int) -> Sampler:
    """The sampler that a request asks for.

    Args:
        body: ``sampler`` is a preset's name, or an object of its ``name`` and arguments; ``temperature``, ``top_p`` and
            ``top_k`` hold for whichever sampler it is; ``response_format`` may be a regular expression.
        text: model and tokenizer, with the sampler for those who ask for none.
        max_states: states of the automaton of an expression.

    Raises:
        ValueError: if there is no such preset, it doesn't take what is asked, or the sampler keeps to no expression.
    """
    chosen = body.take("sampler")
    options = {name: value for name in OPTIONS if (value := body.number(name)) is not None}
    if "top_k" in options:
        options["top_k"] = int(options["top_k"])
    sampler = text.decoding if chosen is None else preset_of(chosen, options)
    for name, value in options.items() if chosen is None else ():
        sampler = with_argument(sampler, name, value)
    pattern = _expression(body.take("response_format"))
    if pattern is None:
        return sampler
    rule = RegularExpression(pattern, text.tokenizer, tuple(sorted(text.stop_token_ids)), max_states=max_states)
    return sampler.with_adjustments(rule)


def preset_of(chosen: Any, options: dict[str, Any]) -> Sampler:
    """A preset, built with its arguments.

    Args:
        chosen: its name, or an object of ``name`` and arguments.
        options: more arguments.

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
        if isinstance(value, list | dict) and name not in ("stop_token_ids", "suppress_tokens"):
            raise ValueError(f"{name} must be a number, text, true or false; got {value!r:.80}")
    try:
        return build(**{n: tuple(v) if isinstance(v, list) else v for n, v in arguments.items()})
    except TypeError as error:
        raise ValueError(f"{given['name']} can't be built with {arguments!r:.200}: {error}") from error


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

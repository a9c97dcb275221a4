"""``llada samplers [NAME]``: the decoding methods that have a name, and what each takes."""

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from llada.checkpoints.describe import describe
from llada.cli.boundary import Misunderstood
from llada.cli.kinds import Word
from llada.cli.nearest import no_such
from llada.cli.options import run
from llada.samplers import PRESETS, Sampler

DRAWN = {"exact": " At temperature 1 it has an exact one.", "bound": " At temperature 1 it has a bound."}
"""What is said of presets whose defaults are greedy."""


def samplers(name: Word | None = None, jsonl: bool = False) -> None:
    """The decoding methods, their arguments, their sources, and whether they have an exact likelihood.

    Args:
        name: the one to explain; default: list all.
        jsonl: print JSON objects, one per line.
    """
    if name is not None and name not in PRESETS:
        raise Misunderstood(no_such("preset", name, PRESETS))
    chosen = list(PRESETS) if name is None else [name]
    if jsonl:
        for each in chosen:
            print(json.dumps(entry(each)))
    elif name is None:
        _print_table()
    else:
        print(explained(name))


def entry(name: str) -> dict[str, Any]:
    """What is known of a preset.

    Args:
        name: of the preset.

    Returns:
        ``name``, ``arguments`` with their defaults, ``summary``, ``source`` (paper; None if it is this library's own or
        names none), ``likelihood`` ("exact", "bound" or "none"), ``likelihood_gap``, the reason for none, and
        ``likelihood_drawn``, what ``likelihood`` is at temperature 1.
    """
    build = PRESETS[name]
    document = inspect.getdoc(build) or ""
    default, parameters = build(), inspect.signature(build).parameters
    drawn = build(temperature=1.0) if "temperature" in parameters else default
    return {
        "name": name,
        "arguments": {p.name: p.default for p in parameters.values()},
        "summary": document.partition("\n\n")[0].replace("\n", " "),
        "source": source_of(document),
        "likelihood": likelihood_of(default),
        "likelihood_gap": default.likelihood_gap,
        "likelihood_drawn": likelihood_of(drawn),
    }


def likelihood_of(sampler: Sampler) -> str:
    """Whether a text has a likelihood under a sampler: "exact", "bound" for the mean over its coins, or "none"."""
    if sampler.likelihood_gap is not None:
        return "none"
    return "exact" if getattr(sampler, "is_exact", False) else "bound"


def source_of(document: str) -> str | None:
    """The section "Reference" of a docstring, on one line; None if there is none."""
    _, found, rest = document.partition("Reference:\n")
    text = " ".join(line.strip() for line in rest.splitlines()) if found else ""
    return text.strip() or None


def explained(name: str) -> str:
    """A preset in words: signature, docstring, likelihood, and the same sampler in YAML.

    Args:
        name: of the preset.
    """
    build, known = PRESETS[name], entry(name)
    signature = inspect.signature(build)
    arguments = [f"    {parameter}," for parameter in signature.parameters.values()]
    meaning = {
        "exact": "a text has an exact likelihood under it: llada score MODEL --sampler " + name,
        "bound": "its positions are drawn, so that a text has a bound: llada score MODEL --sampler " + name,
        "none": f"a text has no likelihood under it: {known['likelihood_gap']}",
    }[known["likelihood"]]
    drawn = "" if known["likelihood_drawn"] == known["likelihood"] else DRAWN[known["likelihood_drawn"]]
    return "\n".join(
        [
            f"{name}(",
            *arguments,
            ")",
            "",
            inspect.getdoc(build) or "",
            "",
            f"With its defaults {meaning}.{drawn}",
            "",
            f"llada sample MODEL --sampler {name}{_example(build)}",
            "",
            "In YAML:",
            *_yaml({"class_path": f"llada.samplers.{name}", "init_args": known["arguments"]}, 1),
            "",
            "The same in its parts:",
            *_yaml(describe(build()), 1),
        ]
    )


def _example(build: Callable[..., Sampler]) -> str:
    first = next(iter(inspect.signature(build).parameters.values()), None)
    return "" if first is None or first.default is None else f" --sampler.{first.name} {json.dumps(first.default)}"


def _yaml(part: Any, depth: int) -> list[str]:
    """A described part, in the layout of the configurations."""
    text = yaml.safe_dump({"sampler": _plain(part)}, sort_keys=False, default_flow_style=False)
    return ["  " * depth + line for line in text.splitlines()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _print_table() -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, fold in (
        ("preset", "fold"),
        ("arguments of its own", "fold"),
        ("likelihood", "fold"),
        ("source", "fold"),
    ):
        table.add_column(title, overflow=fold)  # type: ignore[arg-type]
    shared = _shared()
    for name in PRESETS:
        known = entry(name)
        own = ", ".join(f"{key}={value!r}" for key, value in known["arguments"].items() if key not in shared)
        said, drawn = known["likelihood"], known["likelihood_drawn"]
        said = said if drawn == said else f"{drawn} if drawn"
        table.add_row(name, own, said, (known["source"] or "").partition(";")[0])
    console.print(table, markup=False)
    console.print(f"\nAlso, where a method can have them: {', '.join(shared)}.", markup=False)
    console.print(
        "llada samplers NAME explains one. likelihood: of a text under the method's defaults, see llada score; "
        "if drawn: at temperature 1, where the default is greedy."
    )


def _shared() -> tuple[str, ...]:
    from llada.samplers.published.preset import Common

    return tuple(inspect.get_annotations(Common))


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(samplers, command, arguments)

"""``--temperature``, ``--steps``, ``--block_length``, ``--threshold``: one argument of the sampler, by its short name.

Beside ``--sampler PRESET`` each is the preset's argument of that name. Without it, each changes the sampler that the
model would use anyhow: the one part of it which has an argument of that name.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from llada.cli.boundary import Misunderstood
from llada.cli.shared import CHANGES, GROUPS
from llada.samplers import PRESETS, Sampler
from llada.samplers.changed import having, with_argument

if TYPE_CHECKING:  # it takes Lightning along, which `llada samplers` does without
    from llada.text import TextModel

NAMES = tuple(GROUPS[CHANGES])


@dataclass(frozen=True)
class SamplerChanges:
    """Arguments to be changed in the sampler that is used; None leaves one as it is.

    Args:
        temperature: of the draw.
        steps: model calls for the canvas.
        block_length: tokens per block.
        threshold: least probability of what is written.
    """

    temperature: float | None = None
    steps: int | None = None
    block_length: int | None = None
    threshold: float | None = None

    def __call__(self, sampler: Sampler) -> Sampler:
        """The sampler with the changes.

        Raises:
            ValueError: if no part of it, or more than one, has such an argument.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                sampler = with_argument(sampler, field.name, value)
        return sampler

    def __bool__(self) -> bool:
        """Whether anything is to be changed."""
        return self != SamplerChanges()

    @property
    def given(self) -> str:
        """The options that were given, for a sentence."""
        return " and ".join(f"--{f.name}" for f in fields(self) if getattr(self, f.name) is not None)


def changed(text: "TextModel", changes: SamplerChanges) -> "TextModel":
    """The model with the changes in the sampler that it uses; exceptions as in `SamplerChanges`."""
    return replace(text, sampler=changes(text.decoding)) if changes else text


def into_preset(words: Sequence[str]) -> list[str]:
    """``--sampler fast_dllm --threshold 0.8`` -> ``--sampler fast_dllm --sampler.threshold 0.8``.

    Args:
        words: of the command line.

    Raises:
        Misunderstood: if the preset has no such argument, naming those that have it.
    """
    named = [end.rpartition(".")[2] for word, end in _values(words) if word == "--sampler"]
    if not named or named[0] not in PRESETS:
        return list(words)
    kept: list[str] = []
    moved: list[str] = []  # behind the name of the preset
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in NAMES:
            kept.append(word)
            continue
        if name not in inspect.signature(PRESETS[named[0]]).parameters:
            raise Misunderstood(
                f"the preset {named[0]} has no {name}; these have it: {', '.join(having(name))}"
                f" (`llada samplers {named[0]}` shows its arguments)"
            )
        moved += [f"--sampler.{name}", value if equals else next(rest, "")]
    return kept + moved


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        yield name, value if equals else (words[index + 1] if index + 1 < len(words) else "")

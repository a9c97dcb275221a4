"""No number that an argument's type allows ends in anything but an object, or a sentence that names it.

The arguments are those of the class's own example; one after the other is set to values at and beyond the ends of its
type. Whether an object with such a value is of use is for the tests of its class.
"""

import contextlib
import doctest
import inspect
import io
import math
import signal
import types
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from llada.checkpoints.signatures import constructor_hints
from tests.test_class_examples import BUILT, example

WHOLE = (0, -1, 2**63)
REAL = (0.0, -1.5, 0.5, 1e308, math.inf, math.nan)
SECONDS = 5
GONE = {"JsonTokenizer", "SentencePieceTokenizer"}
"""Their examples read files that are gone afterwards."""


class TooLong(Exception):
    """A value took an absurd time, or would take an absurd amount of memory."""


def values(kind: Any) -> tuple[float, ...]:
    """Those at the ends of a type, or of the types of a union."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    parts = typing.get_args(kind) if union else (kind,)
    return REAL if float in parts else WHOLE if int in parts else ()


def arguments(each: type) -> dict[str, Any] | None:
    """What a class's example gives it first; None if it gives it nothing by name."""
    seen: list[dict[str, Any]] = []
    original = each.__init__  # type: ignore[misc]
    signature = inspect.signature(original)
    if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        return None

    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is each:
            bound = dict(signature.bind(self, *args, **kwargs).arguments)
            more = next((name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), "")
            seen.append(bound.pop(more, {}) | bound)
        original(self, *args, **kwargs)

    shown = example(each)
    assert shown is not None
    with mock.patch.object(each, "__init__", recording), contextlib.redirect_stdout(io.StringIO()):
        doctest.DocTestRunner(verbose=False).run(shown, out=lambda text: None)
    return {name: value for name, value in seen[0].items() if name != "self"} if seen else None


def cases(each: type) -> Iterator[tuple[dict[str, Any], str]]:
    """Arguments with one of them changed, and which."""
    given = arguments(each)
    if given is None:
        return
    for name, kind in constructor_hints(each).items():
        for value in values(kind):
            yield {**given, name: value}, name


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_shown(each: type) -> bool:
    return each.__name__ not in GONE and inspect.isfunction(each.__init__) and example(each) is not None  # type: ignore[misc]


CLASSES = [each for _, each in BUILT if is_shown(each)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_a_number_makes_an_object_or_is_named(each: type) -> None:
    for given, name in cases(each):
        value = given[name]
        tried = f"{each.__name__}({name}={value})"
        told = tried
        try:
            with in_time():
                each(**given)
        except ValueError as error:
            told = str(error).replace(",", "")
        except Exception as error:
            raise AssertionError(f"{tried}: {error!r}") from error
        assert any(word in told for word in (name, str(value), f"{value:g}")), f"{tried}: {told}"

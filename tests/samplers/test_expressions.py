"""From an expression to its automaton: the same texts as `re.fullmatch`, and never more states or work than allowed."""

import random
import re
from itertools import product

import pytest

from llada.samplers import RegularExpression
from llada.samplers.constraints import budget
from llada.samplers.constraints.automaton import compile_expression, token_automaton
from llada.samplers.constraints.characters import CharacterAutomaton
from tests.samplers.test_regular import TOKENS

pytest.importorskip("interegular", reason="the extra regex isn't installed")
TEXTS = ["".join(letters) for length in range(5) for letters in product("abcd", repeat=length)]
LEAVES = ["a", "b", "c", ".", "[ab]", "[^a]", r"\w", ""]
REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{,2}", "{2,}"]


def matches(automaton: CharacterAutomaton, text: str) -> bool:
    state = 0
    for character in text:
        state = automaton.step[state][automaton.kinds.get(character, automaton.other)]
        if state < 0:
            return False
    return bool(automaton.final[state])


def expression(dice: random.Random, depth: int) -> str:
    kind = dice.random()
    if depth == 0 or kind < 0.3:
        return dice.choice(LEAVES)
    inner, other = expression(dice, depth - 1), expression(dice, depth - 1)
    if kind < 0.5:
        return inner + other
    if kind < 0.65:
        return f"(?:{inner}|{other})"
    if kind < 0.85:
        return f"(?:{inner}){dice.choice(REPEATS)}"
    return f"(?{dice.choice('=!')}{inner}){other}"


def test_random_expressions_match_what_python_matches() -> None:
    dice, compared = random.Random(5), 0
    for _ in range(150):
        pattern = expression(dice, 4)
        expected = [re.fullmatch(pattern, text) is not None for text in TEXTS]
        try:
            automaton = compile_expression(pattern)
        except ValueError as error:
            reason = str(error)
        else:
            reason = ""
        if reason:
            assert "looks ahead of the end of its group" in reason or not any(expected), (pattern, reason)
            continue
        assert [matches(automaton, text) for text in TEXTS] == expected, pattern
        compared += 1
    assert compared > 120


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("", 1), ("(.*.*)*", 1), ("(foo|bar|baz)*", 5), ("(a|b){100}", 101), (r"\d{4}-\d{2}-\d{2}", 11), ("(?i)ab", 3)],
)
def test_the_automaton_is_minimal(pattern: str, count: int) -> None:
    assert len(compile_expression(pattern).step) == count


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("[a-z]{1,5000}", "1024 parts"),
        ("[a-z]{1,100}", "64 states"),
        ("a{100000}", "1024 parts"),
        ("(a{100}){100}", "1024 parts"),
        ("((?:){99999}){99999}", "1024 parts"),
        (".{0,300}x.{0,300}", "parts"),
        (r"\w{0,40}\d{0,40}", "64 states"),
        ("([ab]*a[ab]{14})", "64 states"),
        ("(?=.*a.{18}).*", "64 states"),
        ("(?!.*a.{18}).*", "64 states"),
    ],
)
def test_what_takes_too_much_is_refused_with_the_limit(pattern: str, what: str) -> None:
    with pytest.raises(ValueError, match=rf"needs more than .*{what}.* max_states=64.*--regex_max_states") as caught:
        RegularExpression(pattern, TOKENS, max_states=64)
    assert str(caught.value).startswith(repr(pattern))


@pytest.mark.parametrize("pattern", ["[\U00010000-\U0010ffff]{50}", r"[\U00010000-\U0010ffff]", "[a-\uffff][a-\uffff]"])
def test_ranges_of_too_many_characters_are_refused(pattern: str) -> None:
    """Each character of a range is looked at on its own, and there are a million."""
    with pytest.raises(ValueError, match=r"spells out \d+ characters .* more than the 65536 that are taken; write"):
        compile_expression(pattern)
    assert compile_expression("[\u4e00-\u9fff]+x-y").step.shape[0] == 5


def test_work_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_WORK", 20)
    with pytest.raises(ValueError, match=r"'\(a\?\)\{40\}' needs more than 1280 steps of work"):
        compile_expression("(a?){40}", 64)
    assert len(compile_expression("(ab?){5}", 64).step) == 11
    monkeypatch.setattr(budget, "_ENTRIES", 1)
    with pytest.raises(ValueError, match="needs more than 12 entries in its table over tokens"):
        token_automaton("a{3}b", TOKENS, max_states=12)
    assert len(token_automaton("a{3}b", TOKENS, max_states=64).next) == 7


def test_the_limit_is_a_switch() -> None:
    with pytest.raises(ValueError, match="needs more than 1024 states"):
        compile_expression("[a-z]{1,5000}")
    assert len(RegularExpression("[ab]{1,70}", TOKENS, max_states=71).automaton.next) == 73
    with pytest.raises(ValueError, match="more than 70 states, the limit for max_states=70"):
        RegularExpression("[ab]{1,70}", TOKENS, max_states=70)
    with pytest.raises(ValueError, match="max_states must be 1 or more; got 0"):
        RegularExpression("a", TOKENS, max_states=0)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?#c)a", r"hasn't \(a comment\)"),
        ("(?<=a)b", "hasn't"),
        ("(?:(?=.*b)a)b", "looks ahead of the end of its group"),
        ("a{99999999999999999}", "is no regular expression: the repetition number is too large"),
        ("(" * 3000 + "a" + ")" * 3000, r"\.\.\.' is no regular expression: it is nested too deeply"),
        ("(" * 400 + "a" + ")" * 400, "recursion"),
        ("x{5,2}", "min repeat greater than max"),
        ("a(?=b)", "matches no text at all"),
    ],
)
def test_what_is_not_to_be_had_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        compile_expression(pattern)
    assert len(str(caught.value)) < 500

# ruff: noqa: E501
"""Templates of somebody else end with a reason: whatever they do, nothing hangs and no memory fills."""

import resource
import sys

import pytest

from llada.data import JinjaTemplate, Message
from llada.data.chat import template_budget
from llada.data.chat.template_budget import Budget, OverLimitError, weight
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from tests.tiny_checkpoint import write_checkpoint

MANY = "for _ in range(99999)"
ATTACKS = {
    "copies of a text": "{{ 'a' * 10**9 }}",
    "copies of a list": "{{ [0] * 10**9 }}",
    "copies of a tuple": "{{ (10**9 * (0, 1)) | length }}",
    "copies of bytes": "{{ 'a'.encode() * 10**9 }}",
    "copies of copies": "{% set x = ['a' * 10**6] * 10**3 %}{{ x | length }}{{ x | join }}",
    "center": "{{ 'a'.center(10**10) }}",
    "center as a filter": "{{ 'a' | center(10**10) }}",
    "center over a list": "{{ ['a'] | map('center', 10**10) | list }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "keyword": "{{ '\\t'.expandtabs(tabsize=10**9) }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "tojson": "{{ [[1]] | tojson(indent=10**9) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "old format": "{{ '%1000000000d' % 1 }}",
    "old format, width apart": "{{ '%*d' % (10**9, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format, width apart": "{{ '{:{}}'.format(1, 10**9) }}",
    "format as a filter": "{{ '%1000000000d' | format(1) }}",
    "format of much": "{{ ('{0}' * 10**5).format('a' * 10**5) }}",
    "replace": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "replace as a filter": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "join": "{{ ('a' * 10**6).join('b' * 10**6) }}",
    "join as a filter": "{{ range(99999) | join('b' * 10**6) }}",
    "translate": "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
    "wordwrap": "{{ ('a ' * 10**5) | wordwrap(1, wrapstring='x' * 10**5) }}",
    "power": "{{ 10**(10**10) }}",
    "products": "{% set n = namespace(x=2**1000000) %}{% " + MANY + " %}{% set n.x = n.x * n.x %}{% endfor %}",
    "nested loops": "{% " + MANY + " %}{% " + MANY + " %}{% endfor %}{% endfor %}",
    "filtered loops": "{% " + MANY + " %}{% " + MANY + " if false %}{% endfor %}{% endfor %}",
    "printing loops": "{% " + MANY + " %}" + "y" * 1000 + "{% endfor %}",
    "doubling": "{% set n = namespace(x='aa') %}{% " + MANY + " %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(x='aa') %}{% " + MANY + " %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by blocks": "{% set n = namespace(x='a') %}{% " + MANY + " %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = y %}{% endfor %}",
    "doubling of lists": "{% set n = namespace(x=[1]) %}{% for _ in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubling of objects": "{% set n = namespace(x=1) %}{% for _ in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}"
    "{% endfor %}{{ n.x | tojson }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "macros in macros": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "loops in loops": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "filler": "{{ lipsum(n=100000) }}",
    "range": "{{ range(10**7) | list }}",
    "sum": "{{ ([[1] * 10**4] * 10**4) | sum(start=[]) | length }}",
    "tags": "{{ ('<!---->' * 10**6) | striptags }}",
    "pieces": "{{ ('\u4e2d\u6587' * 10**7) | list | length }}",
    "words": "{{ ('a ' * 10**7) | title | length }}",
    "split": "{{ ('ab' * 10**7).split('a') | length }}",
    "pprint": "{{ ([1] * 200000) | pprint }}",
    "lists": "{% set n = namespace(x=[]) %}{% for _ in range(500) %}{% set n.x = n.x + [range(99999) | list] %}{% endfor %}",
    "chain": "{{ 1" + "+1" * 5000 + " }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "nothing": "{{ 1 // 0 }}",
    "no remainder": "{{ 1 % 0 }}",
    "overflow": "{{ 2.0 ** 10000 }}",
    "too many digits": "{{ 10 ** 10000 }}",
    "no such file": "{% include 'x' %}",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep loops": "{% for x in [1] %}" * 40 + "{% endfor %}" * 40,
    "long": "x" * 100_001,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return JsonTokenizer(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_ends_with_a_reason(tokenizer: JsonTokenizer, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 20_000), ("SECONDS", 1.0), ("ENTRIES", 120_000)):  # of the same kind, and sooner over
        monkeypatch.setattr(template_budget, name, value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"the chat template (failed: .+; it begins with|is malformed|has 100,001)"):
        JinjaTemplate(source).prompt([Message("user", "x")], tokenizer)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here


@pytest.mark.parametrize("made", ["[1, 2]", "{'a': 1}", "(1, 2)", "'ab' ~ 'cd'", "not [1]", "{'a': [1, 'b' ~ 'c']}.a"])
def test_every_list_and_joined_text_is_paid_for(
    tokenizer: JsonTokenizer, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_budget, "PER_CHARACTER", 0)
    monkeypatch.setattr(template_budget, "CHARACTERS", 400)
    source = "x{% for _ in range(100) %}{% set x = EXPRESSION %}{% endfor %}"
    assert JinjaTemplate(source.replace("EXPRESSION", "'a'")).prompt([Message("user", "x")], tokenizer)
    with pytest.raises(ValueError, match=r"it makes more than [0-9]+ characters"):
        JinjaTemplate(source.replace("EXPRESSION", made)).prompt([Message("user", "x")], tokenizer)


def test_a_source_that_cannot_be_looked_through(tokenizer: JsonTokenizer) -> None:
    with pytest.raises(ValueError, match="the chat template is malformed: maximum recursion"):
        JinjaTemplate(ATTACKS["chain"]).prompt([Message("user", "x", {"weight": 1})], tokenizer)


def test_what_templates_do_is_allowed(tokenizer: JsonTokenizer) -> None:
    source = (
        "{% set n = namespace(all='') %}{% for m in messages %}{% set n.all = n.all ~ '%s: {}\n'.format(m.content) % m.role %}"
        "{% endfor %}{{ n.all | indent(2) | trim }}{{ '-'.join(['a'] * 3) }}{{ 2 ** 10 + 7 % 4 }}{{ {'a': [1, 2]} | tojson(indent=2) }}"
        "{{ '%*d' % (3, 1) }}"
    )
    chat = [Message("user", "x" * 1000), Message("assistant", "y")] * 50
    text = tokenizer.decode(JinjaTemplate(source).prompt(chat, tokenizer))
    assert (
        text
        == "\n".join(f"  {m.role}: {m.content}" for m in chat).strip()
        + 'a-a-a1027{\n  "a": [\n    1,\n    2\n  ]\n}  1'
    )


def test_long_conversations_are_allowed(tokenizer: JsonTokenizer) -> None:
    chat = [Message("user", "boat " * 20_000), Message("assistant", "river")] * 5
    source = "{% for m in messages %}{{ ('<|eot_id|>' + m.content + '\n').strip() }}{% endfor %}"
    assert len(JinjaTemplate(source).prompt(chat, tokenizer)) > 100_000


def test_what_is_weighed() -> None:
    assert weight("abc", 9) == 4
    assert weight(["ab", {"k": (1, None)}], 99) == 1 + 3 + 1 + 2 + 1 + 1 + 1
    assert weight(["ab" * 50], 999, texts=False) == 2
    doubled: list[object] = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert 1000 < weight(doubled, 1000) < 1100
    with pytest.raises(OverLimitError, match=r"it makes more than 3 characters"):
        Budget(characters=3).made("abcd")
    budget = Budget(characters=10)
    assert (budget.made("abc"), budget.characters) == ("abc", 6)
    with pytest.raises(OverLimitError, match="more than 10 seconds"):
        Budget(9, deadline=0.0).step()


UNSAFE = (
    "{{ messages.append(1) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ raise_exception.__globals__.x }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ strftime_now.__wrapped__.x }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ ([1] | map(attribute='__class__') | first).x }}",
)


@pytest.mark.parametrize("source", UNSAFE)
def test_the_sandbox_is_as_tight_as_jinjas_own(tokenizer: JsonTokenizer, source: str) -> None:
    with pytest.raises(ValueError, match=r"unsafe|undefined|has no attribute"):
        JinjaTemplate(source).prompt([Message("user", "x")], tokenizer)

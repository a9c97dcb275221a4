"""Arithmetic as text: + - * / and brackets over decimal numbers, by a parser of its own and in exact fractions.

    sum     = product (("+" | "-") product)*
    product = sign (("*" | "/") sign)*
    sign    = ("+" | "-")* atom
    atom    = number | "(" sum ")"

Text of a model is data: nothing of it is run. There are no powers and no names, and length, digits and depth are
bounded, so that no text takes long.
"""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_LENGTH, MAX_DIGITS, MAX_DEPTH = 400, 30, 40
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|([-+*/()]))")
_SAME = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


class Value(NamedTuple):
    """What an expression says.

    Attributes:
        value: exact.
        numbers: the numbers that stand in it, in order.
    """

    value: Fraction
    numbers: list[Fraction]


def evaluate(text: str) -> Value | None:
    """The value of an expression; None if the text is none, divides by 0, or is too long.

    Args:
        text: ASCII digits with + - * / and brackets; × · ÷ and the typographic minus are read, too.
    """
    tokens = _tokens(text.translate(_SAME))
    if tokens is None:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except (_NotAnExpression, ZeroDivisionError):
        return None
    return Value(value, parser.numbers) if parser.next is None else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text, such as 1,234.5 or -7; None if there is none, or it has too many digits."""
    found = _NUMBER.findall(text[-10_000:])
    if not found or len(found[-1]) > MAX_DIGITS:
        return None
    return Fraction(found[-1].replace(",", "").replace("−", "-"))


def _tokens(text: str) -> list[str] | None:
    if len(text) > MAX_LENGTH or not text.isascii():
        return None
    found, at, text = [], 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(match[0]) > MAX_DIGITS + 20 or len(match[1] or "") > MAX_DIGITS:
            return None
        found.append(match[1] or match[2])
        at = match.end()
    return found


class _NotAnExpression(Exception):
    pass


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.numbers = tokens, 0, list[Fraction]()

    @property
    def next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> str:
        token = self.next
        if token is None:
            raise _NotAnExpression
        self.at += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.next in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.sign(depth)
        while self.next in ("*", "/"):
            value = value * self.sign(depth) if self.take() == "*" else value / self.sign(depth)
        return value

    def sign(self, depth: int) -> Fraction:
        factor = 1
        while self.next in ("+", "-"):
            factor = -factor if self.take() == "-" else factor
        return factor * self.atom(depth)

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(" and depth < MAX_DEPTH:
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise _NotAnExpression
            return value
        if not (token[0].isdigit() or token[0] == "."):
            raise _NotAnExpression
        self.numbers.append(Fraction(token))
        return self.numbers[-1]

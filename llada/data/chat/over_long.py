"""What becomes of a row that has more tokens than a row may have.

    Refuse      an error that names the row
    DropRow     the row is left out
    DropChat    no answer of its chat becomes a row
    CutTurns    its oldest turns are left out, until it fits
    CutRight    the end of the answer is cut off

What `CutTurns` and `CutRight` can't make fit (a last question, or a prompt, that is too long itself) is left out.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from llada.data.chat.chat_template import ChatRow
from llada.data.chat.conversations import USER, Message

Write = Callable[[Sequence[Message]], ChatRow]
"""Makes the row of a conversation that ends with an answer."""


class OverLong(ABC):
    """What becomes of over-long rows."""

    takes_the_chat: ClassVar[bool] = False
    """Whether the other rows of the chat are left out as well."""
    told: ClassVar[str] = ""
    """What happened to rows that were made to fit, in a few words."""

    @abstractmethod
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        """A row of at most ``max_length`` tokens; None if there is to be none.

        Args:
            row: which is too long.
            messages: the turns that it was made from, the answer at the end.
            write: makes the row of other turns.
            max_length: tokens that a row may have.

        Raises:
            ValueError: if the data are to be refused.
        """


@dataclass(frozen=True)
class Refuse(OverLong):
    """An error: nothing is lost unseen.

    Examples:
        >>> from llada.data import Refuse
        >>> from llada.data.chat.chat_template import ChatRow
        >>> Refuse().fit(ChatRow(prompt=[1, 2], answer=[3, 4, 5]), [], write=None, max_length=4)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: the row has 5 tokens, but max_length is 4; raise it, ...
    """

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        raise ValueError(
            f"the row has {size(row)} tokens, but max_length is {max_length}; raise it, shorten the text, or say what "
            "becomes of such rows: over_long=llada.data.DropRow(), DropChat(), CutTurns() or CutRight()"
        )


@dataclass(frozen=True)
class DropRow(OverLong):
    """The row is left out; earlier answers of the chat, which are shorter, stay.

    Examples:
        >>> from llada.data import DropRow
        >>> from llada.data.chat.chat_template import ChatRow
        >>> DropRow().fit(ChatRow(prompt=[1, 2], answer=[3, 4, 5]), [], write=None, max_length=4) is None
        True
    """

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        return None


@dataclass(frozen=True)
class DropChat(OverLong):
    """The whole chat is left out.

    Examples:
        >>> from llada.data import DropChat, DropRow
        >>> from llada.data.chat.chat_template import ChatRow
        >>> DropChat().fit(ChatRow(prompt=[1, 2], answer=[3, 4, 5]), [], write=None, max_length=4) is None
        True
        >>> DropChat.takes_the_chat, DropRow.takes_the_chat  # whether earlier answers of the chat go with it
        (True, False)
    """

    takes_the_chat: ClassVar[bool] = True

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        return None


@dataclass(frozen=True)
class CutTurns(OverLong):
    """The oldest turns are left out, so that the row begins with a later question; system messages in front stay.

    Examples:
        >>> from llada.data import CutTurns, Message
        >>> from llada.data.chat.chat_template import ChatRow
        >>> chat = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
        >>> write = lambda turns: ChatRow([ord(turn.content) for turn in turns[:-1]], [ord(turns[-1].content)])
        >>> CutTurns().fit(write(chat), chat, write, max_length=3)
        ChatRow(prompt=[99], answer=[100])
    """

    told: ClassVar[str] = "without their oldest turns"

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        questions = [index for index, message in enumerate(messages) if message.role == USER]
        kept = messages[: questions[0]] if questions else []
        for start in questions[1:]:
            shorter = write([*kept, *messages[start:]])
            if size(shorter) <= max_length:
                return shorter
        return None


@dataclass(frozen=True)
class CutRight(OverLong):
    """The end of the answer is cut off, its end of turn with it, so that nothing is learnt of where it ends.

    Examples:
        >>> from llada.data import CutRight
        >>> from llada.data.chat.chat_template import ChatRow
        >>> row = ChatRow(prompt=[1, 2], answer=[3, 4, 5])
        >>> CutRight().fit(row, [], write=lambda messages: row, max_length=4)
        ChatRow(prompt=[1, 2], answer=[3, 4])
    """

    told: ClassVar[str] = "without the end of their answers"

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        room = max_length - len(row.prompt)
        return row._replace(answer=row.answer[:room]) if room > 0 else None


@dataclass
class Account:
    """What was counted while rows were made.

    Attributes:
        rows: of any length.
        over_long: rows with more tokens than a row may have.
        fitted: of those, rows that were made to fit.
        left_out: rows that there are not: over-long ones, and with `DropChat` those beside them.
        empty: rows whose answer says nothing.
        first_empty: where the first of these stands.
        equal: pairs whose answers are the same.
        first_equal: where the first of these stands.
        kind: the word for what is counted.
    """

    rows: int = 0
    over_long: int = 0
    fitted: int = 0
    left_out: int = 0
    empty: int = 0
    first_empty: str = ""
    equal: int = 0
    first_equal: str = ""
    kind: str = "rows"

    def warnings(self, max_length: int, policy: OverLong) -> list[str]:
        """What the user should know, a sentence each."""
        said = []
        if self.over_long:
            ends = Counter({policy.told: self.fitted, "left out": self.left_out})
            parts = ", ".join(f"{count} {end}" for end, count in ends.items() if count)
            said.append(f"{self.over_long} of {self.rows} {self.kind} have more than {max_length} tokens: {parts}")
        if self.empty:
            said.append(
                f"{self.empty} of {self.rows} answers say nothing, the first one at {self.first_empty}; a model learns "
                "from them to end at once"
            )
        if self.equal:
            said.append(
                f"{self.equal} of {self.rows} {self.kind} have two equal answers, the first one at {self.first_equal}; "
                "nothing but noise can be learnt from them"
            )
        return said


def fit_answers(
    rows: Sequence[ChatRow], turns: Sequence[Sequence[Message]], write: Write, policy: OverLong, max_length: int
) -> list[ChatRow] | None:
    """Rows of several answers to one prompt: the longest decides what is left of the prompt, for all of them.

    Args:
        rows: one for each answer.
        turns: what each was made from.
        write: makes the row of other turns.
        policy: for what is too long.
        max_length: tokens that a row may have.

    Returns:
        The rows; None if one can't be made to fit, or if nothing is left in which the answers differ.
    """
    longest = max(range(len(rows)), key=lambda index: size(rows[index]))
    if size(rows[longest]) <= max_length:
        return list(rows)
    fitted = policy.fit(rows[longest], turns[longest], write, max_length)
    if fitted is None:
        return None
    found = [row._replace(prompt=fitted.prompt) for row in rows]
    found[longest] = fitted
    cut = [
        row if size(row) <= max_length else policy.fit(row, messages, write, max_length)
        for row, messages in zip(found, turns, strict=True)
    ]
    kept = [row for row in cut if row is not None]
    differ = len({tuple(row.answer) for row in kept}) == len({tuple(row.answer) for row in rows})
    return kept if len(kept) == len(rows) and differ else None


def size(row: ChatRow) -> int:
    """Tokens of a row."""
    return len(row.prompt) + len(row.answer)

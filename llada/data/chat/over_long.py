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
    """An error: nothing is lost unseen."""

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        raise ValueError(
            f"the row has {size(row)} tokens, but max_length is {max_length}; raise it, shorten the text, or say what "
            "becomes of such rows: over_long=llada.data.DropRow(), DropChat(), CutTurns() or CutRight()"
        )


@dataclass(frozen=True)
class DropRow(OverLong):
    """The row is left out; earlier answers of the chat, which are shorter, stay."""

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        return None


@dataclass(frozen=True)
class DropChat(OverLong):
    """The whole chat is left out."""

    takes_the_chat: ClassVar[bool] = True

    @override
    def fit(self, row: ChatRow, messages: Sequence[Message], write: Write, max_length: int) -> ChatRow | None:
        return None


@dataclass(frozen=True)
class CutTurns(OverLong):
    """The oldest turns are left out, so that the row begins with a later question; system messages in front stay."""

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
    """The end of the answer is cut off, its end of turn with it, so that nothing is learnt of where it ends."""

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
    """

    rows: int = 0
    over_long: int = 0
    fitted: int = 0
    left_out: int = 0
    empty: int = 0
    first_empty: str = ""

    def warnings(self, max_length: int, policy: OverLong) -> list[str]:
        """What the user should know, a sentence each."""
        said = []
        if self.over_long:
            ends = Counter({policy.told: self.fitted, "left out": self.left_out})
            parts = ", ".join(f"{count} {end}" for end, count in ends.items() if count)
            said.append(f"{self.over_long} of {self.rows} rows have more than {max_length} tokens: {parts}")
        if self.empty:
            said.append(
                f"{self.empty} of {self.rows} answers say nothing, the first one at {self.first_empty}; a model learns "
                "from them to end at once"
            )
        return said


def size(row: ChatRow) -> int:
    """Tokens of a row."""
    return len(row.prompt) + len(row.answer)

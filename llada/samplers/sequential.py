"""What decoders have in common that write a canvas from left to right, as a next-token model would."""

from dataclasses import replace
from functools import cached_property
from typing import Self

from typing_extensions import override

from llada.samplers.from_state import StateSampler
from llada.samplers.propose import Proposal
from llada.samplers.stopping import TokenIds


class SequentialSampler(StateSampler):
    """Draws each token given what is to its left, and never changes it; a row ends behind a stop token.

    Subclasses are frozen dataclasses with these fields.
    """

    temperature: float
    top_p: float | None
    top_k: int | None
    stop_token_ids: TokenIds
    suppress_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        _ = self.proposal  # whose checks are run

    @cached_property
    def proposal(self) -> Proposal:
        """How a token is drawn."""
        return Proposal(self.temperature, self.top_p, self.top_k, self.suppress_tokens)

    @override
    def stopping(self, stop_token_ids: TokenIds) -> Self:
        return replace(self, stop_token_ids=stop_token_ids)  # type: ignore[type-var] # a dataclass

    @property
    @override
    def is_final(self) -> bool:
        return True

    @property
    @override
    def left_to_right(self) -> bool:
        return True

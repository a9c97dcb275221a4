"""What a request may ask for."""

from dataclasses import dataclass

from llada.samplers.constraints.budget import MAX_STATES


@dataclass(frozen=True)
class Limits:
    """Bounds of one request.

    Args:
        num_new_tokens: tokens of an answer if the request doesn't say.
        max_new_tokens: tokens that an answer may have.
        max_choices: answers of one request.
        max_bytes: size of a request's body.
        max_states: states of the automaton of a regular expression.
        max_steps: steps that a sampler may be asked for, and every other whole number among its arguments.

    Raises:
        ValueError: if one is less than 1, or the default more than the most.

    Examples:
        >>> from llada.serving import Limits
        >>> Limits(num_new_tokens=256, max_choices=4).max_new_tokens
        4096
    """

    num_new_tokens: int = 128
    max_new_tokens: int = 4096
    max_choices: int = 16
    max_bytes: int = 1 << 20
    max_states: int = MAX_STATES
    max_steps: int = 4096

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")
        if self.num_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"num_new_tokens={self.num_new_tokens} is more than max_new_tokens={self.max_new_tokens}; ask for fewer"
            )

"""What all parts of a sampler share: each says itself which other parts it can't work with."""

from typing import Any, ClassVar


class Part:
    """A part of a sampler.

    Attributes:
        reads_drawn: whether it looks at tokens that were drawn in this step (``state.drawn``, ``state.probability``).
            Where no part does, a text has a likelihood under the sampler (`llada.samplers.likelihood`).
        by_chance: whether it draws random numbers to choose positions or times.
    """

    reads_drawn: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False

    def check(self, sampler: Any) -> None:
        """Whether this part can work with the others; called when a sampler is put together.

        Args:
            sampler: the sampler, whose parts are attributes such as ``sampler.order`` and ``sampler.window``.

        Raises:
            ValueError: if it can't; the message says why and what to use instead.
        """
        return

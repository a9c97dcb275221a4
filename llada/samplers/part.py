"""What all parts of a sampler share: each says itself which other parts it can't work with."""

from typing import Any


class Part:
    """A part of a sampler."""

    def check(self, sampler: Any) -> None:
        """Whether this part can work with the others; called when a sampler is put together.

        Args:
            sampler: the sampler, whose parts are attributes such as ``sampler.order`` and ``sampler.window``.

        Raises:
            ValueError: if it can't; the message says why and what to use instead.
        """
        return

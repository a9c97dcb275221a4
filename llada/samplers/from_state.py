"""What all loops begin with: the state of a canvas."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.process import Process
from llada.random import RowRandom
from llada.samplers.sampler import Sampler, Step
from llada.samplers.state import State


class StateSampler(Sampler):
    """A sampler whose loop goes on from the `State` of a canvas."""

    @override
    def iterate(
        self,
        model: Any,
        tokens: Tensor,
        process: Process,
        *,
        given: Tensor | None = None,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> Iterator[Step]:
        state = self.begin(tokens, process, given, seed, model_kwargs)
        return torch.no_grad()(self._steps)(model, state, model_kwargs)

    def begin(
        self, tokens: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        """The state before the first step; arguments as in `Sampler.iterate`.

        Raises:
            ValueError: if the sampler has no steps under this process, or the canvas isn't one.
        """
        random = RowRandom.from_seed(seed, len(tokens), tokens.device)
        return State.begin(process, tokens, given, random, model_kwargs.get("attention_mask"))

    def begin_text(
        self, text: Tensor, process: Process, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        """The state before a finished text is written that is to be scored; arguments as in `Sampler.likelihood`.

        Raises:
            ValueError: as in `begin`, and if the text holds a mask where it is scored.
        """
        given = torch.zeros_like(text, dtype=torch.bool) if given is None else given
        state = self.begin(text, process, given, seed, model_kwargs)
        if bool((process.is_masked(text) & state.open).any()):
            raise ValueError(
                f"the text holds the mask token {process.mask_token_id} at a position that is to be scored; give a "
                "finished text, and mark by given= what isn't to be scored"
            )
        return state

    @abstractmethod
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """The loop; whether there are gradients is the caller's business.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            state: before the first step.
            model_kwargs: for the model.

        Raises:
            ValueError: if the model doesn't fit.
        """

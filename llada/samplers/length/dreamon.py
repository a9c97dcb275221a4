"""DreamOn: two tokens by which a network says itself that there are too few masks, or too many.

    expand written at a mask:  it becomes two masks        delete (EOS) written at a mask:  it goes

The network is an ordinary one of fixed size; `llada.objectives.MergedMasks` teaches it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.length.policy import Asked, Change, LengthPolicy
from llada.samplers.state import State


@dataclass(frozen=True)
class DreamOn(LengthPolicy):
    """Obeys the tokens ``expand`` and ``delete``, which are never part of the text.

    Where a row has no room, or has made ``expand_steps`` calls, ``expand`` has probability 0; so decoding ends. The
    authors count expansions instead of calls, and keep one budget per run.

    Args:
        expand_token_id: such as 151667 in DreamOn's vocabulary.
        delete_token_id: the token whose mask goes; None: the first stop token of the sampler (EOS).
        expand_steps: calls in which a row may expand.

    Raises:
        ValueError: if the two tokens are one, or ``expand_steps`` is negative.

    Reference:
        Wu et al., "DreamOn: Diffusion Language Models for Code Infilling Beyond Fixed-Size Canvas" (2025); the released
        evaluation code.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import DreamOn, PerStep, ResizingSampler, UnmaskingSampler
        >>> short = lambda tokens: tokens.shape[1] < 6  # the model wants four tokens between the two that are given
        >>> model = lambda tokens: 9.0 * torch.eye(6)[torch.full_like(tokens, 3 if short(tokens) else 1)]
        >>> policy = DreamOn(expand_token_id=3, delete_token_id=4)
        >>> sampler = ResizingSampler(UnmaskingSampler(PerStep(1)), policy, stop_token_ids=2, max_new_tokens=8)
        >>> for step in sampler.iterate(model, torch.tensor([[0, 5, 0]]), MaskingProcess(5)):
        ...     print(*step.tokens[0].tolist())  # 5 is the mask
        0 5 0
        0 5 5 0
        0 5 5 5 0
        0 5 5 5 5 0
        0 1 5 5 5 0
        0 1 1 5 5 0
        0 1 1 1 5 0
        0 1 1 1 1 0
    """

    expand_token_id: int
    delete_token_id: int | None = None
    expand_steps: int = 128

    def __post_init__(self) -> None:
        if self.expand_token_id == self.delete_token_id:
            raise ValueError(f"the tokens that expand and delete must differ; got {self.expand_token_id} for both")
        if self.expand_steps < 0:
            raise ValueError(f"expand_steps must be 0 or more; got {self.expand_steps}")

    @override
    def adjusted(self, logits: Tensor, state: State, room: Tensor) -> Tensor:
        if not 0 <= self.expand_token_id < logits.shape[-1]:
            raise ValueError(
                f"expand_token_id={self.expand_token_id} is outside of the model's vocabulary of {logits.shape[-1]}"
            )
        barred = (room <= 0) | (state.calls >= self.expand_steps)
        column = logits[..., self.expand_token_id].masked_fill(barred[:, None], -torch.inf)
        index = torch.tensor([self.expand_token_id], device=logits.device)
        return logits.index_copy(-1, index, column[..., None])

    @override
    def __call__(self, asked: Asked) -> Change:
        delete = asked.stop_token_ids[0] if self.delete_token_id is None else self.delete_token_id
        expands = asked.spread(asked.taken & (asked.state.drawn == self.expand_token_id))
        deletes = asked.spread(asked.taken & (asked.state.drawn == delete))
        room = (asked.most - asked.length + deletes.sum(1)).clamp(min=0)
        fits = expands & (expands.cumsum(1) <= room[:, None])  # the others stay one mask
        change = Change.none(asked)
        change.insert[:, :-1] += fits.long()
        return replace(change, delete=deletes, again=expands)

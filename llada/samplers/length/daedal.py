"""DAEDAL: a masked model's own word on how long its answer should be, without any training.

The end of an answer is full of EOS if there is room enough. How sure the model is of that,

    c = 1 / n  sum of p_i(EOS) over the last n positions i whose favourite is EOS,

counts twice. Before decoding: while c is small, masks are appended. In each step of it: while c isn't large, the least
sure of the block's masks becomes several.

Shapes: B rows, L columns of the canvas, M columns that the model was asked about.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.samplers.length.policy import Asked, Change, LengthPolicy
from llada.samplers.state import State


@dataclass(frozen=True)
class Daedal(LengthPolicy):
    """DAEDAL's rules; how many tokens a step writes is the sampler's part (``Threshold(0.9)`` in the paper).

    First masks are appended, ``expand_by`` at a time and one call each, until the confidence of the end is at least
    ``end_threshold``; then half of ``end_tokens`` EOS tokens, which the model sees as text. In each step the least
    likely proposal of the block that isn't written is replaced by ``expand_by`` masks, if it is below ``low_threshold``
    and the confidence of the end below ``expand_end_threshold``. No row gets longer than it may; what doesn't fit falls
    off its end.

    As in the authors' code, and unlike the words of the paper, c looks at all positions behind the prompt. The mask
    token is never written here, so it has no part in probabilities either.

    Args:
        end_threshold: c up to which masks are appended before decoding.
        expand_end_threshold: c from which on no mask is expanded.
        end_tokens: n.
        low_threshold: a proposal whose probability is below this may be expanded.
        expand_by: masks that are appended at a time, and that one mask becomes.

    Raises:
        ValueError: if a number of tokens is less than 1.

    Reference:
        Li et al., "Beyond Fixed: Training-Free Variable-Length Denoising for Diffusion Large Language Models", arXiv
        2508.00819.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Daedal, ResizingSampler, Threshold, UnmaskingSampler
        >>> words = torch.tensor([1] * 6 + [2] * 99)  # what the model would write: the text ends in column 6
        >>> model = lambda tokens: 9.0 * torch.eye(4)[words[: tokens.shape[1]]][None]
        >>> decode, policy = UnmaskingSampler(Threshold(0.9)), Daedal(expand_by=4, end_tokens=2)
        >>> sampler = ResizingSampler(decode, policy, stop_token_ids=2, max_new_tokens=16)
        >>> for step in sampler.iterate(model, torch.tensor([[0, 3, 3]]), MaskingProcess(3)):
        ...     print(*step.tokens[0].tolist())  # 3 is the mask: first there is room, then an end, then the text
        0 3 3
        0 3 3 3 3 3 3
        0 3 3 3 3 3 3 3 3 3 3
        0 3 3 3 3 3 3 3 3 3 3 2
        0 1 1 1 1 1 2 2 2 2 2 2
    """

    looks_everywhere: ClassVar[bool] = True
    end_threshold: float = 0.5
    expand_end_threshold: float = 0.9
    end_tokens: int = 32
    low_threshold: float = 0.1
    expand_by: int = 8

    def __post_init__(self) -> None:
        if self.end_tokens < 1 or self.expand_by < 1:
            raise ValueError(f"end_tokens and expand_by must be 1 or more; got {self.end_tokens} and {self.expand_by}")

    @property
    @override
    def prepares(self) -> bool:
        return True

    @override
    def watched(self, state: State, real: Tensor) -> Tensor:
        return real & ~state.given

    @override
    def __call__(self, asked: Asked) -> Change:
        sure, length = self.end_confidence(asked), asked.length
        change = self._before(asked, sure, length)
        expand = self._expanded(asked) & (~asked.waiting & (sure < self.expand_end_threshold))[:, None]
        expand = expand & (length < asked.most)[:, None]
        return self._with_masks(asked, change, expand, length)

    def end_confidence(self, asked: Asked) -> Tensor:
        """C of each row, (B,) float64."""
        state, end = asked.state, asked.stop_token_ids[0]
        counts = asked.watched & (state.logits.argmax(-1) == end)
        behind = counts.flip(1).cumsum(1).flip(1)  # such positions from here on
        p = (state.logits[..., end] - state.logits.logsumexp(-1)).double().exp()
        return p.masked_fill(~counts | (behind > self.end_tokens), 0.0).sum(1) / self.end_tokens

    def _before(self, asked: Asked, sure: Tensor, length: Tensor) -> Change:
        """What rows get that still wait for their length: masks, or the EOS tokens with which decoding begins."""
        room = (asked.most - length).clamp(min=0)
        grows = asked.waiting & (sure < self.end_threshold) & (room > 0)
        begins = asked.waiting & ~grows
        number = torch.where(grows, self.expand_by, self.end_tokens // 2) * asked.waiting
        change = Change.none(asked)
        change.insert[:, -1] = torch.minimum(number, room)
        return replace(change, ended=begins, waiting=grows)

    def _expanded(self, asked: Asked) -> Tensor:
        """The column of each row that is likeliest to be wrong, if it is unlikely enough; (B, M) bool."""
        p = asked.state.probability.masked_fill(~asked.state.valid | asked.taken, torch.inf)
        least = torch.zeros_like(asked.taken).scatter(1, p.argmin(1, keepdim=True), True)
        return least & (p < self.low_threshold)

    def _with_masks(self, asked: Asked, change: Change, expand: Tensor, length: Tensor) -> Change:
        """Insert masks in front of the expanded columns, and drop what then doesn't fit at the rows' ends."""
        at, real = asked.spread(expand), asked.real
        behind = (real & (at.cumsum(1) > 0)).sum(1) - expand.any(1).long()  # tokens to the right of the column
        more = self.expand_by - 1
        over = ((length + more - asked.most).clamp(min=0)) * expand.any(1)
        dropped = torch.minimum(over, behind)
        insert = change.insert.clone()
        insert[:, :-1] += at * (more - (over - dropped))[:, None]
        from_end = (real.flip(1).cumsum(1)).flip(1)  # 1 at the last real column
        return replace(change, insert=insert, delete=real & (from_end <= dropped[:, None]))

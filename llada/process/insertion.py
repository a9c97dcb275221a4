"""Tokens that are absent at first, then masked, then clean: rows have no length beforehand (FlexMDM).

Read backwards, from t = 1 to t = 0, every token of a row comes by itself as a mask, and later the mask becomes the
token. Noising it is two clocks: with u and v uniform, m the share of absent tokens and b that of masks,

    absent at t   if  u < m(t),                       so it came at the time a with m(a) = u
    masked at t   if  not absent and v < b(t) / b(a),
    clean  at t   otherwise.

For linear schedules P(absent) = t, P(masked) = -t log t, P(clean) = 1 - t + t log t. Absent tokens leave no trace in a
row: it closes up. Behind each token or mask that is there is a gap, in which tokens may be missing. What a network must
say is the token of each mask, and how many are missing in each gap. The latter is read from the logit of the mask
token, which no token's softmax needs:

    expected number of tokens missing in a gap  =  m(t) exp(logit of the mask at the token in front of it).

The factor m(t) is what a network that isn't told the time can't know: when t is near 0, next to nothing is missing.

Shapes: B rows, L columns of a batch, N columns when its rows have closed up.

Reference: Kim et al., "Any-Order Flexible Length Masked Diffusion" (FlexMDM), arXiv 2509.01025.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from llada.noise import LinearSchedule, NoiseSchedule
from llada.process.columns import Edit
from llada.process.masked import MaskingProcess
from llada.process.noised import Noised
from llada.random import RowRandom


class Thinned(NamedTuple):
    """A batch of which tokens are absent.

    Attributes:
        tokens: clean tokens and masks, closed up, (B, N) int64.
        x_0: the clean tokens of the same columns, (B, N) int64.
        real: (B, N) bool, true for everything but padding.
        masked: (B, N) bool, the tokens that are masks.
        gaps: (B, N) bool, whether tokens may be missing behind each: not between two given tokens.
        missing: (B, N) int64, how many tokens are missing directly behind each.
    """

    tokens: Tensor
    x_0: Tensor
    real: Tensor
    masked: Tensor
    gaps: Tensor
    missing: Tensor


@dataclass(frozen=True)
class InsertionProcess(MaskingProcess):
    """Masked diffusion whose tokens also come and go.

    Args:
        mask_token_id: id of the mask token, whose logit says how many tokens are missing.
        schedule: of masks, b(t); only ratios of it count, so that a residue at t = 1 (``eps``) changes nothing.
        time_conditioned: whether the backbone takes the total noise sigma(t) = -log alpha(t) of ``schedule`` as the
            keyword ``sigma``. Here the best network depends on the time, so it helps.
        insertion: of absent tokens, m(t).

    Raises:
        ValueError: if ``mask_token_id`` is negative.

    Examples:
        >>> import torch
        >>> from llada.process import InsertionProcess
        >>> from llada.random import RowRandom
        >>> rows = torch.arange(8)[None]
        >>> here, gaps, everywhere = rows > 0, rows >= 0, rows >= 0
        >>> process = InsertionProcess(mask_token_id=9)
        >>> thinned = process.thin(rows, torch.tensor([0.5]), here, gaps, everywhere, random=RowRandom.from_seed(1, 1))
        >>> thinned.tokens
        tensor([[0, 1, 2, 9, 9, 9]])
    """

    predicts_mask: ClassVar[bool] = False  # type: ignore[misc]
    inserts: ClassVar[bool] = True
    insertion: NoiseSchedule = field(default_factory=LinearSchedule)

    @override
    def corrupt(self, x_0: Tensor, t: Tensor, maskable: Tensor | None = None, *, random: RowRandom) -> Noised:
        raise ValueError(
            f"{type(self).__name__} also takes tokens away, so rows don't keep their length; use InsertionNELBO as "
            "objective, or MaskingProcess for rows whose length is known"
        )

    def thin(
        self, x_0: Tensor, t: Tensor, maskable: Tensor, gaps: Tensor, real: Tensor, *, random: RowRandom
    ) -> Thinned:
        """Draw which tokens are absent, masked and clean at a time.

        Args:
            x_0: clean tokens, (B, L) int64.
            t: times in (0, 1], (B,).
            maskable: (B, L) bool, False for tokens that are given and for padding.
            gaps: (B, L) bool, whether tokens may be missing behind each, see `gaps_of`.
            real: (B, L) bool, true for everything but padding, in one piece in each row.
            random: the rows' random streams.
        """
        u, v = (random.fold_in(clock).uniform(x_0.shape[1]) for clock in range(2))
        times = t.to(torch.float64)[:, None]
        absent = maskable & (u < self.insertion.mask_probability(times))
        came = self.schedule.mask_probability(self.insertion.time_at(u))
        masked = maskable & ~absent & (v * came < self.schedule.mask_probability(times))
        return self.without(x_0, gaps, real, absent, masked)

    def without(self, x_0: Tensor, gaps: Tensor, real: Tensor, absent: Tensor, masked: Tensor) -> Thinned:
        """A batch without its absent tokens; arguments (B, L) as in `thin`, and which tokens are absent or masked."""
        edit = Edit.of(real, absent)
        gone = absent.cumsum(1)
        kept, count = edit.real, edit(gone)
        following = torch.where(kept & ~_next(kept), gone[:, -1:], _next(count))
        hidden, clean = edit(masked, False), edit(x_0)
        return Thinned(
            tokens=clean.masked_fill(hidden, self.mask_token_id),
            x_0=clean,
            real=kept,
            masked=hidden,
            gaps=edit(gaps, False),
            missing=(following - count).masked_fill(~kept, 0),
        )

    def expected_missing(self, logits: Tensor, t: Tensor) -> Tensor:
        """How many tokens are missing behind some, by the network's word, float64.

        Args:
            logits: (..., V), at the tokens in front of the gaps.
            t: times, which broadcast to (...).
        """
        return self.insertion.mask_probability(t.to(torch.float64)) * logits[..., self.mask_token_id].double().exp()

    def insertion_weight(self, t: Tensor) -> Tensor:
        """m'(t) / m(t), how often a missing token comes per unit of time; the weight of the counts in the bound."""
        return self.insertion.loss_weight(t)

    def insertion_probability(self, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token which is missing at ``t`` has come by ``s``, which is earlier; of their shape."""
        return self.insertion.unmask_probability(t, s)


def gaps_of(maskable: Tensor, real: Tensor) -> Tensor:
    """Whether tokens may be missing behind each, (B, L) bool: behind a maskable token, and in front of one.

    Args:
        maskable: (B, L) bool, the tokens that may go.
        real: (B, L) bool, true for everything but padding.
    """
    return (maskable | _next(maskable)) & real


def _next(values: Tensor) -> Tensor:
    """What stands one column to the right, (B, L)."""
    return torch.nn.functional.pad(values, (0, 1))[:, 1:]

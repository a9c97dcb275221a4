"""Equal canvases of a batch computed once, as those of several answers to a prompt are before they part.

    f(z_b) = f(u_{n(b)}),   u the U different ones among the B canvases

Nothing is approximated: results are those of `NoCache` but for the rounding of a smaller batch, and gradients add up
over equal canvases.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.rows import flat_indices
from llada.samplers.caches.policy import NoCache, OpenCache, Plain


@dataclass(frozen=True)
class DistinctRows(NoCache):
    """The whole canvas in every step, and each of several equal ones once.

    For groups of answers to one prompt, above all where a policy that learns from rewards grows sure
    (`llada.rewards`): its answers then differ late or never. Finding equal rows waits for the device.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import DistinctRows, PerStep, UnmaskingSampler
        >>> def model(tokens):
        ...     print(len(tokens))
        ...     return torch.eye(4)[tokens * 0 + 2]
        >>> sampler = UnmaskingSampler(PerStep(1), cache=DistinctRows())
        >>> sampler(model, torch.full((100, 2), 3), MaskingProcess(3)).tokens.unique(dim=0)
        1
        1
        tensor([[2, 2]])
    """

    @override
    def open(self, denoiser: Denoiser, first: Tensor, length: int, model_kwargs: dict[str, Any]) -> OpenCache:
        return _Distinct(denoiser)


class _Distinct(Plain):
    @override
    def logits(self, tokens: Tensor, where: Tensor | None = None, **model_kwargs: Any) -> Tensor:
        of_rows = {
            name: value
            for name, value in model_kwargs.items()
            if isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(tokens)
        }
        number, first = _numbered([tokens, *of_rows.values()])
        few = model_kwargs | {name: value[first] for name, value in of_rows.items()}
        chosen = flat_indices(tokens, where)
        if where is None or chosen is None:
            return self.denoiser.logits(tokens[first], **few)[number]
        length = tokens.shape[1]
        wanted = number[chosen // length] * length + chosen % length
        asked = torch.zeros(len(first) * length, dtype=torch.bool, device=tokens.device).index_fill(0, wanted, True)
        logits = self.denoiser.logits(tokens[first], asked.view(-1, length), **few)
        logits = logits[(asked.cumsum(0) - 1)[wanted]]
        return logits if where.dtype == torch.bool else logits.view(*where.shape, -1)


def _numbered(columns: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The number of each row among the U different ones, (B,) int64, and where each of these is first, (U,) int64.

    Rows are told apart by a number made of all their entries, which is faster than sorting them, and then compared.

    Args:
        columns: (B, ...) each; rows are equal if they are in all of them.
    """
    flat = [column.reshape(len(column), -1) for column in columns]
    number = torch.stack([_digest(each) for each in flat], 1).sum(1).unique(return_inverse=True)[1]
    first = _first_of_each(number)
    if all(torch.equal(each, each[first][number]) for each in flat):
        return number, first
    each = [column.unique(dim=0, return_inverse=True)[1] for column in flat]
    number = torch.stack(each, 1).unique(dim=0, return_inverse=True)[1]
    return number, _first_of_each(number)


def _digest(column: Tensor) -> Tensor:
    """(B, N) to (B,) int64: equal for equal rows, and for hardly any others."""
    bits = column.double().view(torch.int64) if column.is_floating_point() else column.long()
    random = torch.Generator().manual_seed(bits.shape[1])
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=random).to(bits.device)
    return (bits * (2 * factors + 1)).sum(1)  # of integers that wrap around


def _first_of_each(number: Tensor) -> Tensor:
    rows = torch.arange(len(number), device=number.device)
    count = int(number.max()) + 1
    return torch.full_like(rows[:count], len(rows)).scatter_reduce(0, number, rows, "amin")

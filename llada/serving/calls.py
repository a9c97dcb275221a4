"""Model calls of several samplers in one: rows of different lengths, padded in front, and what each asked for of it.

Calls share a batch where nothing but their rows differs: they give the model the same arguments, and each of these is
the attention mask or has a number per row. A row whose length is less than half of the longest waits for a batch of its
own, which costs less than its padding.

On a CPU no call gives the head less than `LEAST_ROWS` rows, so that what a row is told doesn't depend on who else asks,
to the last bit.

Shapes: b rows of a call, L columns of its canvas, M wanted positions per row, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from llada.denoiser import BackboneDenoiser, Denoiser
from llada.heads.prepacked import PrepackedHead

T = TypeVar("T")
LEAST_ROWS = 4
"""Of a matrix product on a CPU. Of one to three rows it is another routine, whose sums are rounded in another way; from
four on a row's result is the same whoever is beside it (oneDNN and MKL, as tried)."""


def steady(denoiser: Denoiser) -> Denoiser:
    """A denoiser whose calls are many, so that its head is prepared at the first one and rounds alike in all.

    Args:
        denoiser: changed in place where it has a head.
    """
    if isinstance(denoiser, BackboneDenoiser):
        denoiser.prepacked = PrepackedHead(calls_that_pay=1)
    return denoiser


@dataclass(frozen=True, eq=False)
class Call:
    """What a sampler asks a `Denoiser` for; arguments as those of `Denoiser.logits`."""

    tokens: Tensor
    where: Tensor | None
    model_kwargs: dict[str, Any]

    @property
    def wanted(self) -> Tensor:
        """The positions, (b, L) bool."""
        nowhere = torch.zeros_like(self.tokens, dtype=torch.bool)
        if self.where is None:
            return ~nowhere
        return self.where if self.where.dtype == torch.bool else nowhere.scatter(1, self.where, True)

    def answer(self, logits: Tensor) -> Tensor:
        """What `Denoiser.logits` would have given, of the logits (N, V) at the wanted positions in row-major order."""
        if self.where is None:
            return logits.view(*self.tokens.shape, -1)
        if self.where.dtype == torch.bool:
            return logits
        ranks = self.wanted.flatten().cumsum(0).view_as(self.tokens) - 1
        return logits[ranks.gather(1, self.where)]

    @property
    def kind(self) -> object:
        """Equal for those that may share a batch."""
        others = {name: value for name, value in self.model_kwargs.items() if name != "attention_mask"}
        if any(not isinstance(value, Tensor) or value.dim() != 1 for value in others.values()):
            return self
        return sorted((name, str(value.dtype)) for name, value in others.items())


def answers(calls: Sequence[Call], denoiser: Denoiser) -> list[Tensor | Exception]:
    """What the model says to each call, or why it can't.

    Args:
        calls: of any kind.
        denoiser: the model.
    """
    return _in_parts(calls, batches(calls), denoiser)


def batches(calls: Sequence[Call]) -> Iterator[list[int]]:
    """The indices of those that share a batch, longest first.

    Args:
        calls: of any kind.
    """
    for batch in alike(range(len(calls)), lambda index: calls[index].kind):
        rest = sorted(batch, key=lambda index: -calls[index].tokens.shape[1])
        while rest:
            longest = calls[rest[0]].tokens.shape[1]
            near = sum(2 * calls[index].tokens.shape[1] >= longest for index in rest)
            yield rest[:near]
            rest = rest[near:]


def alike(members: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Groups of those with equal keys, which need no hash, in the order of their first members."""
    found: list[tuple[object, list[T]]] = []
    for member in members:
        own = key(member)
        same = next((group for other, group in found if other == own), None)
        found.append((own, [member])) if same is None else same.append(member)
    return [group for _, group in found]


def _answers(calls: Sequence[Call], denoiser: Denoiser) -> list[Tensor | Exception]:
    """As `answers`, of those that share a batch.

    A call that can't be answered is no other's trouble, and some models know of no padding: if one batch fails, those
    of one length are tried, and then each alone.
    """
    try:
        return list(_together(calls, denoiser))
    except Exception as error:
        if len(calls) == 1:
            return [error]
    by_length = alike(range(len(calls)), lambda index: calls[index].tokens.shape[1])
    smaller = by_length if len(by_length) > 1 else [[index] for index in range(len(calls))]
    return _in_parts(calls, smaller, denoiser)


def _in_parts(calls: Sequence[Call], parts: Iterable[list[int]], denoiser: Denoiser) -> list[Tensor | Exception]:
    found: dict[int, Tensor | Exception] = {}
    for part in parts:
        found.update(zip(part, _answers([calls[index] for index in part], denoiser), strict=True))
    return [found[index] for index in range(len(calls))]


def _together(calls: Sequence[Call], denoiser: Denoiser) -> list[Tensor]:
    if len(calls) == 1 and (calls[0].tokens.device.type != "cpu" or int(calls[0].wanted.sum()) >= LEAST_ROWS):
        return [denoiser.logits(calls[0].tokens, calls[0].where, **calls[0].model_kwargs)]
    width = max(call.tokens.shape[1] for call in calls)

    def rows(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(part, (width - part.shape[1], 0)) for part in parts])

    real = rows([_real(call) for call in calls])
    kwargs = {
        name: torch.cat([call.model_kwargs[name] for call in calls]) if len(calls) > 1 else value
        for name, value in calls[0].model_kwargs.items()
        if name != "attention_mask"
    }
    if not bool(real.all()):
        kwargs["attention_mask"] = real
    wanted = [call.wanted for call in calls]
    numbers = torch.stack([each.sum() for each in wanted]).tolist()
    asked = rows(wanted)
    where = _enough(asked, real, LEAST_ROWS - sum(numbers)) if real.device.type == "cpu" else asked
    logits = denoiser.logits(rows([call.tokens for call in calls]), where, **kwargs)
    logits = logits if where is asked else logits[asked[where]]
    return [call.answer(part) for call, part in zip(calls, logits.split(numbers), strict=True)]


def _enough(wanted: Tensor, real: Tensor, missing: int) -> Tensor:
    """The wanted positions, and others until none is missing, (b, L) bool."""
    if missing <= 0:
        return wanted
    others = (real & ~wanted).flatten().nonzero()[:missing, 0]
    return wanted.flatten().index_fill(0, others, True).view_as(wanted)


def _real(call: Call) -> Tensor:
    """What isn't padding, (b, L) bool."""
    mask = call.model_kwargs.get("attention_mask")
    return torch.ones_like(call.tokens, dtype=torch.bool) if mask is None else mask.bool()

"""Now and then a short batch, so that a model trained on full rows can also read and write short ones.

Reference: arXiv 2502.09992, section 2.2: 1% of the pretraining data has a random length.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from llada.objectives.design import LENGTH
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.process import Process
from llada.random import RowRandom


@dataclass(frozen=True)
class RandomLength(Objective):
    """Cut the whole batch to a random length with a small probability, then apply another objective.

    Args:
        inner: the objective.
        probability: of a cut, one coin per step for all ranks; the length is then uniform in 1..L.

    Raises:
        ValueError: if ``probability`` isn't in [0, 1].

    Examples:
        >>> import torch
        >>> from llada.objectives import NELBO, RandomLength
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> model, rows = lambda tokens: torch.zeros(*tokens.shape, 4), torch.zeros(2, 6, dtype=torch.int64)
        >>> always = RandomLength(NELBO(), probability=1.0)  # LLaDA: 0.01
        >>> output = always(model, MaskingProcess(4), rows, random=RowRandom.from_seed(0, 2))
        >>> output.num_tokens  # of 6 in each row
        tensor([4, 4])
    """

    inner: Objective
    probability: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must be in [0, 1]; got {self.probability}")

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        batch = columns(batch)
        full = batch["tokens"].shape[1]
        coin, place = random.fold_in(LENGTH).shared_uniform(2).tolist()
        length = 1 + int(place * full) if coin < self.probability else full

        def cut(value: Any) -> Any:
            per_token = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == full
            return value[:, :length] if per_token else value

        return self.inner(model, process, {name: cut(value) for name, value in batch.items()}, random=random)

    @override
    def bound_gap(self, process: Process) -> str | None:
        return (
            "it scores a part of some rows only; take the inner objective"
            if self.probability > 0
            else (self.inner.bound_gap(process))
        )

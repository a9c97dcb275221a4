"""Texts of any length: masks come where the network says that tokens are missing, and masks become tokens (FlexMDM).

In a step from time t to s, of what is there,

- each mask is written with probability 1 - b(s) / b(t): so many of them as these coins say, the first by an order;
- in each gap comes a number of masks that is Poisson distributed, with mean (1 - m(s) / m(t)) times what the network
  expects to be missing there.

The step that ends at 0 writes all masks and lets all come that are missing; one more call writes these. As the number
of steps grows, the text's law becomes that of the process; the error falls as 1 / steps.

Shapes: B rows, L columns of the canvas, M columns that the model is asked about.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import InsertionProcess, Process
from llada.process.columns import Edit
from llada.process.insertion import gaps_of
from llada.random import RowRandom
from llada.samplers.from_state import StateSampler
from llada.samplers.layout import first_true
from llada.samplers.length.room import check_room
from llada.samplers.order import Order, RandomOrder
from llada.samplers.part import check_parts
from llada.samplers.propose import Proposal, check_answers
from llada.samplers.run import write
from llada.samplers.sampler import Step
from llada.samplers.state import State
from llada.samplers.stopping import TokenIds

_ORDER, _DRAW, _COINS, _NUMBERS = range(4)


@dataclass(frozen=True)
class InsertionSampler(StateSampler):
    """Writes texts of any length under an `llada.process.InsertionProcess`.

    Each run of masks on the canvas is one gap, however many they are: they go, and the text that comes in their place
    is as long as the network finds it. A row begins with a token that is given, such as BOS or a prompt.

    Args:
        steps: K, of equal length in time; one call each, and one more where masks came in the last.
        max_new_tokens: most tokens that a row may get; what would come beyond them doesn't.
        order: which masks are written first. `RandomOrder` is the process; `Confidence` writes what is surest.
        proposal: how a token is drawn; temperature 1 samples from the model.

    Raises:
        ValueError: if a number is less than 1.

    Reference:
        Kim et al., "Any-Order Flexible Length Masked Diffusion", arXiv 2509.01025.

    Examples:
        >>> import torch
        >>> from llada.process import InsertionProcess
        >>> from llada.samplers import InsertionSampler
        >>> logits = torch.tensor([0.0, 9.0, 0.0])  # that of the mask, 2: exp(0) = 1 token is missing at each place
        >>> model = lambda tokens: logits.expand(*tokens.shape, 3)
        >>> sampler = InsertionSampler(steps=4, max_new_tokens=6)
        >>> for step in sampler.iterate(model, torch.tensor([[0, 2, 0]]), InsertionProcess(mask_token_id=2), seed=1):
        ...     print(*step.tokens[0].tolist())
        0 0
        0 2 0
        0 2 1 0
        0 1 1 0
        0 2 2 1 1 0
        0 1 1 1 1 0
    """

    steps: int = 64
    max_new_tokens: int = 256
    order: Order = field(default_factory=RandomOrder)
    proposal: Proposal = field(default_factory=lambda: Proposal(1.0))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_new_tokens < 1:
            raise ValueError(f"steps and max_new_tokens must be 1 or more; got {self.steps} and {self.max_new_tokens}")
        check_parts(self, (self.order, self.proposal))

    @property
    @override
    def likelihood_gap(self) -> str | None:
        return "masks come and go while it decodes, so that a text can come about in several ways"

    @override
    def stopping(self, stop_token_ids: TokenIds) -> Self:
        raise ValueError(
            f"{type(self).__name__} finds the length of a text by itself, without a token that ends it; give it "
            "max_new_tokens, and no UntilStop around it"
        )

    @override
    def begin(
        self, tokens: Tensor, process: Any, given: Tensor | None, seed: int | Tensor, model_kwargs: dict[str, Any]
    ) -> State:
        if not isinstance(process, InsertionProcess):
            raise ValueError(f"{process} inserts nothing; use InsertionProcess, or a sampler of fixed lengths")
        return super().begin(tokens, process, given, seed, model_kwargs)

    @override
    def _steps(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> Iterator[Step]:
        """As in `StateSampler`; of ``model_kwargs`` only ``attention_mask``.

        Raises:
            ValueError: if a row begins with an open position, or may become too long.
        """
        denoiser, random, rows = state.process.network(model), state.random, self._enter(model, state, model_kwargs)
        nothing = torch.full_like(rows.state.confidence, torch.nan)
        yield Step(rows.state.tokens, ~rows.real, nothing, rows.state.calls, rows.state.open, edit=rows.edit)
        for k in range(self.steps + 1):
            if not bool((rows.state.open if k == self.steps else rows.gaps).any()):
                return
            rows, step = self._step(denoiser, rows, k, random.fold_in(k))
            yield step

    def _enter(self, model: Any, state: State, model_kwargs: dict[str, Any]) -> "_Rows":
        """The rows without their masks."""
        if others := sorted(set(model_kwargs) - {"attention_mask"}):
            raise ValueError(f"columns move, and nothing is known of {others[0]} at new ones; leave it out")
        mask = model_kwargs.get("attention_mask")
        real = torch.ones_like(state.open) if mask is None else mask.bool()
        first = real & (real.cumsum(1) == 1)
        if bool((state.open & first).any()):
            raise ValueError(
                "every row must begin with a token that is given, for the first gap is behind it; give a prompt, or "
                "let texts begin with BOS (--bos true)"
            )
        edit = Edit.of(real, delete=state.open)
        gaps = edit(gaps_of(state.open, real) & ~state.open, False) & edit.real
        state = replace(state.moved(edit, _padding(state.process)), open=torch.zeros_like(edit.real))
        longest = int((state.offset[:, 0] + edit.real.sum(1)).max()) + self.max_new_tokens
        check_room(model, longest, self.max_new_tokens)
        return _Rows(state, edit.real, gaps, edit)

    def _step(self, denoiser: Denoiser, rows: "_Rows", k: int, random: RowRandom) -> tuple["_Rows", Step]:
        """One call: write masks, and let others come."""
        state, process = rows.state, rows.state.process
        begun, final = min(k, self.steps - 1), k == self.steps
        t, s = (torch.full_like(state.calls, self._time(n), dtype=torch.float64) for n in (begun, begun + 1))
        asked = state.open if final else state.open | rows.gaps
        columns, valid = first_true(asked, int(asked.sum(1).max()))
        inputs = process.conditioning(t)
        if not bool(rows.real.all()):
            inputs["attention_mask"] = rows.real
        logits = denoiser.logits(state.tokens, columns, **inputs)
        hidden = valid & state.open.gather(1, columns)
        state = replace(state, step=k, columns=columns, valid=hidden, random=random.fold_in(_ORDER))
        state = self.proposal(logits, state, random=random.fold_in(_DRAW))
        check_answers(state)
        chance = process.schedule.unmask_probability(t, s)[:, None]
        coins = random.fold_in(_COINS).uniform_at(state.positions) < chance
        scores = self.order(state).double().masked_fill(~hidden, -torch.inf)
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
        taken = hidden & (rank < (hidden & coins).sum(1, keepdim=True))
        state, step = write(state, taken, valid.any(1))
        if final:
            return replace(rows, state=state), step
        number = self._number(logits, rows, replace(state, valid=valid), (t, s), random.fold_in(_NUMBERS))
        return rows.grown(state, step, number)

    def _number(
        self, logits: Tensor, rows: "_Rows", state: State, times: tuple[Tensor, Tensor], random: RowRandom
    ) -> Tensor:
        """How many masks come behind each of the columns that were asked about, (B, M) int64."""
        process: Any = state.process
        mean = process.expected_missing(logits, times[0][:, None]) * process.insertion_probability(*times)[:, None]
        mean = mean.masked_fill(~(state.valid & rows.gaps.gather(1, state.columns)), 0.0)
        number = poisson_quantile(mean, random.uniform_at(state.positions), self.max_new_tokens)
        room = self.max_new_tokens - (rows.real & ~state.given).sum(1, keepdim=True)
        return torch.minimum(number, (room - (number.cumsum(1) - number)).clamp(min=0))

    def _time(self, step: int) -> float:
        """When a step begins, and the one before it ends."""
        return 1.0 - step / self.steps


@dataclass(frozen=True, eq=False)
class _Rows:
    """Where the rows stand.

    Attributes:
        state: the canvas.
        real: (B, L) bool, true for everything but padding.
        gaps: (B, L) bool, whether tokens may be missing behind each.
        edit: from the canvas before.
    """

    state: State
    real: Tensor
    gaps: Tensor
    edit: Edit

    def grown(self, state: State, step: Step, number: Tensor) -> tuple["_Rows", Step]:
        """The rows with new masks.

        Args:
            state: after the step's writing.
            step: what viewers see of it.
            number: (B, M) int64, masks behind each of the step's columns.
        """
        insert = number.new_zeros(len(number), self.real.shape[1] + 1).scatter_add(1, state.columns + 1, number)
        edit = Edit.of(self.real, insert=insert)
        state = state.moved(edit, _padding(state.process))
        changed, shown = edit(step.changed, True, False), edit(step.confidence, torch.nan)
        step = replace(step, tokens=state.tokens, open=state.open, changed=changed, confidence=shown, edit=edit)
        return _Rows(state, edit.real, edit(self.gaps, True, False), edit), step


def poisson_quantile(mean: Tensor, uniform: Tensor, most: int) -> Tensor:
    """The smallest number n with P(N <= n) > u for a Poisson number N, and no more than ``most``; int64.

    Args:
        mean: of N, (...) float64, 0 or more; infinity gives ``most``.
        uniform: u in (0, 1), (...) float64.
        most: 0 or more.
    """
    low, high = torch.zeros_like(mean, dtype=torch.int64), torch.full_like(mean, most, dtype=torch.int64)
    for _ in range(most.bit_length()):
        middle = (low + high) // 2
        enough = torch.special.gammaincc(middle.double() + 1.0, mean) > uniform
        low, high = torch.where(enough, low, (middle + 1).minimum(high)), torch.where(enough, middle, high)
    return high


def _padding(process: Process) -> int:
    """What stands behind shorter rows, hidden from the network: any token but the mask."""
    return int(process.mask_token_id == 0)

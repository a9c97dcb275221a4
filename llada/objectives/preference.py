"""Learning from preferences: of two answers to a prompt, one is better.

    loss = mean over pairs of [ link(d+, d-) + sft_weight NELBO(y+) / n+ ],       d = B(y) - B_ref(y)

B is the bound on log p(answer), estimated by n draws of noise, and the model and the reference read the same draws:
their difference varies far less than either. `llada.objectives.preference_links` has the losses.

Memory is that of one draw, and of one copy of it where a design reads rows several times, however many there are. A
first pass estimates all bounds and keeps no activations; the backward pass draws the same noise again, copy by copy,
and gives each its weight. This is activation checkpointing with a copy as the unit, so the gradient is that of the
whole loss, and works wherever autograd does.

Reference: Zhu et al., "LLaDA 1.5: Variance-Reduced Preference Optimization", arXiv 2505.19223, section 3; its estimator
is ``PreferenceObjective(design=IndependentMasks(UniformTimes(1e-3)), draws=8)``. Exact counts in complementary pairs
lower the variance of the margin for as many calls: to 0.3 of it on small models that are known exactly, to half on the
demo's (docs/preferences.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser, as_denoiser
from llada.objectives.design import Design, Draw
from llada.objectives.exact_counts import ComplementaryPairs
from llada.objectives.objective import Batch, Objective, ObjectiveOutput, columns
from llada.objectives.preference_links import Link, PairBounds, Sigmoid
from llada.objectives.preference_reader import AnswerReader
from llada.objectives.preference_reference import CHOSEN, FrozenCopy, Reading, Reference
from llada.process import Process
from llada.random import RowRandom

PREFIX = "rejected_"
"""Columns of the rejected answers are those of the chosen ones with this before their names."""

MARGIN = "preference_margin"
REPORTED = ("preference_loss", MARGIN, "preference_accuracy", "preference_noise_se", "preference_kl")
"""Names of the sums over pairs that an output has; the last two only where there is noise, and a reference."""


@dataclass(frozen=True)
class PreferenceOutput(ObjectiveOutput):
    """A loss of pairs; ``nelbo`` and the counts are those of the chosen answers.

    Attributes:
        margins: (P,) float64, detached: by how much the chosen answer of each pair is preferred, nats.
    """

    margins: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))


@dataclass(frozen=True)
class PreferenceObjective(Objective):
    """Preference optimisation of a diffusion model, or of its autoregressive twin (``design=NextTokens()``).

    The batch has the columns of any other for the chosen answers, with their prompts, and the same again for the
    rejected ones: ``rejected_tokens``, ``rejected_maskable``, and so on (`llada.data.PreferenceDataModule`). In packed
    rows, segment k of a row and segment k of its rejected row are a pair.

    Args:
        link: the loss of a pair.
        reference: where the values of the reference come from; not asked where the link needs none.
        design: how noise is drawn. `ComplementaryPairs` reads each row twice per draw, one time after the other.
        draws: noise draws per answer, n. What a design leaves to chance of the noise level is spread evenly over them.
            An autoregressive model has no noise and is read once.
        sft_weight: weight of the chosen answer's bound per token.

    Raises:
        ValueError: if ``draws`` is less than 1, or ``sft_weight`` is negative.

    Examples:
        >>> from llada.objectives import AdapterOff, IndependentMasks, PreferenceObjective, Sigmoid
        >>> llada15 = PreferenceObjective(Sigmoid(beta=0.2), AdapterOff(), IndependentMasks(), draws=8)
    """

    link: Link = field(default_factory=Sigmoid)
    reference: Reference = field(default_factory=FrozenCopy)
    design: Design = field(default_factory=ComplementaryPairs)
    draws: int = 4
    sft_weight: float = 0.05

    def __post_init__(self) -> None:
        if self.draws < 1 or self.sft_weight < 0.0:
            raise ValueError(
                f"draws must be 1 or more and sft_weight 0 or more; got {self.draws} and {self.sft_weight}"
            )

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> PreferenceOutput:
        if process.scatters:
            raise ValueError(f"preferences are learnt by masked diffusion and by autoregressive models; got {process}")
        denoiser, answers = as_denoiser(model), sides_of(batch)
        if self.link.needs_reference:
            random = self.reference.noise(random, answers[CHOSEN])
        sides = []
        for side, answer in enumerate(answers):
            reader = AnswerReader(self.design, process, answer, random.fold_in(side), self.num_draws)
            sides.append(self._read(denoiser, reader, answers[CHOSEN], side))
        return self._output(*sides)

    @property
    def num_draws(self) -> int:
        """How often each answer is read."""
        return 1 if self.design.left_to_right else self.draws

    @torch.no_grad()
    def reference_table(self, model: Any, process: Process, batches: Iterable[Batch], num_pairs: int) -> Tensor:
        """What a model says of all pairs, for `llada.objectives.StoredBounds`.

        Args:
            model: the reference, in evaluation mode.
            process: the noise process.
            batches: pairs with the column ``row``; NaN stays where none has a number.
            num_pairs: how many pairs there are.

        Returns:
            (num_pairs, draws, 2) float64, nats.
        """
        table = torch.full((num_pairs, self.num_draws, 2), torch.nan, dtype=torch.float64)
        for batch in batches:
            answers = sides_of(batch)
            real = batch["row"] >= 0
            random = self.reference.noise(RowRandom.from_seed(0, len(real)), answers[CHOSEN])
            for side, answer in enumerate(answers):
                reader = AnswerReader(self.design, process, answer, random.fold_in(side), self.num_draws)
                for draw in range(self.num_draws):
                    found = reader.bound(as_denoiser(model), draw)[:, 0]
                    table[batch["row"][real], draw, side] = found[real].cpu()
        return table

    def _read(self, denoiser: Denoiser, reader: AnswerReader, batch: Batch, side: int) -> "_Side":
        """What model and reference say of one answer of every pair."""
        model, reference = [], []
        for draw in range(self.num_draws):
            model.append(reader.replayed(denoiser, draw))
            if self.link.needs_reference:
                reading = Reading(batch, draw, side)
                reference.append(self.reference(denoiser, partial(reader.bound, number=draw), reading))
        sums, first = torch.stack(model), reader.draw(denoiser, 0)
        bounds = sums[:, 0]
        other = torch.stack(reference) if reference else torch.zeros_like(bounds)
        return _Side(bounds, other, reader.tokens(first), first, -sums[0, 1].detach().sum(1))

    def _output(self, chosen: "_Side", rejected: "_Side") -> PreferenceOutput:
        """The loss of the pairs, and what is told of them."""
        size = min(chosen.tokens.shape[1], rejected.tokens.shape[1])  # a row's tail of padding is no datum
        is_pair = (chosen.tokens[:, :size] > 0) & (rejected.tokens[:, :size] > 0)

        def cut(values: Tensor) -> Tensor:
            return values[..., :size][..., is_pair]

        sides = chosen.model, rejected.model, chosen.reference, rejected.reference, chosen.tokens, rejected.tokens
        by_draw = PairBounds(*map(cut, sides))
        pairs = by_draw.mean()
        losses = self.link(pairs)
        supervised = -pairs.chosen / pairs.chosen_tokens
        rows = len(chosen.tokens)
        return PreferenceOutput(
            numerator=(losses + self.sft_weight * supervised).sum(),
            denominator=is_pair.sum().double().clamp(min=1.0),
            nelbo=-chosen.model.detach().mean(0).sum(1),
            num_tokens=chosen.first.maskable.sum(1)[:rows],
            t=chosen.first.level[:rows],
            scored_nll=chosen.scored_nll,
            num_scored=chosen.first.scored.sum(1)[:rows],
            sums=_report(self.link, pairs, by_draw, losses),
            margins=self.link.margin(pairs).detach(),
        )


@torch.no_grad()
def _report(link: Link, pairs: PairBounds, by_draw: PairBounds, losses: Tensor) -> dict[str, Tensor]:
    """Sums over pairs of what is logged as a mean over them."""
    margin, draws = link.margin(pairs), len(by_draw.chosen)
    right = (margin > 0).double() + 0.5 * (margin == 0).double()
    found = {"preference_loss": losses, MARGIN: margin, "preference_accuracy": right}
    if draws > 1:
        found["preference_noise_se"] = link.margin(by_draw).std(0) / draws**0.5
    if link.needs_reference:
        found["preference_kl"] = -pairs.chosen_gain
    return {name: values.detach().sum() for name, values in found.items()}


@dataclass(frozen=True)
class _Side:
    """One answer of every pair.

    Attributes:
        model: bounds of the model by draw, (n, B, S) float64, differentiable.
        reference: of the reference, likewise.
        tokens: (B, S) float64, what each is about.
        first: the first draw.
        scored_nll: (B,) float64, of the first draw.
    """

    model: Tensor
    reference: Tensor
    tokens: Tensor
    first: Draw
    scored_nll: Tensor


def sides_of(batch: Batch | Tensor) -> tuple[Batch, Batch]:
    """The columns of the chosen answers, and those of the rejected ones.

    Raises:
        ValueError: if there are no rejected answers, or not as many as chosen ones.
    """
    given = {} if isinstance(batch, Tensor) else batch
    rejected = {name[len(PREFIX) :]: value for name, value in given.items() if name.startswith(PREFIX)}
    chosen = {name: value for name, value in given.items() if not name.startswith(PREFIX)}
    if "tokens" not in rejected or len(rejected["tokens"]) != len(chosen["tokens"]):
        raise ValueError(
            "preferences need the columns rejected_tokens and rejected_maskable beside tokens and maskable, as many "
            f"rows as those; got {', '.join(given) or 'tokens alone'}. llada.data.PreferenceDataModule makes them"
        )
    return columns(chosen), columns(rejected)

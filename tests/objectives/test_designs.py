"""Every design with every weight and normaliser: packed rows are worth what their segments are worth alone.

Statistical tests compare means over 16 batches and allow five standard errors, a false alarm about once in 10,000
comparisons (t distribution); seeds are fixed.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.noise import CosineSchedule, GeometricSchedule, LinearSchedule, UniformTimes
from llada.objectives import (
    NELBO,
    Blockwise,
    BoundWeight,
    ComplementaryPairs,
    ContextWeight,
    Design,
    Draw,
    ExactCounts,
    IndependentMasks,
    NextTokens,
    Normaliser,
    Objective,
    PerPosition,
    PerRow,
    PerScored,
    PerToken,
    RandomLength,
    TimeGrid,
    UnitWeight,
    Weight,
    default_bound,
    discrete_time,
    llada_pretraining,
    masked_mean,
)
from llada.process import MaskingProcess, Process, UniformProcess
from llada.random import RowRandom
from tests.objectives.test_oracle import LANGUAGE, ROWS

MASK = 8
DESIGNS: dict[str, Design] = {
    "independent": IndependentMasks(UniformTimes(0.2)),
    "grid": TimeGrid(num_steps=4),
    "exact counts": ExactCounts(),
    "pairs": ComplementaryPairs(),
    "blocks": Blockwise(),
    "next tokens": NextTokens(),
}
WEIGHTS: list[Weight] = [BoundWeight(), UnitWeight(), ContextWeight()]
NORMALISERS: list[Normaliser] = [PerPosition(), PerToken(), PerRow(), PerScored()]
CASES = pytest.mark.parametrize(
    ("name", "weight", "normaliser"), list(itertools.product(DESIGNS, WEIGHTS, NORMALISERS)), ids=str
)


def test_a_context_weight_falls_geometrically_with_the_distance_of_what_is_visible() -> None:
    scored = torch.tensor([[True, False, False, True]])
    row = torch.zeros(1, 4)
    draw = Draw(row.long(), scored, row.long(), scored, row[:, :1], row[:, :1], row[:, 0])
    weight = ContextWeight(0.25)
    near, next_but_one, far = (0.5 * 0.25 * 0.75**distance for distance in (0, 1, 2))
    expected = [near + next_but_one, near, near, near + next_but_one]
    assert weight(MaskingProcess(MASK), draw)[0].tolist() == pytest.approx(expected)
    padded = replace(draw, inputs={"attention_mask": torch.tensor([[True, True, False, True]])})
    assert weight(MaskingProcess(MASK), padded)[0].tolist() == pytest.approx([near, 0.0, near, next_but_one])
    split = replace(draw, segments=torch.tensor([[0, 0, 1, 1]]))
    assert weight(MaskingProcess(MASK), split)[0].tolist() == pytest.approx([near, 0.0, 0.0, near])
    hidden = replace(draw, scored=torch.tensor([[False, True, True, True]]))
    assert weight(MaskingProcess(MASK), hidden)[0].tolist() == pytest.approx([0.0, near, next_but_one, far])


@pytest.fixture(scope="module")
def backbones() -> dict[str, BidirectionalTransformer]:
    torch.manual_seed(1)
    options: dict[str, Any] = {"width": 8, "num_layers": 1, "num_heads": 2}
    made = {name: BidirectionalTransformer(MASK + 1, **options) for name in DESIGNS}
    made["blocks"] = BidirectionalTransformer(MASK + 1, block_length=2, **options)
    made["next tokens"] = BidirectionalTransformer(MASK + 1, causal=True, shift=True, **options)
    return {name: backbone.eval().requires_grad_(False) for name, backbone in made.items()}


SEGMENTS = (0, 3, 5, 9)  # bounds in a row of nine
TOKENS = torch.tensor([1, 4, 2, 6, 6, 0, 3, 7, 5])
PROMPT = torch.tensor([True, False, False, False, False, False, False, True, False])


def packed(rows: int) -> dict[str, Tensor]:
    """Rows of three segments, of 3, 2 and 4 tokens."""
    numbers = torch.tensor([0] * 3 + [1] * 2 + [2] * 4)
    columns = {"tokens": TOKENS, "maskable": ~PROMPT, "segment_ids": numbers}
    return {name: value.expand(rows, -1) for name, value in columns.items()}


def alone(rows: int) -> dict[str, Tensor]:
    """The same segments as rows of their own, padded on the right."""
    spans = list(itertools.pairwise(SEGMENTS))
    batch = {
        "tokens": torch.zeros(3, 4, dtype=torch.long),
        "maskable": torch.zeros(3, 4, dtype=torch.bool),
        "attention_mask": torch.zeros(3, 4, dtype=torch.bool),
    }
    for row, (start, stop) in enumerate(spans):
        batch["tokens"][row, : stop - start] = TOKENS[start:stop]
        batch["maskable"][row, : stop - start] = ~PROMPT[start:stop]
        batch["attention_mask"][row, : stop - start] = True
    return {name: value.repeat(rows, 1) for name, value in batch.items()}


def loss(objective: Objective, model: Any, batch: dict[str, Tensor], seed: int) -> Any:
    return objective(model, MaskingProcess(MASK), batch, random=RowRandom.from_seed(seed, len(batch["tokens"])))


def mean_and_error(objective: Objective, model: Any, batch: dict[str, Tensor], draws: int = 8) -> tuple[float, float]:
    losses = torch.stack([loss(objective, model, batch, 10_000 * draw).loss for draw in range(draws)]).double()
    return float(losses.mean()), float(losses.std()) / math.sqrt(draws)


@CASES
def test_a_packed_row_is_worth_its_segments(
    backbones: dict[str, BidirectionalTransformer], name: str, weight: Weight, normaliser: Normaliser
) -> None:
    objective, rows = NELBO(DESIGNS[name], weight, normaliser), 120
    ours, error = mean_and_error(objective, backbones[name], packed(rows))
    theirs, other = mean_and_error(objective, backbones[name], alone(rows))
    if isinstance(normaliser, PerPosition):  # nine positions against three rows of four
        ours, error = ours * 9 / 12, error * 9 / 12
    if name == "next tokens":
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert abs(ours - theirs) < 5 * math.hypot(error, other) + 1e-5 * abs(theirs)
    assert 5 * math.hypot(error, other) < 0.25 * abs(theirs)  # narrow enough to mean something


@pytest.mark.parametrize("name", DESIGNS)
def test_segments_count_as_rows_in_the_denominator(backbones: dict[str, BidirectionalTransformer], name: str) -> None:
    for normaliser in (PerToken(), PerRow()):
        objective = NELBO(DESIGNS[name], normaliser=normaliser)
        whole, parts = (loss(objective, backbones[name], batch, 0) for batch in (packed(2), alone(2)))
        assert float(whole.denominator) == float(parts.denominator)
        assert int(whole.num_tokens.sum()) == int(parts.num_tokens.sum())
    copies = 2 if name == "pairs" else 1
    assert float(whole.denominator) == copies * 6  # two rows of three segments


@pytest.mark.parametrize("name", ["exact counts", "pairs", "blocks"])
@pytest.mark.parametrize("normaliser", [PerToken(), PerRow()], ids=str)
def test_exact_counts_leave_no_chance_at_constant_cross_entropy(name: str, normaliser: Normaliser) -> None:
    """Every segment costs log V per maskable token, whatever is masked."""

    class Uniform:
        block_length = 2 if name == "blocks" else None

        def __call__(self, tokens: Tensor, **_: Any) -> Tensor:
            return torch.zeros(*tokens.shape, MASK + 1)

    output = loss(NELBO(DESIGNS[name], normaliser=normaliser), Uniform(), packed(5), 3)
    assert float(output.loss) == pytest.approx(math.log(MASK + 1), rel=1e-6)
    torch.testing.assert_close(output.nelbo, torch.full((5,), 7 * math.log(MASK + 1), dtype=torch.float64))


def test_rows_per_segment_are_a_choice(backbones: dict[str, BidirectionalTransformer]) -> None:
    """Without it a packed row has one noise level and counts as one row."""
    whole = NELBO(IndependentMasks(UniformTimes(), per_segment=False), normaliser=PerRow())
    assert float(loss(whole, backbones["independent"], packed(2), 0).denominator) == 2.0
    conditioned = MaskingProcess(MASK, LinearSchedule(1e-3), time_conditioned=True)
    with pytest.raises(ValueError, match="one noise level per row, but every packed segment has its own"):
        NELBO()(len, conditioned, packed(2), random=RowRandom.from_seed(0, 2))


def test_the_report_of_t_is_a_rows_mean_over_its_maskable_tokens() -> None:
    batch = packed(4)
    draw = IndependentMasks()(as_denoiser(len), MaskingProcess(MASK), batch, random=RowRandom.from_seed(2, 4))
    times = draw.t[:, [0, 3, 5]].tolist()  # of the three segments
    assert len({time for row in times for time in row}) == 12
    found = loss(NELBO(), lambda tokens, **_: torch.zeros(*tokens.shape, MASK + 1), batch, 2)
    assert found.t.tolist() == pytest.approx([(2 * a + 2 * b + 3 * c) / 7 for a, b, c in times])
    given = {"tokens": TOKENS.expand(3, -1), "maskable": torch.zeros(3, 9).bool()}
    noised = loss(NELBO(), lambda tokens: torch.zeros(*tokens.shape, MASK + 1), given, 2).t
    assert bool((noised > 0.0).all())  # one level, whatever is maskable
    assert len(noised.unique()) == 3


@pytest.mark.parametrize("block_length", [1, 2, 4, 8])
def test_the_backbone_owns_the_block_length(block_length: int) -> None:
    backbone = BidirectionalTransformer(MASK + 1, width=8, num_layers=1, num_heads=2, block_length=4)
    objective = NELBO(Blockwise(block_length=block_length))
    if block_length == 4:
        same = loss(NELBO(Blockwise()), backbone, packed(2), 0)
        torch.testing.assert_close(loss(objective, backbone, packed(2), 0).nelbo, same.nelbo)
    else:
        with pytest.raises(ValueError, match=rf"block_length={block_length}\).*whose block_length is 4"):
            loss(objective, backbone, packed(2), 0)
    with pytest.raises(ValueError, match="the backbone has no block_length"):
        loss(NELBO(Blockwise()), BidirectionalTransformer(9, width=8, num_layers=1, num_heads=2), packed(2), 0)


def test_exact_counts_do_not_depend_on_the_schedule(backbones: dict[str, BidirectionalTransformer]) -> None:
    for name in ("exact counts", "pairs", "blocks"):
        random = RowRandom.from_seed(0, 3)
        linear, cosine = (
            NELBO(DESIGNS[name])(backbones[name], MaskingProcess(MASK, schedule), packed(3), random=random)
            for schedule in (LinearSchedule(), CosineSchedule())
        )
        assert torch.equal(linear.nelbo, cosine.nelbo)
        assert torch.equal(linear.numerator, cosine.numerator)


def test_the_bound_of_few_steps_is_above_the_entropy_and_agrees_with_enumeration() -> None:
    """What is reported is the bound of the process that runs: T steps, not infinitely many."""
    mask, steps = LANGUAGE.mask_token_id, 4
    x_0 = LANGUAGE.sample(ROWS, torch.Generator().manual_seed(0))
    schedule = CosineSchedule()
    process = MaskingProcess(mask, schedule)
    nelbo = discrete_time(steps)(LANGUAGE.oracle, process, x_0, random=RowRandom.from_seed(2, ROWS)).nelbo
    rows = torch.cartesian_prod(*[torch.arange(mask)] * LANGUAGE.length)
    expected = _step_bound(rows, schedule, steps, mask)
    error = 5 * float(nelbo.std()) / math.sqrt(ROWS)
    assert abs(float(nelbo.mean()) - expected) < error
    assert expected > LANGUAGE.entropy() + error


def _step_bound(rows: Tensor, schedule: Any, steps: int, mask: int) -> float:
    """E over rows, steps and masks of T (alpha_s - alpha_t) / (1 - alpha_t) times the masked cross-entropy."""
    probability = LANGUAGE.log_prob(rows).double().exp()
    total = 0.0
    for hidden in itertools.product([False, True], repeat=rows.shape[1]):
        masked = torch.tensor(hidden)
        scores = LANGUAGE.oracle(rows.masked_fill(masked, mask)).double().log_softmax(-1)
        nll = -(scores.gather(2, rows[..., None])[..., 0] * masked).nan_to_num(0.0).sum(1)
        cost = float((probability * nll).sum())
        for k in range(1, steps + 1):
            t, s = (torch.tensor(number / steps, dtype=torch.float64) for number in (k, k - 1))
            share = float(schedule.mask_probability(t))
            chance = share ** sum(hidden) * (1.0 - share) ** (len(hidden) - sum(hidden))
            total += float(schedule.alpha(s) - schedule.alpha(t)) / share * chance * cost
    return total


@pytest.mark.parametrize(
    ("objective", "process", "reason"),
    [
        (masked_mean(0.1), MaskingProcess(MASK), "doesn't cover"),
        (llada_pretraining(), MaskingProcess(MASK), "doesn't cover"),
        (NELBO(ExactCounts(UniformTimes(t_max=0.5))), MaskingProcess(MASK), "doesn't cover"),
        (NELBO(), MaskingProcess(MASK, GeometricSchedule()), "corrupts between 0.0001 and 1 of the tokens"),
        (NELBO(), MaskingProcess(MASK, LinearSchedule(1e-3)), "corrupts between 0 and 0.999 of the tokens"),
        (NELBO(), UniformProcess(MASK, LinearSchedule(1e-3)), "corrupts between 0 and 0.999 of the tokens"),
        (NELBO(ExactCounts()), UniformProcess(MASK), "it counts masks, and this process draws random tokens"),
        (RandomLength(NELBO(), 0.1), MaskingProcess(MASK), "scores a part of some rows only"),
    ],
    ids=str,
)
def test_an_objective_says_why_it_is_no_bound(objective: Objective, process: Process, reason: str) -> None:
    assert reason in (objective.bound_gap(process) or "")


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "independent"])
def test_what_is_a_bound_says_so(name: str) -> None:
    assert NELBO(DESIGNS[name], UnitWeight()).bound_gap(MaskingProcess(MASK)) is None
    assert masked_mean().bound_gap(MaskingProcess(MASK)) is None
    assert RandomLength(NELBO(), 0.0).bound_gap(MaskingProcess(MASK)) is None
    for process in (MaskingProcess(MASK, GeometricSchedule()), UniformProcess(MASK)):
        assert default_bound(process).bound_gap(process) is None


@dataclass(frozen=True)
class RareTokens(Weight):
    """A weight of one's own that looks at the tokens."""

    token: int

    def __call__(self, process: Process, draw: Draw) -> Tensor:
        return draw.bound_weight * (draw.x_0 == self.token)


def test_a_weight_sees_tokens(backbones: dict[str, BidirectionalTransformer]) -> None:
    plain, rare = (
        loss(NELBO(ExactCounts(), weight), backbones["exact counts"], packed(50), 0)
        for weight in (BoundWeight(), RareTokens(6))
    )
    assert torch.equal(plain.nelbo, rare.nelbo)
    assert 0.0 < float(rare.numerator) < float(plain.numerator)


# Uniform noise: a joint law of two tokens among three, and the network that is optimal for the bound.
K = 3
JOINT = torch.tensor([[0.30, 0.02, 0.08], [0.05, 0.15, 0.05], [0.01, 0.04, 0.30]], dtype=torch.float64)
ENTROPY = float(-(JOINT * JOINT.log()).sum())


def leave_one_out(tokens: Tensor, sigma: Tensor) -> Tensor:
    """log p(x_i | the other token of x_t), (B, 2, K)."""
    alpha = torch.exp(-sigma.double())[:, None, None]
    seen = alpha * torch.eye(K, dtype=torch.float64)[tokens] + (1.0 - alpha) / K  # q(z_j | x_j), (B, 2, K)
    first, second = seen[:, 1] @ JOINT.T, seen[:, 0] @ JOINT
    return torch.stack((first, second), 1).log()


def full_posterior(tokens: Tensor, sigma: Tensor) -> Tensor:
    """log p(x_i | all of x_t): what a network learns from plain cross-entropy."""
    alpha = torch.exp(-sigma.double())[:, None, None]
    own = alpha * torch.eye(K, dtype=torch.float64)[tokens] + (1.0 - alpha) / K
    return leave_one_out(tokens, sigma) + own.log()


@pytest.mark.parametrize("schedule", [LinearSchedule(1e-6)], ids=str)
def test_the_bound_of_uniform_noise_is_the_entropy_under_the_leave_one_out_oracle(schedule: LinearSchedule) -> None:
    rows = 60_000
    index = torch.multinomial(JOINT.flatten(), rows, replacement=True, generator=torch.Generator().manual_seed(0))
    x_0 = torch.stack((index // K, index % K), 1)
    process = UniformProcess(K, schedule, time_conditioned=True)
    best, plain = (
        NELBO()(oracle, process, x_0, random=RowRandom.from_seed(0, rows)).nelbo
        for oracle in (leave_one_out, full_posterior)
    )
    error = float(best.std()) / math.sqrt(rows)
    assert abs(float(best.mean()) - ENTROPY) < 5 * error
    assert 5 * error < 0.1 * ENTROPY
    assert float(plain.mean()) > ENTROPY + 0.5  # the optimum is not what plain cross-entropy gives


def test_uniform_noise_has_gradients() -> None:
    x_0 = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
    weights = torch.randn(K * 4, K, dtype=torch.float64, requires_grad=True)

    def value(w: Tensor) -> Tensor:
        model = lambda tokens: w[tokens + K * torch.arange(4)].cumsum(1)  # noqa: E731
        return NELBO()(model, UniformProcess(K), x_0, random=RowRandom.from_seed(6, 2)).loss

    assert torch.autograd.gradcheck(value, (weights,))

"""Preferences: the loss is that of the unrolled estimate, and its margin varies little."""

import math
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llada.backbones import BidirectionalTransformer
from llada.data.toy import ToyLanguage
from llada.denoiser import as_denoiser
from llada.noise import UniformTimes
from llada.objectives import (
    IPO,
    KTO,
    NELBO,
    AdapterOff,
    ComplementaryPairs,
    Design,
    ExactCounts,
    FrozenCopy,
    Hinge,
    IndependentMasks,
    Link,
    NextTokens,
    Objective,
    PairBounds,
    PreferenceObjective,
    Sigmoid,
    SimPO,
    StoredBounds,
)
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from tests.objectives.test_oracle import exact_bound

VOCAB, MASK = 16, 15
PROCESS = MaskingProcess(MASK)
LINKS: list[Link] = [Sigmoid(), Sigmoid(0.7, 0.1), IPO(0.3), Hinge(0.5), KTO(0.3, 0.4, 2.0, 0.5), SimPO()]


def network(seed: int = 0, width: int = 16, **options: Any) -> BidirectionalTransformer:
    torch.manual_seed(seed)
    return BidirectionalTransformer(VOCAB, width=width, num_layers=1, num_heads=2, **options).double()


def pairs(num: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Prompts with two answers, of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for prefix, width in (("", 9), ("rejected_", 11)):
        end = torch.randint(5, width + 1, (num, 1), generator=generator)
        place = torch.arange(width)
        batch[f"{prefix}tokens"] = torch.randint(MASK, (num, width), generator=generator)
        batch[f"{prefix}maskable"] = (place >= 3) & (place < end)
        batch[f"{prefix}attention_mask"] = place < end
    return batch


def streams(num: int = 6, step: int = 0, rows: Tensor | None = None, total: int | None = None) -> RowRandom:
    rows = torch.arange(num) if rows is None else rows
    return RowRandom.for_step(0, step, rows, num if total is None else total)


def held(model: torch.nn.Module, **options: Any) -> PreferenceObjective:
    reference = FrozenCopy()
    reference.hold(model)
    return PreferenceObjective(reference=reference, **options)


def gradients(model: torch.nn.Module) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


DESIGNS: list[Design] = [ExactCounts(), IndependentMasks(), ComplementaryPairs()]


@pytest.mark.parametrize("design", [*DESIGNS, NextTokens()], ids=lambda d: type(d).__name__)
def test_a_model_that_is_its_reference_costs_exactly_log_2_for_any_noise(design: Design) -> None:
    model = network(causal=True, shift=True) if design.left_to_right else network()
    objective = held(model, design=design, draws=3, sft_weight=0.0)
    for step in range(3):
        output = objective(model, PROCESS, pairs(), random=streams(step=step))
        assert float(output.loss.detach()) == math.log(2.0)
        means = {name: float(value / output.denominator) for name, value in output.sums.items()}
        assert means.pop("preference_loss") == math.log(2.0)
        assert means.pop("preference_accuracy") == 0.5
        assert set(means.values()) == {0.0}
        names = {"preference_margin", "preference_kl"}
        assert set(means) == (names if design.left_to_right else names | {"preference_noise_se"})


def unrolled(objective: PreferenceObjective, model: Any, reference: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss with all passes in one graph, pair by pair, from the draws that the objective makes."""
    found: dict[str, list[Tensor]] = {}
    for side, prefix in enumerate(("", "rejected_")):
        rows = {name: batch[prefix + name] for name in ("tokens", "maskable", "attention_mask")}
        for number in range(objective.draws):
            base = streams().fold_in(side)
            drawn = RowRandom(
                base.fold_in(number).keys, base.shared_key, (base.rows + number) % objective.draws, objective.draws
            )
            draw = objective.design(as_denoiser(model), PROCESS, rows, random=drawn)
            for who, network in (("", model), ("reference_", reference)):
                logits = as_denoiser(network).logits(draw.tokens, attention_mask=draw.inputs["attention_mask"])
                log_p = logits.log_softmax(-1).gather(-1, draw.x_0[..., None])[..., 0]
                bound = (log_p * draw.scored * draw.bound_weight).sum(1).view(draw.copies, -1).mean(0)
                found.setdefault(who + ("rejected" if side else "chosen"), []).append(bound)
    sizes = [batch[f"{prefix}maskable"].sum(1).double() for prefix in ("", "rejected_")]
    known = PairBounds(**{k: torch.stack(v).mean(0) for k, v in found.items()}, chosen_tokens=sizes[0],
                       rejected_tokens=sizes[1])  # fmt: skip
    if not objective.link.needs_reference:
        known = replace(known, reference_chosen=torch.zeros(6), reference_rejected=torch.zeros(6))
    return (objective.link(known) - objective.sft_weight * known.chosen / sizes[0]).mean()


@pytest.mark.parametrize("link", LINKS, ids=repr)
def test_loss_and_gradient_are_those_of_the_unrolled_loss(link: Link) -> None:
    model, reference = network(0), network(1)
    design = DESIGNS[LINKS.index(link) % len(DESIGNS)]
    objective = held(reference, link=link, design=design, draws=3)
    output = objective(model, PROCESS, pairs(), random=streams())
    output.loss.backward()
    replayed = gradients(model)
    expected = unrolled(objective, model, reference, pairs())
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(replayed, gradients(model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in replayed)


def test_links_are_their_papers_formulas() -> None:
    known = PairBounds(*(torch.tensor([value]).double() for value in (-3.0, -5.0, -4.0, -4.5, 2.0, 4.0)))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731 - d+ = 1, d- = -0.5, margin 1.5
    expected = [
        -math.log(sigmoid(0.2 * 1.5)),
        -0.9 * math.log(sigmoid(0.7 * 1.5)) - 0.1 * math.log(sigmoid(-0.7 * 1.5)),
        (1.5 - 1 / 0.6) ** 2,
        1 - 0.5 * 1.5,
        2.0 * (1 - sigmoid(0.3 * (1.0 - 0.4))) + 0.5 * (1 - sigmoid(0.3 * (0.4 + 0.5))),
        -math.log(sigmoid(2.0 * (-3.0 / 2 + 5.0 / 4) - 1.0)),
    ]
    assert [float(link(known)) for link in LINKS] == pytest.approx(expected, rel=1e-12)


def test_accumulation_and_ranks_change_nothing() -> None:
    model, whole = network(0), pairs()
    objective = held(network(1), draws=2)
    one = objective(model, PROCESS, whole, random=streams())
    for share in (torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])), torch.arange(6).split(2):
        parts = [
            objective(model, PROCESS, {name: value[rows] for name, value in whole.items()},
                      random=streams(rows=rows, total=6))
            for rows in share
        ]  # fmt: skip
        assert sum(p.numerator.item() for p in parts) == pytest.approx(one.numerator.item(), rel=1e-12)
        assert float(sum(p.denominator for p in parts)) == float(one.denominator) == 6


def test_a_row_that_fills_up_a_batch_is_no_pair() -> None:
    batch = pairs()
    objective = held(network(1), draws=2)
    model = network(0)
    first = {name: value[:5] for name, value in batch.items()}
    batch["maskable"][5] = batch["rejected_maskable"][5] = False
    one, other = (
        objective(model, PROCESS, rows, random=streams(total=6, rows=torch.arange(len(rows["tokens"]))))
        for rows in (batch, first)
    )
    assert float(one.denominator) == 5
    assert one.numerator.item() == pytest.approx(other.numerator.item(), rel=1e-12)


def packed_and_alone() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Three pairs in a row each, and in one row; the chosen row is full, the rejected one has a tail."""
    alone = pairs(3)
    batch = {}
    for prefix, tail in (("", 0), ("rejected_", 2)):
        real = alone[f"{prefix}attention_mask"]
        segment = torch.arange(3)[:, None].expand(real.shape)[real]
        for name in ("tokens", "maskable"):
            batch[prefix + name] = torch.nn.functional.pad(alone[prefix + name][real], (0, tail))[None]
        batch[f"{prefix}segment_ids"] = torch.nn.functional.pad(segment, (0, tail), value=3)[None]
        batch[f"{prefix}attention_mask"] = torch.arange(len(segment) + tail)[None] < len(segment)
    return batch, alone


def test_packed_pairs_are_pairs() -> None:
    """With the autoregressive twin nothing is random, so that losses, and gradients, must be the same."""
    model, reference = (network(seed, causal=True, shift=True) for seed in (0, 1))
    objective = held(reference, design=NextTokens(), link=KTO())
    results = []
    for batch in packed_and_alone():
        output = objective(model, PROCESS, batch, random=streams(len(batch["tokens"])))
        output.loss.backward()
        results.append((output, gradients(model)))
    (packed, of_packed), (alone, of_alone) = results
    assert float(packed.denominator) == float(alone.denominator) == 3
    assert float(packed.loss) == pytest.approx(float(alone.loss), rel=1e-12)
    assert float(packed.nelbo) == pytest.approx(float(alone.nelbo.sum()), rel=1e-12)
    for name, value in alone.sums.items():
        assert float(packed.sums[name]) == pytest.approx(float(value), rel=1e-10), name
    for one, other in zip(of_packed, of_alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_packed_pairs_of_a_diffusion_model_have_the_same_expected_margin() -> None:
    """Answers of one token have one mask, so that only who sees whom can differ."""
    packed, alone = packed_and_alone()
    for batch in (packed, alone):
        for prefix in ("", "rejected_"):
            maskable = batch[f"{prefix}maskable"]
            batch[f"{prefix}maskable"] = maskable & torch.nn.functional.pad(~maskable, (1, 0), value=True)[:, :-1]
    objective, model = held(network(1), draws=1), network(0)
    one, other = (objective(model, PROCESS, batch, random=streams(len(batch["tokens"]))) for batch in (packed, alone))
    assert float(one.denominator) == 3
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-12)


class Perturbed:
    """The exact denoisers of random Markov chains, and of distributions close to them, with a pair of answers each."""

    length = 4

    def __init__(self, seeds: range) -> None:
        def energy(seed: int) -> Tensor:
            return ToyLanguage.markov(3, self.length, 0.5, seed).probabilities.log().clamp(min=-20.0)

        reference = [ToyLanguage(energy(seed).exp()) for seed in seeds]
        model = [ToyLanguage((energy(seed) + 0.25 * energy(seed + 1000)).exp()) for seed in seeds]
        drawn = [one.sample(2, torch.Generator().manual_seed(seed)) for one, seed in zip(model, seeds, strict=True)]
        self.answers = torch.stack(drawn)
        self.canvases = torch.cartesian_prod(*[torch.arange(4)] * self.length)
        self.known = [torch.stack([one.oracle(self.canvases) for one in many]) for many in (model, reference)]

    def margins(self, design: Design, draws: int, num: int) -> Tensor:
        """Estimates of each pair's margin, (pairs, num)."""
        powers, case = (
            4 ** torch.arange(self.length - 1, -1, -1),
            torch.arange(len(self.answers)).repeat_interleave(num),
        )

        def answer(known: Tensor) -> Any:
            return lambda tokens: known[case.repeat(len(tokens) // len(case)), (tokens * powers).sum(1)]

        reference, seen = FrozenCopy(), []
        object.__setattr__(reference, "_held", answer(self.known[1]))
        rows = {"tokens": self.answers[case, 0], "rejected_tokens": self.answers[case, 1]}

        class Listening(Sigmoid):
            def __call__(self, pairs: PairBounds) -> Tensor:
                seen.append(self.margin(pairs))
                return super().__call__(pairs)

        objective = PreferenceObjective(Listening(), reference, design, draws)
        random = RowRandom.from_seed(0, len(case))
        objective(answer(self.known[0]), MaskingProcess(3), rows, random=random)
        return seen[0].view(-1, num)

    def exact(self, pair: int) -> float:
        powers = 4 ** torch.arange(self.length - 1, -1, -1)

        def bound(side: int, who: int) -> float:
            known = self.known[who][pair]
            return exact_bound(lambda tokens: known[(tokens * powers).sum(1)], self.answers[pair, side])

        return bound(0, 1) - bound(0, 0) - (bound(1, 1) - bound(1, 0))


def test_the_margin_varies_at_most_half_as_much_as_the_published_one() -> None:
    """Variance for as many calls, 8 per answer, in the mean of 20 exact models."""
    cases = Perturbed(range(20))
    published = cases.margins(IndependentMasks(UniformTimes(t_min=1e-3)), 8, 400).var(1)
    for design, draws in ((ExactCounts(), 8), (ComplementaryPairs(), 4)):
        assert float((cases.margins(design, draws, 400).var(1) / published).mean()) < 0.4  # 0.30 and 0.26 here


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: type(d).__name__)
def test_the_margin_is_unbiased(design: Design) -> None:
    cases = Perturbed(range(3, 5))
    found = cases.margins(design, 4, 10_000)
    for pair, (mean, error) in enumerate(zip(found.mean(1), found.std(1) / 100, strict=True)):
        assert abs(float(mean) - cases.exact(pair)) < 5 * float(error)  # false alarm once in two million
        assert float(error) < 0.05 * abs(cases.exact(pair))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, of those that were made since."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                size = tensor.numel() * tensor.element_size()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self._gone, size)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


def test_memory_does_not_grow_with_the_draws() -> None:
    def peak(objective: Objective, batch: dict[str, Tensor]) -> int:
        model = network(width=64)
        with LiveBytes() as live:
            objective(model, PROCESS, batch, random=streams(24)).loss.backward()
        return live.peak

    batch = pairs(24)
    few, many = (peak(held(network(1, width=64), draws=draws), batch) for draws in (2, 6))
    two_copies = peak(held(network(1, width=64), draws=1, design=ComplementaryPairs()), batch)
    longer = {name.removeprefix("rejected_"): value for name, value in batch.items() if name.startswith("rejected_")}
    weights = sum(parameter.numel() * 8 for parameter in network(width=64).parameters())
    assert many < 1.05 * few
    assert two_copies < 1.05 * few  # they are read one after the other
    # The gradient so far and that of the draw in hand are there beside the activations, as under accumulation.
    assert many < peak(NELBO(ExactCounts()), longer) + 2.5 * weights


def test_low_rank_additions_switched_off_are_the_reference() -> None:
    peft = pytest.importorskip("peft")
    model = network(0)
    base = deepcopy(model)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), model)
    model.double()
    off = PreferenceObjective(reference=AdapterOff(), draws=2, sft_weight=0.0)
    assert float(off(model, PROCESS, pairs(), random=streams()).loss.detach()) == math.log(2.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    results = []
    for objective in (off, held(base, draws=2, sft_weight=0.0)):
        output = objective(model, PROCESS, pairs(), random=streams())
        output.loss.backward()
        results.append((float(output.loss.detach()), gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert results[0][0] != pytest.approx(math.log(2.0), rel=1e-3)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    assert any(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)
    with pytest.raises(ValueError, match="AdapterOff"):
        FrozenCopy().hold(model)
    with pytest.raises(ValueError, match="low-rank additions to switch off"):
        off(base, PROCESS, pairs(), random=streams())


def test_stored_values_are_looked_up_by_pair_and_draw(tmp_path: Path) -> None:
    model, reference, path = network(0), network(1), tmp_path / "reference.npy"
    stored = PreferenceObjective(reference=StoredBounds(str(path)), draws=3)
    batch = pairs() | {"row": torch.tensor([4, 0, 5, 2, 1, 3])}
    with pytest.raises(ValueError, match="Preferences writes it"):
        stored(model, PROCESS, batch, random=streams())
    np.save(path, stored.reference_table(reference, PROCESS, [batch], 6).numpy())
    first = stored(reference, PROCESS, batch, random=streams())
    assert float(first.sums["preference_loss"]) == pytest.approx(6 * math.log(2.0), rel=1e-12)
    # The same pairs in another order and step, of which the noise is independent: the loss of a frozen copy.
    shuffled = {name: value.flip(0)[:4] for name, value in batch.items()}
    same = [stored(model, PROCESS, rows, random=streams(len(rows["tokens"]), step)) for step, rows in
            ((0, batch), (7, shuffled), (7, {name: value[:2] for name, value in batch.items()}))]  # fmt: skip
    assert float(same[0].numerator) == pytest.approx(float(same[1].numerator + same[2].numerator), rel=1e-12)
    with pytest.raises(ValueError, match="3 draws of 6 pairs, but draw 3"):
        replace(stored, draws=4)(model, PROCESS, batch, random=streams())
    with pytest.raises(ValueError, match="column 'row'"):
        stored(model, PROCESS, pairs(), random=streams())


def test_what_does_not_fit_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="rejected_tokens"):
        held(model)(model, PROCESS, pairs()["tokens"], random=streams())
    with pytest.raises(ValueError, match="holds no network"):
        PreferenceObjective()(model, PROCESS, pairs(), random=streams())
    with pytest.raises(ValueError, match="masked diffusion"):
        held(model)(model, UniformProcess(num_tokens=VOCAB), pairs(), random=streams())
    for wrong in ({"draws": 0}, {"sft_weight": -1.0}):
        with pytest.raises(ValueError, match="draws must be"):
            PreferenceObjective(**wrong)
    for link in (Sigmoid, IPO, Hinge, KTO, SimPO):
        with pytest.raises(ValueError, match="beta must be above 0"):
            link(beta=0.0)

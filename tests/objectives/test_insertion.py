"""The bound of texts of any length: exact sums over a small language, and the loss by hand.

The statistical test allows five standard errors, a false alarm about once in 2,000,000; the seed is fixed.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from llada.backbones import DiffusionTransformer
from llada.denoiser import as_denoiser
from llada.metrics import ConditionalLikelihood
from llada.module import DiffusionLM
from llada.noise import LinearSchedule, RescaledSchedule, StratifiedTimes
from llada.objectives import (
    NELBO,
    ContextWeight,
    ExactCounts,
    IndependentMasks,
    InsertionNELBO,
    UnitWeight,
    default_bound,
)
from llada.process import InsertionProcess, MaskingProcess
from llada.process.insertion import gaps_of
from llada.random import RowRandom
from llada.samplers import InsertionSampler
from tests.doubles import GivenTimes
from tests.flexible import (
    BOS,
    LENGTHS,
    MASK,
    MIXED,
    PROCESS,
    REPEATS,
    SHORT,
    SIZE,
    Language,
    batch_of,
    entropy,
    oracle,
)

UNTIMED = InsertionProcess(MASK)


def bound(objective: InsertionNELBO, language: Language, lean: float = 0.0, nodes: int = 24) -> float:
    """The bound as an integral, of the network that knows the language; ``lean`` makes it wrong."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    total = 0.0
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        t = float(place) ** 3  # dense where the weight is large
        batch = batch_of(language, t)

        def knows(tokens: Tensor, attention_mask: Tensor, t: float = t) -> Tensor:
            logits = oracle(language, t, tokens, attention_mask)
            return logits + lean * torch.sin(torch.arange(logits[0].numel()).double()).view_as(logits[0])

        times = torch.full((len(batch.probability),), t, dtype=torch.float64)
        output = objective.score(
            as_denoiser(knows), UNTIMED, batch.thinned, times, torch.ones_like(times), batch.num_tokens
        )
        total += float(weight) * 3.0 * float(place) ** 2 * float((batch.probability * output.nelbo).sum())
    return total


@pytest.mark.parametrize(
    ("language", "merged", "published"), [(MIXED, 1.7351, 1.9257), (LENGTHS, 1.2130, 1.3863), (REPEATS, None, None)]
)
def test_the_merged_bound_is_between_the_entropy_and_the_published_one(
    language: Language, merged: float | None, published: float | None
) -> None:
    """The two figures were found before by another program."""
    low, high = bound(InsertionNELBO(), language), bound(InsertionNELBO(merged=False), language)
    assert entropy(language) < low < high
    if merged is not None:
        assert (low, high) == pytest.approx((merged, published), abs=1e-4)
    wrong, worse = (bound(InsertionNELBO(merged=merged), language, lean=0.7, nodes=8) for merged in (True, False))
    assert entropy(language) < low < wrong < worse


def test_texts_of_one_token_at_most_have_no_gap() -> None:
    """They come about in one way only."""
    for merged in (True, False):
        assert bound(InsertionNELBO(merged=merged), SHORT) == pytest.approx(entropy(SHORT), abs=1e-6)


def by_hand(model: Any, merged: bool, thinned: Any, t: Tensor) -> list[float]:
    """The bound of each row, place by place."""
    logits = model(thinned.tokens, attention_mask=thinned.real).detach().double()
    found = []
    for row in range(len(t)):
        tokens = counts = expected = missing = 0.0
        scored = False
        for place in [*thinned.real[row].nonzero()[:, 0].tolist(), None]:
            if place is None or not merged or not thinned.masked[row, place]:  # a region ends
                if scored:
                    counts += expected - missing + (missing * math.log(missing / expected) if missing else 0.0)
                expected = missing = 0.0
                scored = False
            if place is None:
                break
            if thinned.masked[row, place]:
                law = logits[row, place, :MASK].log_softmax(-1)
                tokens -= float(law[thinned.x_0[row, place]])
            if thinned.gaps[row, place]:
                scored = True
                expected += float(t[row]) * math.exp(float(logits[row, place, MASK]))
                missing += int(thinned.missing[row, place])
        found.append((tokens + counts) / float(t[row]))
    return found


def story() -> dict[str, Tensor]:
    """A prompt, a text, something given in its middle, and padding at either end."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (6, 9), generator=generator)
    tokens[:, 0] = BOS
    real, maskable = torch.ones_like(tokens).bool(), torch.ones_like(tokens).bool()
    real[1, -2:], real[2, 0], maskable[0, :3], maskable[3, 4:6], maskable[4] = False, False, False, False, False
    return {"tokens": tokens, "attention_mask": real, "maskable": maskable}


@pytest.mark.parametrize("merged", [True, False])
def test_the_loss_is_that_by_hand_and_rows_do_not_meet(merged: bool) -> None:
    torch.manual_seed(1)
    model = DiffusionTransformer(SIZE, width=16, num_layers=1, num_heads=2).double()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    quiet = lambda tokens, attention_mask=None: model(  # noqa: E731
        tokens, sigma=torch.ones(len(tokens)), attention_mask=attention_mask
    )
    batch, t = story(), torch.linspace(0.2, 0.9, 6).double()
    objective = InsertionNELBO(merged=merged, times=GivenTimes(t**0.5))
    output = objective(quiet, UNTIMED, batch, random=RowRandom.from_seed(3, 6))
    free = batch["maskable"] & batch["attention_mask"]
    free[:, 0] = False
    free[2, 1] = False  # the first token of a row, behind padding
    places = gaps_of(batch["maskable"] & batch["attention_mask"], batch["attention_mask"])
    random = RowRandom.from_seed(3, 6).fold_in(1)
    thinned = UNTIMED.thin(batch["tokens"], t, free, places, batch["attention_mask"], random=random)
    wanted = torch.tensor(by_hand(quiet, merged, thinned, t)).double()
    assert output.nelbo.tolist() == pytest.approx((2.0 * t**0.5 * wanted).tolist(), rel=1e-6)
    uniform = replace(objective, times=GivenTimes(t), power=1.0)
    torch.testing.assert_close(
        uniform(quiet, UNTIMED, batch, random=RowRandom.from_seed(3, 6)).nelbo, wanted, rtol=1e-6, atol=1e-9
    )
    assert output.num_tokens.tolist() == free.sum(1).tolist()
    assert float(output.loss) == pytest.approx(float(output.nelbo.sum() / free.sum()), rel=1e-12)
    assert output.nelbo[4] == 0.0  # nothing of it may go
    output.loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)
    for row in range(6):
        one = {name: column[row : row + 1] for name, column in batch.items()}
        single = replace(objective, times=GivenTimes(t[row : row + 1] ** 0.5))
        alone = single(quiet, UNTIMED, one, random=RowRandom.from_seed(3 + row, 1))
        assert float(alone.nelbo) == pytest.approx(float(output.nelbo[row]), rel=1e-6)


def test_the_gradient_is_that_of_the_loss() -> None:
    batch, t = story(), torch.linspace(0.2, 0.9, 6).double()
    objective = InsertionNELBO(times=GivenTimes(t), power=1.0)

    def loss(table: Tensor) -> Tensor:
        return objective(
            lambda tokens, attention_mask: table[tokens], UNTIMED, batch, random=RowRandom.from_seed(3, 6)
        ).loss

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(loss, torch.randn(SIZE, SIZE, dtype=torch.float64, requires_grad=True))


def test_the_mean_over_draws_is_the_integral() -> None:
    """Of a network that isn't told the time, with the language's texts as often as they are likely."""
    texts = [text for text, p in MIXED for _ in range(round(20 * p))] * 400
    tokens = torch.zeros(len(texts), 3).long()
    real = torch.zeros(len(texts), 3).bool()
    for row, text in enumerate(texts):
        tokens[row, : len(text) + 1], real[row, : len(text) + 1] = torch.tensor([BOS, *text]), True
    table = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(2)).double()
    model = lambda tokens, attention_mask: table[tokens]  # noqa: E731
    output = InsertionNELBO()(
        model, UNTIMED, {"tokens": tokens, "attention_mask": real}, random=RowRandom.from_seed(0, len(texts))
    )
    places, weights = np.polynomial.legendre.leggauss(24)
    exact = 0.0
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        batch = batch_of(MIXED, float(place) ** 3)
        t = torch.full((len(batch.probability),), float(place) ** 3, dtype=torch.float64)
        seen = as_denoiser(model), UNTIMED, batch.thinned, t, torch.ones_like(t), batch.num_tokens
        nelbo = InsertionNELBO().score(*seen).nelbo
        exact += float(weight) * 3.0 * float(place) ** 2 * float((batch.probability * nelbo).sum())
    error = float(output.nelbo.std()) / math.sqrt(len(texts))
    assert abs(float(output.nelbo.mean()) - exact) <= 5 * error < 0.1 * exact


def test_rows_may_count_otherwise_in_the_loss() -> None:
    batch, t = story(), torch.linspace(0.2, 0.9, 6).double()
    model = lambda tokens, attention_mask: torch.zeros(*tokens.shape, SIZE).double()  # noqa: E731
    plain, unit = (
        InsertionNELBO(times=GivenTimes(t), power=1.0, **options)(
            model, UNTIMED, batch, random=RowRandom.from_seed(0, 6)
        )
        for options in ({}, {"weight": UnitWeight()})
    )
    assert torch.equal(plain.nelbo, unit.nelbo)
    assert float(unit.numerator) == pytest.approx(float((t * plain.nelbo).sum()), rel=1e-9)
    with pytest.raises(ValueError, match="ContextWeight weighs every token by itself"):
        InsertionNELBO(weight=ContextWeight(), times=GivenTimes(t))(
            model, UNTIMED, batch, random=RowRandom.from_seed(0, 6)
        )


def test_what_does_not_fit_is_refused() -> None:
    batch, random = story(), RowRandom.from_seed(0, 6)
    model = lambda tokens, attention_mask: torch.zeros(*tokens.shape, SIZE)  # noqa: E731
    with pytest.raises(ValueError, match=r"must be 1 or more; got 0\.5"):
        InsertionNELBO(power=0.5)
    with pytest.raises(ValueError, match="use rows that aren't packed"):
        InsertionNELBO()(model, UNTIMED, batch | {"segment_ids": torch.zeros(6, 9).long()}, random=random)
    with pytest.raises(ValueError, match="no token is ever absent under MaskingProcess"):
        InsertionNELBO()(model, MaskingProcess(MASK), batch, random=random)
    for design in (IndependentMasks(), ExactCounts()):
        with pytest.raises(ValueError, match="InsertionNELBO as objective"):
            NELBO(design)(model, UNTIMED, batch, random=random)
    with pytest.raises(ValueError, match="no length beforehand under InsertionProcess"):
        ConditionalLikelihood()(model, UNTIMED, [[1]], [[2]])
    assert "no length beforehand" in str(NELBO().bound_gap(UNTIMED))
    assert default_bound(UNTIMED) == InsertionNELBO()


def test_a_bound_that_lacks_a_part_says_so() -> None:
    whole = InsertionNELBO()
    assert whole.bound_gap(PROCESS) is None  # what is left of the masks' schedule at t = 1 plays no part
    assert "no token is ever absent" in str(whole.bound_gap(MaskingProcess(MASK)))
    assert "doesn't cover" in str(InsertionNELBO(times=StratifiedTimes(t_max=0.5)).bound_gap(UNTIMED))
    residue = replace(UNTIMED, insertion=LinearSchedule(0.1))
    assert "takes between 0 and 0.9" in str(whole.bound_gap(residue))
    assert whole.bound_gap(replace(UNTIMED, insertion=RescaledSchedule(LinearSchedule(0.1)))) is None


def test_it_is_trained_saved_and_loaded(tmp_path: Any) -> None:
    torch.manual_seed(0)
    backbone = DiffusionTransformer(SIZE, width=16, num_layers=1, num_heads=2)
    parts = {"objective": InsertionNELBO(weight=UnitWeight()), "sampler": InsertionSampler(4, 6)}
    model = DiffusionLM(backbone, PROCESS, **parts)
    batch = story()
    rows = [{name: column[row] for name, column in batch.items()} for row in range(6)]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    assert trainer.callback_metrics["train/insertion_loss"] > 0.0
    assert trainer.callback_metrics["val/nll"] > 0.0
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = DiffusionLM.load_from_checkpoint(path)
    assert (loaded.process, loaded.objective, loaded.sampler) == (PROCESS, *parts.values())
    canvas = torch.tensor([[BOS, 1, MASK, MASK, 2], [BOS, MASK, 0, 0, MASK]])
    assert torch.equal(loaded.generate(canvas, seed=1).tokens, model.generate(canvas, seed=1).tokens)
    with pytest.raises(ValueError, match="layout holds models of MaskingProcess, not of InsertionProcess"):
        loaded.save_pretrained(tmp_path / "out")

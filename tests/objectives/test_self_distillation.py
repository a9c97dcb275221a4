"""Self-distillation through time: whom the student learns from, and the gradient."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import DiffusionLM
from llada.data.toy import ToyLanguage
from llada.denoiser import as_denoiser
from llada.objectives import FrozenCopy, IndependentMasks, SelfDistillation
from llada.objectives.self_distillation import drawn
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from llada.training.callbacks import FrozenReference
from tests.doubles import GivenTimes
from tests.objectives.test_preference import MASK, PROCESS, gradients, network, pairs, streams

LANGUAGE = ToyLanguage.dirichlet(3, 4, concentration=0.5, seed=1)


def distillation(teacher: Any, **options: Any) -> SelfDistillation:
    objective = SelfDistillation(**options)
    object.__setattr__(objective.reference, "_held", teacher)
    return objective


@pytest.mark.parametrize("predicts_mask", [True, False])
def test_loss_and_gradient_are_those_of_the_plain_divergence(predicts_mask: bool) -> None:
    student, teacher = network(0), network(1)
    process = MaskingProcess(MASK, predicts_mask=predicts_mask)
    batch = {name: value for name, value in pairs().items() if not name.startswith("rejected_")}
    objective = distillation(teacher, num_steps=2, teacher_steps=3)
    output = objective(student, process, batch, random=streams())
    output.loss.backward()
    found = gradients(student)
    draw = IndependentMasks()(as_denoiser(student), process, batch, random=streams())
    head, known = objective.teach(as_denoiser(teacher), process, draw, streams())
    kept = slice(None) if predicts_mask else slice(MASK)
    log_p = head(known)[:, kept].log_softmax(-1)
    logits = as_denoiser(student).logits(draw.tokens, draw.scored, attention_mask=batch["attention_mask"])
    log_q = logits[:, kept].log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(found, gradients(student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in found)


def test_one_step_of_the_teacher_is_its_answer_and_a_student_like_it_has_nothing_to_learn() -> None:
    teacher = network(1)
    batch = {name: value for name, value in pairs().items() if not name.startswith("rejected_")}
    same = distillation(teacher, teacher_steps=1)(teacher, PROCESS, batch, random=streams())
    assert abs(same.numerator.item()) < 1e-12
    more = distillation(teacher, num_steps=1, teacher_steps=2)(teacher, PROCESS, batch, random=streams())
    assert more.numerator.item() > 1e-6


def test_the_student_learns_from_the_step_in_which_a_token_is_uncovered() -> None:
    """All rows from all masks in one step of the student, half of it before the teacher looks again."""
    rows = 2000
    objective = distillation(LANGUAGE.oracle, num_steps=1, teacher_steps=2, times=GivenTimes(torch.ones(rows)))
    process = MaskingProcess(LANGUAGE.mask_token_id)
    random = RowRandom.from_seed(0, rows)
    x_0 = LANGUAGE.sample(rows, torch.Generator().manual_seed(0))
    draw = IndependentMasks(objective.times)(as_denoiser(LANGUAGE.oracle), process, {"tokens": x_0}, random=random)
    _, known = objective.teach(as_denoiser(LANGUAGE.oracle), process, draw, random)
    laws = known.view(rows, 4, -1)
    blank = LANGUAGE.oracle(torch.full((1, 4), LANGUAGE.mask_token_id))
    first = torch.isclose(laws, blank, atol=1e-12).all(-1)
    share = float(first.double().mean())
    # A sixteenth of the rows has nothing uncovered in the first step, so that its second canvas is the first again.
    uncovered = 0.5 + 0.5**4
    assert abs(share - uncovered) < 5 * math.sqrt(0.25 / (4 * rows))
    # What is left was judged on canvases that the teacher's own tokens stand in: every canvas of such tokens, no other.
    canvases = torch.cartesian_prod(*[torch.arange(4)] * 4)
    possible = [LANGUAGE.oracle(canvas[None])[0] for canvas in canvases]
    known_laws = torch.cat(possible).exp()
    others = laws[~first].exp()[:50]
    assert float(torch.cdist(others, known_laws).amin(1).max()) < 1e-6


def test_tokens_are_drawn_by_the_law_without_the_mask() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.9, 2.0]]).double()
    u = RowRandom.from_seed(0, 1).uniform(40_000)[0]
    found = drawn(lambda hidden: hidden, logits.expand(40_000, -1).clone(), u, 3)
    law = logits[0, :3].softmax(-1)
    counts = torch.bincount(found, minlength=4)
    assert counts[3] == 0
    chi = float(((counts[:3] - 40_000 * law).square() / (40_000 * law)).sum())
    assert chi < 27.6  # two degrees of freedom; false alarm once in a million


def test_the_bound_is_reported_and_the_student_comes_nearer_to_its_teacher() -> None:
    rows = [{"tokens": row} for row in LANGUAGE.sample(64, torch.Generator().manual_seed(0))]
    torch.manual_seed(0)
    model = DiffusionLM(
        network(0), PROCESS, SelfDistillation(num_steps=1), optimizer=partial(torch.optim.AdamW, lr=1e-2)
    )
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=6, accelerator="cpu", callbacks=[FrozenReference()], enable_model_summary=False,
                      log_every_n_steps=1, **quiet)  # fmt: skip
    losses: list[Tensor] = []
    step = model.training_step
    model.training_step = lambda *given: losses.append(step(*given)) or losses[-1]  # type: ignore[method-assign]
    trainer.fit(model, DataLoader(rows, 16))
    assert float(torch.stack(losses[-4:]).mean()) < 0.7 * float(torch.stack(losses[:4]).mean())
    assert model.objective.bound_gap(PROCESS) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be"):
        SelfDistillation(teacher_steps=0)
    with pytest.raises(ValueError, match="holds no network"):
        SelfDistillation(reference=FrozenCopy())(network(), PROCESS, pairs()["tokens"], random=streams())
    with pytest.raises(ValueError, match="masked diffusion only"):
        distillation(network())(network(), UniformProcess(num_tokens=16), pairs()["tokens"], random=streams())

"""Distillation along trajectories, from less noise, and towards certainty: losses and gradients by their formulas."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import DiffusionLM
from llada.denoiser import as_denoiser
from llada.objectives import (
    CertaintyForcing,
    ConsistencyDistillation,
    Distillation,
    PartialBlock,
    RandomTrajectory,
    SelfDistillation,
    SpreadTrajectory,
    StoredTrajectory,
    TrajectoryDistillation,
)
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from llada.samplers import PerStep, Proposal, Spread, UnmaskingSampler
from llada.training.callbacks import DistillationRounds
from tests.objectives.test_preference import MASK, PROCESS, VOCAB, gradients, network, pairs, streams

BATCH = {name: value for name, value in pairs().items() if not name.startswith("rejected_")}
UNIFORM = UniformProcess(num_tokens=MASK)  # the network has an output more


def taught(objective: Distillation, teacher: Any) -> Any:
    objective.reference.hold(teacher)
    return objective


def same_loss_and_gradient(objective: Distillation, process: Any, expected: Callable[[Any, Any], Tensor]) -> None:
    student, teacher = network(0), network(1)
    output = taught(objective, teacher)(student, process, BATCH, random=streams())
    output.loss.backward()
    found = gradients(student)
    plain = expected(student, teacher)
    plain.backward()
    assert output.loss.item() == pytest.approx(plain.item(), rel=1e-10)
    for one, other in zip(found, gradients(student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in found)


def kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    p, q = teacher_logits[..., :MASK].log_softmax(-1), student_logits[..., :MASK].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_along_a_trajectory_the_teacher_sees_what_it_would_have_written(share: float) -> None:
    """Token by token: its rank r, the student's canvas without ranks from its step on, the teacher's without r on."""
    process = MaskingProcess(MASK, predicts_mask=False)
    batch = {**BATCH, "rank": torch.rand(BATCH["tokens"].shape, generator=torch.Generator().manual_seed(3))}
    objective = TrajectoryDistillation(3, 1, StoredTrajectory(), share)
    student, teacher = network(0), network(1)
    output = taught(objective, teacher)(student, process, batch, random=streams())
    draw = objective.lesson(as_denoiser(student), as_denoiser(teacher), process, batch, streams()).draw
    losses = []
    for row, tokens in enumerate(batch["tokens"]):
        answer = [i for i in range(len(tokens)) if batch["maskable"][row, i]]
        answer.sort(key=lambda i: float(batch["rank"][row, i]))
        first = len(answer) - int(draw.t[row] * len(answer) + 0.5)
        assert first % 3 == 0
        real = {"attention_mask": batch["attention_mask"][row : row + 1]}
        for rank in range(first, min(first + 3, len(answer))):
            canvases = [tokens.clone()[None] for _ in range(2)]
            for canvas, begin in zip(canvases, (first, rank), strict=True):
                canvas[0, answer[begin:]] = MASK
            q, p = (model(canvas, **real)[0, answer[rank], :MASK].log_softmax(-1)
                    for model, canvas in zip((student, teacher), canvases, strict=True))  # fmt: skip
            law = (1.0 - share) * p.exp()
            law[tokens[answer[rank]]] += share
            losses.append((law * (law.log() - q)).sum())
    assert output.loss.item() == pytest.approx(float(torch.stack(losses).mean()), rel=1e-10)
    assert objective.bound_gap(process) == "StoredTrajectory follows the text"


def test_the_mean_over_steps_is_the_samplers_exact_likelihood() -> None:
    model, process, copies = network(0), MaskingProcess(MASK, predicts_mask=False), 64
    tokens = torch.randint(MASK, (1, 11), generator=torch.Generator().manual_seed(1)).expand(copies, -1)
    objective = taught(TrajectoryDistillation(4, 4), network(1))
    output = objective(model, process, tokens, random=RowRandom.from_seed(0, copies))
    steps = {round(float(t), 6): float(nelbo) / 3 for t, nelbo in zip(output.t, output.nelbo, strict=True)}
    assert set(output.t.tolist()) == {3 / 11, 7 / 11, 1.0}
    sampler = UnmaskingSampler(PerStep(4), Spread(), proposal=Proposal(temperature=1.0))
    exact = -float(sampler.likelihood(model, tokens[:1], process).log_likelihood)
    assert sum(steps.values()) == pytest.approx(exact, rel=1e-6)
    assert objective.bound_gap(PROCESS) is None


def test_trajectories_are_orders_of_the_maskable_tokens() -> None:
    maskable = BATCH["maskable"]
    for trajectory in (SpreadTrajectory(), RandomTrajectory()):
        rank = trajectory(BATCH, maskable, streams())
        for row, mine in zip(rank, maskable, strict=True):
            assert sorted(row[mine].tolist()) == list(range(int(mine.sum())))
    assert SpreadTrajectory()(BATCH, torch.ones(1, 8).bool(), streams()).tolist() == [[0, 4, 2, 6, 1, 5, 3, 7]]


def test_consistency_is_the_divergence_between_two_times_of_the_same_noise() -> None:
    objective = ConsistencyDistillation(num_steps=4)
    draw = objective.lesson(as_denoiser(network(0)), as_denoiser(network(1)), UNIFORM, BATCH, streams()).draw
    s = draw.t - 0.25
    z_s = objective.noised(UNIFORM, draw.x_0, draw.maskable, s, streams().fold_in(1))

    def expected(student: Any, teacher: Any) -> Tensor:
        real = {"attention_mask": BATCH["attention_mask"]}
        terms = kl(teacher(z_s, **real).detach(), student(draw.tokens, **real))
        return terms[BATCH["maskable"]].mean()

    same_loss_and_gradient(objective, UNIFORM, expected)
    assert torch.equal(draw.tokens[~BATCH["maskable"]], BATCH["tokens"][~BATCH["maskable"]])


def test_the_noise_of_both_times_is_uniform_and_falls_together() -> None:
    """Chi-square over the tokens of 20,000 positions at either time; false alarm once in a million."""
    rows, process = 400, UniformProcess(num_tokens=5)
    x_0, random = torch.full((rows, 50), 3), RowRandom.from_seed(0, rows)
    objective, everywhere = ConsistencyDistillation(), torch.ones(rows, 50, dtype=torch.bool)
    at = [objective.noised(process, x_0, everywhere, torch.full((rows, 1), t).double(), random) for t in (0.7, 0.4)]
    for tokens, t in zip(at, (0.7, 0.4), strict=True):
        law = torch.full((5,), t / 5).double()
        law[3] += 1.0 - t
        counts = tokens.flatten().bincount(minlength=5)
        assert float(((counts - 20_000 * law).square() / (20_000 * law)).sum()) < 33.4
    assert bool((at[1][at[0] == 3] == 3).all())
    changed = at[1] != 3
    assert torch.equal(at[0][changed], at[1][changed])  # what is still noise is the same noise


def test_a_teacher_that_sees_the_same_has_nothing_to_teach() -> None:
    model = network(0)
    same = taught(TrajectoryDistillation(3, 3), model)(model, PROCESS, BATCH, random=streams())
    assert abs(same.numerator.item()) < 1e-12
    nearly = taught(ConsistencyDistillation(num_steps=10**6), model)(model, UNIFORM, BATCH, random=streams())
    assert abs(nearly.numerator.item()) < 1e-12


def test_a_partial_block_has_clean_ones_before_it_and_masks_behind_it() -> None:
    design = PartialBlock(2, share=0.4)
    seen = set()
    for step in range(20):
        draw = design(as_denoiser(network()), PROCESS, BATCH, random=streams(step=step))
        first, second = draw.scored.chunk(2)
        assert not (first & second).any()
        for row, mine in enumerate(BATCH["maskable"]):
            answer = mine.nonzero()[:, 0]
            block = answer.split(2)
            both = (first | second)[row].nonzero()[:, 0]
            number = next(i for i, one in enumerate(block) if torch.equal(one, both))
            seen.add((number, len(block)))
            for copy in (row, row + len(first)):
                masked = draw.tokens[copy] == MASK
                assert not masked[: both[0]].any()
                assert masked[answer[answer > both[-1]]].all()
                assert torch.equal(masked[both], draw.scored[copy][both])
                assert float(draw.t[copy]) == int(masked.sum()) / len(answer)
    assert all((number, total) in seen for _, total in seen for number in range(total))


def test_certainty_forcing_is_its_formula() -> None:
    objective, student = CertaintyForcing(PartialBlock(3), certainty=1.5, temperature=0.7), network(0)
    draw = objective.design(as_denoiser(student), PROCESS, BATCH, random=streams())
    objective(student, PROCESS, BATCH, random=streams()).loss.backward()
    found = gradients(student)
    logits = student(draw.tokens, attention_mask=draw.inputs["attention_mask"])
    law = (logits / 0.7).log_softmax(-1)
    entropy, right = -(law.exp() * law).sum(-1), (logits.argmax(-1) == draw.x_0) & draw.scored
    assert right.any()
    ce = torch.nn.functional.cross_entropy(logits[draw.scored], draw.x_0[draw.scored])
    (ce + 1.5 * entropy[right].mean()).backward()
    for one, other in zip(found, gradients(student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)
    assert "one block" in str(objective.bound_gap(PROCESS))


def fitted(folder: Any, steps: int, resume: Any = None) -> tuple[DiffusionLM, DistillationRounds, list[int]]:
    rows = [{"tokens": row} for row in torch.randint(MASK, (12, 6), generator=torch.Generator().manual_seed(0))]
    objective = SelfDistillation(num_steps=8, teacher_steps=2)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    model, rounds, seen = DiffusionLM(network(0), PROCESS, objective, optimizer=optimizer), DistillationRounds(2), []
    step = model.training_step
    model.training_step = lambda *given: seen.append(model.objective.num_steps) or step(*given)  # type: ignore[method-assign, attr-defined, func-returns-value]
    trainer = Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", callbacks=[rounds], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(rows, 4), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return model, rounds, seen


def test_in_rounds_the_student_becomes_the_teacher_and_a_resumed_run_goes_on(tmp_path: Any) -> None:
    whole, rounds, seen = fitted(tmp_path, 5)
    assert seen == [8, 8, 4, 4, 2]
    assert whole.objective.num_steps == 8  # type: ignore[attr-defined]
    four, _, _ = fitted(tmp_path, 4)
    for name, value in rounds.state_dict()["teacher"].items():
        assert torch.equal(value, four.backbone.state_dict()[name])  # type: ignore[union-attr, operator]
    fitted(tmp_path, 3)
    resumed, _, later = fitted(tmp_path, 5, resume=tmp_path / "3.ckpt")
    assert later == [4, 2]
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="1 <= teacher_tokens"):
        TrajectoryDistillation(4, 5)
    with pytest.raises(ValueError, match="label_share must be"):
        TrajectoryDistillation(label_share=1.5)
    with pytest.raises(ValueError, match="num_steps must be"):
        ConsistencyDistillation(num_steps=0)
    with pytest.raises(ValueError, match="that of uniform noise"):
        taught(ConsistencyDistillation(), network())(network(), PROCESS, BATCH, random=streams())
    posterior = UniformProcess(num_tokens=VOCAB, posterior=True)
    with pytest.raises(ValueError, match="that of uniform noise"):
        taught(ConsistencyDistillation(), network())(network(), posterior, BATCH, random=streams())
    for objective in (taught(TrajectoryDistillation(), network()), CertaintyForcing()):
        with pytest.raises(ValueError, match="masked diffusion only"):
            objective(network(), UNIFORM, BATCH, random=streams())
        packed = {**BATCH, "segment_ids": torch.zeros_like(BATCH["tokens"])}
        with pytest.raises(ValueError, match="packed rows"):
            objective(network(), PROCESS, packed, random=streams())
    with pytest.raises(ValueError, match="column 'rank'"):
        taught(TrajectoryDistillation(trajectory=StoredTrajectory()), network())(
            network(), PROCESS, BATCH, random=streams()
        )
    with pytest.raises(ValueError, match="share in"):
        PartialBlock(share=1.0)
    with pytest.raises(ValueError, match="temperature above 0"):
        CertaintyForcing(temperature=0.0)
    with pytest.raises(ValueError, match="every must be"):
        DistillationRounds(0)
    assert math.isfinite(float(CertaintyForcing()(network(), PROCESS, BATCH, random=streams()).loss.detach()))

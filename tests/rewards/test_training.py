"""Learning from rewards under the Trainer: rollouts, ratios, resuming, ranks."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.denoiser import as_denoiser
from llada.heads import prepacked
from llada.module import DiffusionLM
from llada.objectives import FrozenCopy
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from llada.rewards import (
    Episodes,
    FullMask,
    PolicyObjective,
    Prompt,
    Reward,
    Rollout,
    RolloutLoader,
    Row,
    Trajectory,
    Writer,
    coupled_grpo,
    diffu_grpo,
    trace_rl,
    trajectory_grpo,
)
from llada.samplers import (
    Blocks,
    Confidence,
    DelayedCache,
    DistinctRows,
    DualCache,
    IntervalCache,
    LeftToRight,
    Margin,
    NoCache,
    PerStep,
    PrefixCache,
    Proposal,
    RandomOrder,
    Threshold,
    TopProb,
    UnmaskingSampler,
)
from llada.training.callbacks import Rewards
from tests.ranks import run_two_ranks
from tests.scripts import train_rewards

VOCAB, MASK, STOP = 8, 7, 0
PROCESS = MaskingProcess(MASK)
SAMPLER = UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(1.0))
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip


class Ones(Reward):
    """How many ones an answer has."""

    def score(self, prompt: str, answer: str, row: Row) -> float:
        return answer.count("1") + 0.01 * len(prompt)


def network(double: bool = False, std: float = 0.5) -> BidirectionalTransformer:
    torch.manual_seed(0)
    made = BidirectionalTransformer(VOCAB, width=16, num_layers=2, num_heads=2)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return made.double() if double else made


def writer(group_size: int = 4, answer_length: int = 5) -> Writer:
    return Writer(
        Rollout(group_size, answer_length), Ones(), lambda ids: "".join(map(str, ids)), stop_token_ids=(STOP,)
    )


def prompts(number: int) -> list[Prompt]:
    asked = torch.randint(1, MASK, (number, 2), generator=torch.Generator().manual_seed(0)).tolist()
    return [Prompt(tokens[: 1 + index % 2], str(tokens), {}) for index, tokens in enumerate(asked)]


@pytest.mark.parametrize(
    "cache", [NoCache(), DistinctRows(), PrefixCache(), DualCache(), DelayedCache(), IntervalCache(4, 2, 0.5)]
)
@pytest.mark.parametrize("proposal", [Proposal(1.0), Proposal(0.7, top_p=0.8), Proposal(1.4, top_k=3)], ids=str)
def test_the_ratio_is_one_where_the_policy_is_the_one_that_wrote(
    cache: Any, proposal: Proposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, with padded rows, and the gradient is that of the sampler's likelihood."""
    monkeypatch.setattr(prepacked, "LEAST_ELEMENTS", 1)  # as with a large vocabulary, whose matrix decoding reorders
    for order, amount in ((TopProb(), PerStep(2)), (Margin(), Threshold(0.4)), (RandomOrder(), PerStep(1))):
        sampler = UnmaskingSampler(amount, order, proposal=proposal, cache=cache, window=Blocks(4))
        model, padded = network(), [[1, 2, 3, 4], [5]] if isinstance(cache, NoCache) else [[1, 2], [5, 6]]
        batch = Rollout(2, 8)(sampler, model, PROCESS, padded, seeds=torch.arange(4) + 3)
        batch["advantage"] = torch.tensor([1.0, -1.0, 0.5, 0.2])
        objective = PolicyObjective(sampler)
        output = objective(model, PROCESS, batch, random=RowRandom.from_seed(0, 4))
        assert output.sums["policy_ratio_error"] == 0.0
        assert output.denominator == batch["open"].sum() == 32
        total = sampler.likelihood(
            model, batch["tokens"], PROCESS, given=~batch["open"], seed=batch["seed"], **Episodes.of(batch).inputs
        ).log_likelihood
        torch.testing.assert_close(-output.nelbo, total)
        torch.testing.assert_close(batch["old_log_prob"].sum(1), total)
        output.loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    changed = objective(model, PROCESS, batch, random=RowRandom.from_seed(0, 4))
    assert changed.sums["policy_ratio_error"] > 0.1


def test_gradients_pass_through_what_caches_keep() -> None:
    """Along a direction the derivative is the difference quotient, which it isn't if the cache is a constant."""
    sampler = UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(1.0), cache=DualCache(), window=Blocks(4))
    model = network(double=True, std=0.4)
    batch = Rollout(2, 8)(sampler, model, PROCESS, [[1, 2]], seeds=torch.arange(2))
    batch["advantage"] = torch.ones(2)
    parameters = list(model.parameters())
    tangents = [torch.randn_like(p) for p in parameters]

    def likelihood() -> Tensor:
        return Trajectory()(
            sampler, _denoiser(model), PROCESS, Episodes.of(batch), random=RowRandom.from_seed(0, 2)
        ).log_prob.sum()

    gradients = torch.autograd.grad(likelihood(), parameters)
    slope = sum(float((g * t).sum()) for g, t in zip(gradients, tangents, strict=True))
    with torch.no_grad():
        values = []
        for step in (1e-6, -2e-6):  # 1e-3 can change the order of the draws, where the likelihood jumps
            for p, t in zip(parameters, tangents, strict=True):
                p.add_(t, alpha=step)
            values.append(float(likelihood()))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=0.02)


def _denoiser(model: nn.Module) -> Any:
    return as_denoiser(model)


def test_a_subset_of_steps_has_the_gradient_of_all_in_the_mean() -> None:
    sampler = UnmaskingSampler(PerStep(1), LeftToRight(), proposal=Proposal(1.0))
    model = network(double=True)
    batch = Rollout(3, 4)(sampler, model, PROCESS, [[1, 2]], seeds=torch.arange(3))
    batch["advantage"] = torch.tensor([1.0, -0.5, 0.3])
    parameters = list(model.parameters())

    def gradient(proxy: Trajectory, seed: int) -> Tensor:
        output = PolicyObjective(sampler, proxy)(model, PROCESS, batch, random=RowRandom.from_seed(seed, 3))
        return torch.cat([g.flatten() for g in torch.autograd.grad(output.loss, parameters)])

    every = gradient(Trajectory(), 0)
    found = {tuple(part.tolist()): part for part in (gradient(Trajectory(num_steps=1), seed) for seed in range(20))}
    assert len(found) == 4  # one for each step
    torch.testing.assert_close(torch.stack(list(found.values())).mean(0), every, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient(Trajectory(num_steps=9), 0), every)
    with pytest.raises(ValueError, match="num_steps must be 1 or more"):
        Trajectory(0)


def test_what_follows_the_end_of_an_answer() -> None:
    """Counted are the tokens that may have had a part in the answer: those that were there before it was finished."""
    tokens = torch.tensor([[5, 1, STOP, 2, 3, 4], [5, 1, 2, 3, 4, 1], [5, STOP, 1, 1, STOP, 1]])
    opened = torch.tensor([False, *[True] * 5]).expand(3, 6)
    step = torch.tensor([[-1, 2, 1, 0, 2, 3], [-1, 0, 1, 2, 3, 4], [-1, 1, 0, 2, -1, 1]])
    exact = Rollout(2, 5)._counted(tokens, opened, step, [STOP])
    plain = Rollout(2, 5, after_stop=False)._counted(tokens, opened, step, [STOP])
    assert exact.int().tolist() == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert plain.int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]]


def test_what_can_not_be_learnt_from() -> None:
    with pytest.raises(
        ValueError, match=r"Confidence may choose positions by tokens that are drawn .* Or take a proxy"
    ):
        PolicyObjective(UnmaskingSampler(PerStep(1), Confidence(), proposal=Proposal(1.0)))
    with pytest.raises(ValueError, match="at temperature 0 it writes one text"):
        PolicyObjective(UnmaskingSampler(PerStep(1), TopProb()))
    PolicyObjective(UnmaskingSampler(PerStep(1), Confidence(), proposal=Proposal(1.0)), FullMask())
    with pytest.raises(ValueError, match=r"needs the column\(s\) maskable, open, step, seed, inner, advantage"):
        trajectory_grpo()(network(), PROCESS, torch.zeros(1, 3).long(), random=RowRandom.from_seed(0, 1))
    with pytest.raises(ValueError, match="rewards are learnt from by masked diffusion"):
        trajectory_grpo()(network(), UniformProcess(VOCAB), {}, random=RowRandom.from_seed(0, 1))
    with pytest.raises(ValueError, match="group_size must be 2 or more"):
        RolloutLoader(prompts(2), writer(group_size=1), 1)


def test_dropout_is_off() -> None:
    """The policy is the network that wrote the texts; in training mode the numbers are the same."""
    torch.manual_seed(0)
    model = DiffusionTransformer(VOCAB, width=16, num_layers=1, num_heads=2, cond_width=8, dropout=0.5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = Rollout(2, 4)(SAMPLER, model.eval(), PROCESS, [[1]], seeds=torch.arange(2))
    batch["advantage"] = torch.ones(2)
    output = PolicyObjective(SAMPLER)(model.train(), PROCESS, batch, random=RowRandom.from_seed(0, 2))
    assert output.sums["policy_ratio_error"] == 0.0
    assert all(part.training for part in model.modules())


class Kept(Callback):
    """Remembers the batches of a run, and what the Trainer logs."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append({name: value for name, value in batch.items() if name != "seconds"})

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(
    objective: PolicyObjective,
    steps: int,
    ckpt: Path | None = None,
) -> tuple[DiffusionLM, Kept, Trainer]:
    """Train for some steps, six micro-batches in an epoch, three optimiser steps for each rollout."""
    model = DiffusionLM(network(), PROCESS, objective, sampler=SAMPLER, optimizer=partial(torch.optim.Adam, lr=0.01))
    kept = Kept()
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        callbacks=[Rewards(0), kept],
        **QUIET,
    )
    loader = RolloutLoader(prompts(9), writer(), batch_size=2, inner_steps=3, seed=1, trainer=trainer)
    trainer.fit(model, loader, ckpt_path=ckpt, weights_only=False)
    return model, kept, trainer


@pytest.mark.parametrize("objective", [trajectory_grpo(SAMPLER), coupled_grpo(SAMPLER, 0.0)], ids=["exact", "coupled"])
@pytest.mark.parametrize("stop", [2, 6])
def test_a_killed_run_goes_on_bit_by_bit(objective: PolicyObjective, stop: int, tmp_path: Path) -> None:
    """In the middle of the steps on one rollout, and at the end of an epoch."""
    whole, kept, _ = fit(objective, 8)
    _, first, trainer = fit(objective, stop)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed, second, _ = fit(objective, 8, tmp_path / "model.ckpt")
    together = first.batches + second.batches
    assert len(together) == len(kept.batches) == 16
    for one, other in zip(together, kept.batches, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    inner = [int(batch["inner"][0]) for batch in kept.batches]
    assert inner == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 0, 0, 1, 1]
    steps = kept.logged[1::2]
    assert [step["train/policy_ratio_error"] for step in steps] == [0.0] * 8  # counts in first steps alone
    assert [step["train/policy_ratio_change"] > 0.0 for step in steps] == [False, True, True] * 2 + [False, True]
    assert {"train/reward", "train/reward_spread", "train/rollout_seconds", "train/calls"} <= steps[0].keys()


def test_another_place_is_refused(tmp_path: Path) -> None:
    loader = RolloutLoader(prompts(9), writer(), batch_size=2, inner_steps=3, seed=1)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="has inner_steps=2, but had 3 when it was saved"):
        RolloutLoader(prompts(9), writer(), batch_size=2, inner_steps=2, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="less than the 2 of one optimiser step"):
        next(iter(RolloutLoader(prompts(1), writer(), batch_size=2)))
    with pytest.raises(ValueError, match="rollouts need a model"):
        next(iter(loader))


def test_rewards_are_learnt() -> None:
    """A few dozen steps take the share of ones from an eighth to most of the answer."""
    model = DiffusionLM(network(std=0.05), PROCESS, trajectory_grpo(SAMPLER), sampler=SAMPLER)
    model.optimizer = partial(torch.optim.Adam, lr=0.02)
    kept = Kept()
    trainer = Trainer(max_steps=24, callbacks=[kept], **QUIET)
    trainer.fit(model, RolloutLoader(prompts(96), writer(group_size=8), batch_size=4, trainer=trainer))
    rewards = [float(batch["reward"].mean()) for batch in kept.batches]
    assert sum(rewards[:5]) / 5 < 1.5
    assert sum(rewards[-5:]) / 5 > 3.5


def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    """The rollouts too: each prompt has the same answers wherever it is."""
    run_two_ranks("train_rewards.py", tmp_path / "two.pt")
    weights, _ = train_rewards.fit(1)
    torch.testing.assert_close(torch.load(tmp_path / "two.pt")["weights"], weights, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    "objective", [trajectory_grpo(SAMPLER), PolicyObjective(SAMPLER, FullMask())], ids=["steps", "mask"]
)
def test_rows_without_an_advantage_need_not_be_read(objective: PolicyObjective) -> None:
    """Loss, gradient and what is logged are those of all rows; the model sees those with an advantage."""
    model, asked = network(double=True), [[1, 2], [3]]
    batch = Rollout(4, 5)(SAMPLER, model, PROCESS, asked, seeds=torch.arange(8), stop_token_ids=(STOP,))
    batch["advantage"] = torch.tensor([0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    if not objective.proxy.recorded:
        batch.pop("old_log_prob")
    seen: list[int] = []
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))

    def found(useful_only: bool) -> tuple[Any, list[Tensor]]:
        output = replace(objective, useful_only=useful_only)(model, PROCESS, batch, random=RowRandom.from_seed(0, 8))
        return output, list(torch.autograd.grad(output.loss, list(model.parameters())))

    (whole, gradient), (part, mine) = found(False), found(True)
    torch.testing.assert_close((part.loss, part.denominator, mine), (whole.loss, whole.denominator, gradient))
    assert sum(seen[len(seen) // 2 :]) <= 0.3 * sum(seen[: len(seen) // 2])
    if objective.proxy.recorded:
        torch.testing.assert_close((part.sums, part.nelbo), (whole.sums, whole.nelbo))
    batch["advantage"] = torch.zeros(8)
    output, zero = found(True)
    assert output.loss == 0.0
    assert all(bool((each == 0.0).all()) for each in zero)
    with pytest.raises(ValueError, match="a KL term is about all rows"):
        PolicyObjective(SAMPLER, kl_weight=0.1, reference=FrozenCopy(), useful_only=True)


def test_prompts_without_gaps_have_nothing_to_learn() -> None:
    """Nothing is drawn, so no log-probability has a gradient; the step is one of zeros, as other ranks wait for it."""
    for objective in (trajectory_grpo(SAMPLER), trace_rl(SAMPLER, kl_weight=0.0), diffu_grpo(SAMPLER, kl_weight=0.0)):
        model = network()
        batch = Rollout(2, 0)(SAMPLER, model, PROCESS, [[1, 2], [3]], seeds=torch.arange(4))
        batch["advantage"] = torch.tensor([0.5, -0.5, 0.0, 0.0])
        output = objective(model, PROCESS, batch, random=RowRandom.from_seed(0, 4))
        gradient = torch.autograd.grad(output.loss, list(model.parameters()))
        assert output.loss == 0.0
        assert all(bool((each == 0.0).all()) for each in gradient)

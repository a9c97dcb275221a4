"""Each published method equals its formula, written out here in loops after the paper and the authors' code.

The loops see the masks that a method draws only through the canvases on which the model is asked.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.objectives import FrozenCopy
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.rewards import (
    Episodes,
    GroupMean,
    LeaveOneOut,
    PolicyObjective,
    Replay,
    Rollout,
    Sandwich,
    SoftmaxDifference,
    ZScore,
    coupled_grpo,
    diffu_grpo,
    ebpo,
    spg,
    trace_rl,
    trajectory_grpo,
    wd1,
)
from llada.samplers import PerStep, Proposal, TopProb, UnmaskingSampler

VOCAB, PROMPT, ANSWER, GROUP, STOP = 8, 3, 6, 4, 2
MASK, LENGTH, ROWS = VOCAB - 1, PROMPT + ANSWER, 2 * GROUP
PROCESS = MaskingProcess(MASK)
SAMPLER = UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(1.0))
CLOSE = {"rtol": 0.0, "atol": 1e-6}  # heads work in float32


def network(seed: int, block_length: int | None = None) -> BidirectionalTransformer:
    torch.manual_seed(seed)
    made = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2, block_length=block_length).double()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return made.eval()


class Watched(nn.Module):
    """A model that remembers on which canvases it was asked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.canvases = inner, list[Tensor]()

    def forward(self, tokens: Tensor) -> Tensor:
        self.canvases.append(tokens)
        return self.inner(tokens)


def law(model: nn.Module, canvas: Tensor, text: Tensor) -> Tensor:
    """log p of the text's tokens at every position, (B, L); the mask token is no answer."""
    logits = model(canvas).clone()
    logits[..., MASK] = -torch.inf
    return logits.log_softmax(-1).gather(-1, text[..., None]).squeeze(-1)


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    """Answers of an older policy, ends of different lengths among them, their rewards, and log p of that policy."""
    prompts = torch.randint(1, MASK, (2, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()
    rollout = Rollout(GROUP, ANSWER, after_stop=False)
    batch = rollout(SAMPLER, network(0), PROCESS, prompts, seeds=torch.arange(ROWS) + 7, stop_token_ids=[STOP])
    lengths = batch["maskable"].sum(1)
    assert int(lengths.min()) < ANSWER == int(lengths.max())
    batch["reward"] = torch.tensor([0.1, 0.9, 0.4, 0.4, 1.0, 0.0, 0.0, 0.5], dtype=torch.float64)
    batch["inner"] = torch.ones(ROWS, dtype=torch.int64)
    return batch


def ppo(now: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    ratio = (now - old).exp()
    return -torch.min(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)


def kl(now: Tensor, reference: Tensor) -> Tensor:
    return torch.exp(reference - now) - (reference - now) - 1


def loss_of(objective: PolicyObjective, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    return objective(model, PROCESS, batch, random=RowRandom.from_seed(0, ROWS)).loss


def checked(ours: Tensor, theirs: Tensor, model: nn.Module) -> None:
    """Loss and gradient agree, and say something."""
    torch.testing.assert_close(ours, theirs, **CLOSE)
    parameters = list(model.parameters())
    first, second = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (ours, theirs))
    assert max(float(g.abs().max()) for g in first if g is not None) > 1e-4
    for one, other in zip(first, second, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, **CLOSE)


def asked(objective: PolicyObjective, batch: dict[str, Tensor]) -> list[Tensor]:
    watched = Watched(network(1))
    loss_of(objective, batch, watched)
    return watched.canvases


def test_advantages(stored: dict[str, Tensor]) -> None:
    rewards = stored["reward"].view(2, GROUP)
    for group, mean, others, z, pull in zip(
        rewards.tolist(),
        GroupMean()(rewards).tolist(),
        LeaveOneOut()(rewards).tolist(),
        ZScore()(rewards).tolist(),
        SoftmaxDifference(2.0)(rewards).tolist(),
        strict=True,
    ):
        centre = sum(group) / GROUP
        deviation = math.sqrt(sum((r - centre) ** 2 for r in group) / GROUP)
        up, down = (sum(math.exp(sign * 2.0 * (r - centre)) for r in group) for sign in (1, -1))
        for i, r in enumerate(group):
            assert mean[i] == pytest.approx(r - centre)
            assert others[i] == pytest.approx(r - (sum(group) - r) / (GROUP - 1))
            assert z[i] == pytest.approx((r - centre) / deviation)
            a = 2.0 * (r - centre)
            assert pull[i] == pytest.approx(GROUP * (math.exp(a) / up - math.exp(-a) / down))
    for rule in (GroupMean(), LeaveOneOut(), ZScore(), SoftmaxDifference()):
        assert rule(torch.full((2, 3), 0.1)).eq(0.0).all()  # not a number of rounding
        assert rule(torch.tensor([[0.1 + 0.2, 0.3, 0.3], [-5.0, -5.0, -5.0]], dtype=torch.float64)).eq(0.0).all()
        with pytest.raises(ValueError, match=r"rewards up to 1\.7e\+308 are too large to be compared"):
            rule(torch.tensor([[1.7e308, 1.7e308, -1.7e308]], dtype=torch.float64))
        with pytest.raises(ValueError, match="a group needs 2 answers"):
            rule(torch.ones(2, 1))
        with pytest.raises(ValueError, match="must be finite; got nan"):
            rule(torch.tensor([[0.0, math.nan]]))


def test_diffu_grpo(stored: dict[str, Tensor]) -> None:
    model, before, first = network(1), network(0), network(2)
    reference = FrozenCopy()
    reference.hold(first)
    objective = diffu_grpo(SAMPLER, prompt_masking=0.4, kl_weight=0.04, reference=reference)
    advantage = GroupMean()(stored["reward"].view(2, GROUP)).flatten()
    batch = {**stored, "advantage": advantage}
    batch["old_log_prob"] = objective.old_log_prob(before, PROCESS, batch)
    (canvas,) = asked(PolicyObjective(SAMPLER, objective.proxy), batch)
    prompt = canvas[:, :PROMPT] == MASK
    assert canvas[:, PROMPT:].eq(MASK).all()
    assert 0 < int(prompt.sum()) < prompt.numel()
    now, old, ref = (law(each, canvas, stored["tokens"]) for each in (model, before, first))
    mask = stored["maskable"].double()
    per_token = ppo(now, old, advantage[:, None], 0.5, 0.5) + 0.04 * kl(now, ref)
    checked(loss_of(objective, batch, model), (per_token * mask).sum() / mask.sum(), model)
    (other,) = asked(PolicyObjective(SAMPLER, objective.proxy), {**batch, "inner": batch["inner"] + 1})
    assert not torch.equal(other, canvas)  # another mask in each inner step, the same for all models


def test_coupled_grpo(stored: dict[str, Tensor]) -> None:
    model, before = network(1), network(0)
    objective = coupled_grpo(SAMPLER, kl_weight=0.0)
    advantage = LeaveOneOut()(stored["reward"].view(2, GROUP)).flatten()
    batch = {**stored, "advantage": advantage}
    batch["old_log_prob"] = objective.old_log_prob(before, PROCESS, batch)
    whole, one, two = asked(objective, batch)
    assert whole[:, PROMPT:].eq(MASK).all()
    assert ((one == MASK) ^ (two == MASK))[:, PROMPT:].all()
    share = 0.2 + 0.6 * _shares(batch)

    def estimate(each: nn.Module) -> Tensor:
        full, first, second = (law(each, canvas, stored["tokens"]) for canvas in (whole, one, two))
        return (full + torch.where(one == MASK, first / share, second / (1 - share))) / 2

    mask = stored["maskable"].double()
    per_token = ppo(estimate(model), estimate(before), advantage[:, None], 0.5, 0.5)
    checked(loss_of(objective, batch, model), (per_token * mask).sum() / mask.sum(), model)


def _shares(batch: dict[str, Tensor]) -> Tensor:
    """The uniform number from which each row's rho is made."""
    return Episodes.of(batch).noise(1).of_rows()


def test_wd1(stored: dict[str, Tensor]) -> None:
    """The reference sums over a batch; here each prompt's group is one, and the mean over prompts counts."""
    model, objective = network(1), wd1(SAMPLER, prompt_masking=0.4)
    batch = {**stored, "advantage": SoftmaxDifference()(stored["reward"].view(2, GROUP)).flatten()}
    (canvas,) = asked(objective, batch)
    log_prob = (law(model, canvas, stored["tokens"]) * stored["maskable"]).sum(1).view(2, GROUP)
    losses = []
    for group, rewards in zip(log_prob, stored["reward"].view(2, GROUP), strict=True):
        a = rewards - rewards.mean()
        losses.append(-(group * a.softmax(0)).sum() + (group * (-a).softmax(0)).sum())
    checked(loss_of(objective, batch, model), torch.stack(losses).mean(), model)


@pytest.mark.parametrize("block_length", [None, 2])
def test_spg(stored: dict[str, Tensor], block_length: int | None) -> None:
    model = network(1)
    objective = spg(SAMPLER, draws=3, beta=1.5, mix=0.5, prompt_masking=0.3, block_length=block_length)
    advantage = GroupMean()(stored["reward"].view(2, GROUP)).flatten()
    batch = {**stored, "advantage": advantage}
    canvases, text, counts = asked(objective, batch), stored["tokens"], stored["maskable"]
    total = torch.zeros((), dtype=torch.float64)
    for row in range(ROWS):
        number = int(counts[row].sum())
        lower, powers, seen = [], torch.zeros(LENGTH, dtype=torch.float64), torch.zeros(LENGTH, dtype=torch.bool)
        for canvas in canvases:
            masked = (canvas[row] == MASK) & counts[row]
            if block_length is not None:  # of what is masked the first block with a mask and not all before it hidden
                masked &= _block_read(masked, number, block_length, batch, row, len(lower))
            log_p = law(model, canvas[row : row + 1], text[row : row + 1])[0]
            lower.append(log_p[masked].sum() / masked.sum())
            powers = powers + masked * log_p.exp().pow(1.5) / (masked.sum() / number)
            seen |= masked
            assert (canvas[row, PROMPT:][~counts[row, PROMPT:]] == MASK).all()  # what follows the end is masked
        elbo = torch.stack(lower).mean()
        eubo = (powers[seen] / len(canvases)).log().sum() / seen.sum() / 1.5
        estimate = elbo if advantage[row] > 0 else 0.5 * eubo + 0.5 * elbo
        total = total - advantage[row] * estimate * number
    checked(loss_of(objective, batch, model), total / counts.sum(), model)


def _block_read(
    masked: Tensor, number: int, block_length: int, batch: dict[str, Tensor], row: int, draw: int
) -> Tensor:
    """The block of the draw: all that counts behind it is masked, and some of it."""
    within, behind = Sandwich(block_length=block_length)._block(Episodes.of(batch), draw)
    places = within[row].nonzero()[:, 0] - PROMPT
    assert places.tolist() == list(range(int(places[0]), int(places[0]) + block_length))
    assert places[0] % block_length == 0
    assert places[0] < number
    assert masked[behind[row] & batch["maskable"][row]].all()
    assert masked[within[row]].any()
    return within[row]


@pytest.mark.parametrize("shrink", [1, 2])
def test_trace_rl(stored: dict[str, Tensor], shrink: int) -> None:
    """The reference makes a row of each round; here the rounds of a row are one row, divided by L1 once."""
    model, before = network(1), network(0)
    objective = trace_rl(SAMPLER, shrink)
    advantage = ZScore()(stored["reward"].view(2, GROUP)).flatten()
    batch = {**stored, "advantage": advantage}
    batch["old_log_prob"] = objective.old_log_prob(before, PROCESS, batch)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(ROWS):
        steps, text = stored["step"][row], stored["tokens"][row]
        times = sorted({int(step) for step in steps if step >= 0})
        for first in range(0, len(times), shrink):
            merged = times[first : first + shrink]
            chosen = torch.tensor([int(step) in merged for step in steps]) & stored["maskable"][row]
            canvas = torch.where(steps >= merged[0], MASK, text)
            now, old = (law(each, canvas[None], text[None])[0][chosen] for each in (model, before))
            clipped = ppo(now, old, advantage[row], 0.2, 0.2).sum() / ANSWER
            total = total + (clipped + 0.01 * kl(now, old).sum() / ANSWER) / ROWS
    checked(loss_of(objective, batch, model), total, model)


def test_replay_of_a_block_model_takes_one_pass_per_round() -> None:
    model = network(3, block_length=3)
    batch = Rollout(1, 6)(SAMPLER, model, PROCESS, [[1, 2, 3]] * 4, seeds=torch.arange(4))
    objective = PolicyObjective(SAMPLER, Replay())
    batch["advantage"] = torch.ones(4)
    found = objective.old_log_prob(model, PROCESS, batch)
    for row in range(4):
        steps, text = batch["step"][row], batch["tokens"][row]
        for at in range(3, 9):
            later = (steps >= steps[at]) & (torch.arange(9) // 3 == at // 3)  # later blocks aren't seen anyway
            assert found[row, at].item() == pytest.approx(
                law(model, torch.where(later, MASK, text)[None], text[None])[0, at].item(), abs=1e-6
            )


@pytest.mark.parametrize("blocks", ["row", "answer", "model"])
def test_ebpo(stored: dict[str, Tensor], blocks: str) -> None:
    """Ratios of whole rows; the blocks of a model with its own are read beside the clean row."""
    own = 3 if blocks == "model" else None
    length = {"row": None, "answer": 2, "model": None}[blocks]
    model, before, levels = network(1, own), network(0, own), (0.3, 0.8)
    objective = ebpo(SAMPLER, levels, length, low=0.1, high=0.3)
    advantage = GroupMean()(stored["reward"].view(2, GROUP)).flatten()
    batch = {**stored, "advantage": advantage}
    batch["old_log_prob"] = objective.old_log_prob(before, PROCESS, batch)
    noise = _uniform(batch)

    def estimate(each: nn.Module, row: int) -> Tensor:
        total, text = torch.zeros((), dtype=torch.float64), stored["tokens"][row]
        for number, level in enumerate(levels):
            masked = (noise[number][row] < level) & (torch.arange(LENGTH) >= PROMPT)
            block = {
                "row": torch.zeros(LENGTH),
                "answer": (torch.arange(LENGTH) - PROMPT).div(2, rounding_mode="floor"),
            }
            place = block.get(blocks, torch.arange(LENGTH) // 3)
            for index in sorted(set(place[PROMPT:].tolist())):
                hidden = (torch.arange(LENGTH) >= PROMPT) & ((place > index) | (masked & (place == index)))
                chosen = masked & (place == index) & stored["maskable"][row]
                log_p = law(each, torch.where(hidden, MASK, text)[None], text[None])[0]
                total = total + log_p[chosen].sum() / (len(levels) * level)
        return total

    losses = []
    for row in range(ROWS):
        losses.append(ppo(estimate(model, row), estimate(before, row).detach(), advantage[row], 0.1, 0.3))
    ours = loss_of(objective, batch, model)
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=0.0, atol=1e-6)


def _uniform(batch: dict[str, Tensor]) -> list[Tensor]:
    return [Episodes.of(batch).noise(11).at_positions(number) for number in range(2)]


def test_the_default(stored: dict[str, Tensor]) -> None:
    """Tokens by the law they were drawn from, at the canvas that the sampler saw."""
    model = network(1)
    sampler = UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(0.7))
    batch = Rollout(GROUP, ANSWER)(sampler, network(0), PROCESS, [[1, 2, 3]] * 2, seeds=torch.arange(ROWS))
    advantage = LeaveOneOut()(stored["reward"].view(2, GROUP)).flatten()
    batch["advantage"] = advantage
    objective = trajectory_grpo(sampler, kl_weight=0.0)
    text, total = batch["tokens"], torch.zeros((), dtype=torch.float64)
    for row in range(ROWS):
        canvas = torch.where(torch.arange(LENGTH) < PROMPT, text[row], MASK)
        while bool((canvas == MASK).any()):
            logits = model(canvas[None])[0]
            logits[:, MASK] = -torch.inf
            sure = logits.softmax(-1).amax(-1).masked_fill(canvas != MASK, -1.0)
            now = (logits / 0.7).log_softmax(-1)
            for at in sure.topk(2).indices:
                old = batch["old_log_prob"][row, at]
                total = total + ppo(now[at, text[row, at]], old, advantage[row], 0.2, 0.28)
                canvas[at] = text[row, at]
    ours = loss_of(objective, batch, model)
    torch.testing.assert_close(ours, total / (ROWS * ANSWER), rtol=0.0, atol=1e-6)


METHODS: dict[str, Callable[..., PolicyObjective]] = {"diffu": diffu_grpo, "coupled": coupled_grpo}


@pytest.mark.parametrize("name", METHODS)
def test_a_kl_term_needs_its_reference(name: str) -> None:
    assert METHODS[name](kl_weight=0.0).reference is None
    assert METHODS[name]().reference == FrozenCopy()
    with pytest.raises(ValueError, match=r"kl_weight=0\.1 needs a reference"):
        PolicyObjective(kl_weight=0.1)

"""MDLM's reverse steps, as distributions and as tokens from given numbers: tests/golden/mdlm-dit-tiny/reverse_step."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import Ancestral, CappedRemasking, Proposal, Rates, State
from llada.samplers.layout import first_true
from llada.samplers.unmasking import UnmaskingSampler
from tests.golden_models import arrays, tiny_dit

MASK = 130
GOLDEN = arrays("mdlm-dit-tiny", "reverse_step")
FOLDERS = {"time_off": "checkpoint", "time_on": "checkpoint_time_conditioned"}
LOGLINEAR, LINEAR = LinearSchedule(eps=1e-3), LinearSchedule()
STEPS = {"t0.9.dt0.1": (1, 10), "t0.5.dt0.25": (2, 4), "t0.2.dt0.05": (16, 20)}
CLOSE = {"atol": 5e-6, "rtol": 0}


def progress(step: str, schedule: LinearSchedule) -> State:
    """The step of our grid that goes from t to t - dt."""
    k, steps = STEPS[step]
    masks = (GOLDEN["xt"] == MASK).sum(1)
    random = RowRandom.from_seed(0, len(masks))
    state = State.begin(MaskingProcess(MASK, schedule), GOLDEN["xt"], None, random)
    return replace(state, step=k, num_steps=torch.full_like(masks, steps), initial=masks, left=masks)


def predicted(network: str, step: str) -> Tensor:
    """p(x0) at every position, through the sampler's own way to it."""
    process = MaskingProcess(MASK, LOGLINEAR, time_conditioned=network == "time_on")
    tokens = GOLDEN["xt"]
    random = RowRandom.from_seed(0, len(tokens))
    columns, valid = first_true(torch.ones_like(tokens, dtype=torch.bool), tokens.shape[1])
    state = replace(State.begin(process, tokens, None, random), columns=columns, valid=valid)
    run = UnmaskingSampler(proposal=Proposal(1.0)).run(tiny_dit(FOLDERS[network]), state, {})
    return run.propose(state, Ancestral().time(progress(step, LOGLINEAR)), random=random).logits.double().softmax(-1)


def reverse(network: str, step: str, schedule: LinearSchedule, rates: Rates) -> Tensor:
    """The law of a masked token after the step, (B, L, V): uncovered by the rates and then drawn, or still masked."""
    chance = rates.unmask(progress(step, schedule))[:, None, None]
    law = chance * predicted(network, step)
    law[..., MASK] = 1.0 - chance[..., 0]
    return law


@pytest.mark.parametrize("rates", [Ancestral(), CappedRemasking(0.0)], ids=str)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("network", FOLDERS)
def test_ddpm_steps(network: str, step: str, rates: Rates) -> None:
    masked = GOLDEN["xt"] == MASK
    for name, schedule in (("ddpm", LOGLINEAR), ("ddpm_cache", LINEAR)):  # the caching sampler takes t for 0.999 t
        law, case = reverse(network, step, schedule, rates), f"{network}.{step}.{name}"
        if f"{case}.q_unnormalised" in GOLDEN:
            theirs = GOLDEN[f"{case}.q_unnormalised"].double()
            theirs = theirs / theirs.sum(-1, keepdim=True)
            torch.testing.assert_close(law[masked], theirs[masked], **CLOSE)
        uniform = GOLDEN["uniform"].double()
        drawn = (law / (1e-10 - (uniform + 1e-10).log())).argmax(-1)
        assert torch.equal(torch.where(masked, drawn, GOLDEN["xt"]), GOLDEN[f"{case}.x_next"])


@pytest.mark.parametrize("network", FOLDERS)
def test_the_analytic_sampler_is_ancestral(network: str) -> None:
    masked, case = GOLDEN["xt"] == MASK, f"{network}.t0.5.dt0.25.analytic"
    theirs = GOLDEN[f"{case}.probs"].double()
    torch.testing.assert_close(
        reverse(network, "t0.5.dt0.25", LOGLINEAR, Ancestral())[masked], theirs[masked], atol=2e-5, rtol=0
    )
    assert torch.equal(theirs[~masked].argmax(-1), GOLDEN["xt"][~masked])  # clean tokens stay


@pytest.mark.parametrize("network", FOLDERS)
def test_the_last_step_is_the_denoiser(network: str) -> None:
    """SEDD's denoising step leaves out the mask, as our last step does."""
    masked, case = GOLDEN["xt"] == MASK, f"{network}.t0.5.dt0.25.denoiser"
    theirs = GOLDEN[f"{case}.probs"].double()[masked]
    theirs = theirs / theirs.sum(-1, keepdim=True)
    ours = predicted(network, "t0.5.dt0.25")[masked]
    if theirs.shape[-1] == MASK:
        ours = ours[:, :MASK]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)

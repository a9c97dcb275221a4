"""The reverse process step by step, for masks and for uniform noise, against languages of which everything is known."""

import itertools
import traceback

import pytest
import torch
from torch import Tensor, nn

from llada.data.toy import ToyLanguage
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.process import MaskingProcess, UniformProcess
from llada.samplers import AncestralSampler, Sampler, ancestral

STATES, ROWS = 3, 20_000
ALL = torch.tensor(list(itertools.product(range(STATES), repeat=2)))
LAW = torch.tensor([0.16, 0.07, 0.10, 0.09, 0.15, 0.09, 0.09, 0.10, 0.15], dtype=torch.float64).view(STATES, STATES)


UNIFORM = UniformProcess(STATES, LinearSchedule(eps=1e-3), time_conditioned=True)


def leave_one_out(tokens: Tensor, sigma: Tensor) -> Tensor:
    """p(x_0^i | all of x_t but token i): what the optimal network of uniform diffusion says, exactly.

    The other token tells of x_0^i through its own clean one: sum_b p(a, b) q(x_t^j | b).
    """
    alpha = (-sigma.double()).exp()[:, None, None]
    seen = alpha * torch.nn.functional.one_hot(tokens, STATES) + (1.0 - alpha) / STATES
    return torch.stack((seen[:, 1] @ LAW.T, seen[:, 0] @ LAW), 1).log()


def variation(frequency: Tensor, law: Tensor) -> float:
    """Half the sum of the differences."""
    return float((frequency - law).abs().sum() / 2)


def exact_law(process: UniformProcess, steps: int) -> Tensor:
    """The law of what the sampler writes, summed over all paths: (9,)."""
    law = torch.full((9,), 1.0 / 9, dtype=torch.float64)
    for k in range(steps):
        t, s = (torch.full((9,), 1.0 - n / steps, dtype=torch.float64) for n in (k, k + 1))
        clean = leave_one_out(ALL, process.conditioning(t)["sigma"]).softmax(-1)
        step = process.reverse(ALL, clean, t, s)
        law = (law[:, None, None] * step[:, 0, :, None] * step[:, 1, None, :]).sum(0).flatten()
    return law


@pytest.mark.parametrize("steps", [4, 16, 32])
def test_uniform_noise_generates_the_language(steps: int) -> None:
    """T steps miss the law by about 1 / T; the sampler has exactly the law of its steps."""
    law = exact_law(UNIFORM, steps)
    assert variation(law, LAW.flatten()) <= 0.2 / steps + 1e-3  # the residual signal that the prior hasn't
    tokens, given = torch.zeros(ROWS, 2, dtype=torch.int64), torch.zeros(ROWS, 2, dtype=torch.bool)
    sample = AncestralSampler(steps)(leave_one_out, tokens, UNIFORM, given=given)
    frequency = torch.bincount(sample.tokens[:, 0] * STATES + sample.tokens[:, 1], minlength=9) / ROWS
    # The expected distance of a sample from its own law is below sqrt(9 / (2 pi ROWS)) = 0.0085, its spread a third.
    assert variation(frequency, law) < 0.018
    assert variation(frequency, LAW.flatten()) <= 0.2 / steps + 0.02
    assert sample.calls.unique().tolist() == [steps]
    assert sample.generated.unique().tolist() == [2]


@pytest.mark.parametrize("steps", [1, 3])
def test_for_masks_it_has_the_law_of_the_preset(steps: int) -> None:
    """Two samples of a law differ by less than 0.025 in total variation; few steps are far from the language."""
    language = ToyLanguage.dirichlet(vocab_size=3, length=2, concentration=0.5, seed=2)
    process, tokens = MaskingProcess(language.mask_token_id), torch.full((ROWS, 2), language.mask_token_id)
    frequencies = []
    samplers: tuple[Sampler, Sampler] = (AncestralSampler(steps), ancestral(steps))
    for sampler in samplers:
        rows = sampler(language.oracle, tokens, process).tokens
        frequencies.append(torch.bincount(language.index(rows), minlength=9) / ROWS)
    assert variation(frequencies[0], frequencies[1]) < 0.025
    assert variation(frequencies[0], language.probabilities.flatten()) > 0.07


def test_a_row_does_not_depend_on_its_padding() -> None:
    tokens = torch.tensor([[0, 0, 0, 1, 0, 0], [2, 1, 0, 0, 0, 0]])
    mask = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    given = ~mask | (torch.arange(6) == 3)
    table = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return table[: x.shape[1]].expand(len(x), -1, -1) * 0.0 + x[..., None] * torch.tensor([0.5, -0.5, 0.2])

    process = UniformProcess(3)
    together = AncestralSampler(6)(model, tokens, process, given=given, seed=4, attention_mask=mask)
    alone = AncestralSampler(6)(model, tokens[:1, 2:], process, given=given[:1, 2:], seed=4)
    assert torch.equal(together.tokens[0, 2:], alone.tokens[0])
    assert together.tokens[0, 3] == 1
    assert together.generated.tolist() == [3, 5]


def test_the_way_from_generate_to_the_formula_is_short() -> None:
    stacks = []

    class Seen(MaskingProcess):
        def reverse(self, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
            stacks.append([frame.name for frame in traceback.extract_stack() if "/llada/" in frame.filename])
            return super().reverse(tokens, clean, t, s)

    model = DiffusionLM(nn.Embedding(5, 5), Seen(4), sampler=AncestralSampler(3))
    assert not (model.generate(torch.tensor([[1, 4, 4]])).tokens == 4).any()
    assert len(stacks) == 3
    for stack in stacks:
        assert stack == ["generate", "__call__", "_steps", "advance"]


def test_numbers_out_of_range_are_refused() -> None:
    for options in ({"steps": 0}, {"temperature": 0.0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            AncestralSampler(**options)

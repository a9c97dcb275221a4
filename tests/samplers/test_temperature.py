"""Temperature, nucleus and top-k through a sampler, against the law that they are to have.

The draws of many rows of one mask are compared with their expectation by Pearson's chi-square. The seeds are fixed;
under another seed each such test would fail once in ten thousand times (`FALSE_ALARMS`).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.process import MaskingProcess
from llada.samplers import PRESETS, PerStep, Proposal, Sampler, UnmaskingSampler
from llada.samplers.propose import keep_top_p

ROWS, FALSE_ALARMS = 20_000, 1e-4
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 9.0])  # the mask would be the favourite
MASK = len(LOGITS) - 1


def one_per_step(**options: Any) -> Sampler:
    """The most confident position, drawn with these options."""
    return UnmaskingSampler(PerStep(1), proposal=Proposal(**options))


def preset(name: str, **options: Any) -> Sampler:
    return PRESETS[name](**options)


def kept(probabilities: list[float], top_p: float, dtype: torch.dtype) -> list[int]:
    """The tokens that are left."""
    filtered = keep_top_p(torch.tensor(probabilities, dtype=dtype).log(), top_p)
    return (filtered > -torch.inf).nonzero()[:, 0].tolist()


def p_value(sampler: Sampler, law: Tensor, logits: Tensor = LOGITS) -> float:
    """P(chi-square > that of the tokens drawn at one position), which only tokens of the law may have."""
    tokens = torch.full((ROWS, 1), len(logits) - 1)
    model = lambda tokens: logits.expand(*tokens.shape, -1)  # noqa: E731
    drawn = sampler(model, tokens, MaskingProcess(mask_token_id=len(logits) - 1), seed=1).tokens[:, 0]
    counts, law = drawn.bincount(minlength=len(logits)).double()[: len(law)], law.double()
    assert counts.sum() == ROWS
    assert counts[law == 0].sum() == 0
    expected = ROWS * law[law > 0]
    if len(expected) == 1:
        return 1.0
    assert expected.min() > 5
    statistic = ((counts[law > 0] - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2).double(), statistic / 2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["parts", "low_confidence", "random_remasking", "ancestral", "first_hitting"])
def test_a_draw_has_the_law_of_the_tempered_logits(name: str, temperature: float) -> None:
    options = {} if name in ("parts", "first_hitting") else {"steps": 1}
    sampler = one_per_step if name == "parts" else lambda **given: preset(name, **given)
    law = (LOGITS[:MASK].double() / temperature).softmax(0)
    assert p_value(sampler(temperature=temperature, **options), law) > FALSE_ALARMS


@pytest.mark.parametrize("wrong", [0.4, 0.46, 0.54])
def test_another_temperature_is_found_out(wrong: float) -> None:
    assert p_value(one_per_step(temperature=0.5), (LOGITS[:MASK].double() / wrong).softmax(0)) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nucleus_is_the_smallest_set_that_reaches_its_share(dtype: torch.dtype) -> None:
    """Also where it is reached exactly; halves and quarters are exact in any precision."""
    assert kept([0.5, 0.25, 0.25], 0.5, dtype) == [0]
    assert kept([0.25, 0.5, 0.25], 0.5, dtype) == [1]
    assert len(kept([0.5, 0.25, 0.25], 0.75, dtype)) == 2
    assert len(kept([0.25] * 4, 0.25, dtype)) == 1
    assert len(kept([0.25] * 4, 0.5, dtype)) == 2
    assert len(kept([0.25] * 4, 0.51, dtype)) == 3
    assert kept([0.5, 0.25, 0.25], 1.0, dtype) == [0, 1, 2]
    assert kept([0.25, 0.5, 0.25], 1e-9, dtype) == [1]  # the best one always stays


FILTERED = {
    # Of 0.4, 0.3, 0.2, 0.1 the nucleus of 0.5 has two tokens; of the two best alone, 4/7 and 3/7, it would have one.
    "nucleus before top-k": ({"temperature": 1.0, "top_p": 0.5, "top_k": 2}, [4 / 7, 3 / 7, 0.0, 0.0]),
    "top-k cuts the nucleus": ({"temperature": 1.0, "top_p": 0.95, "top_k": 3}, [4 / 9, 3 / 9, 2 / 9, 0.0]),
    # Squares are 16, 9, 4, 1 of 30: one token reaches 0.5. Roots are flatter: three are needed for 0.65, before two.
    "temperature before the nucleus, cold": ({"temperature": 0.5, "top_p": 0.5}, [1.0, 0.0, 0.0, 0.0]),
    "temperature before the nucleus, hot": (
        {"temperature": 2.0, "top_p": 0.65},
        [x**0.5 / (0.4**0.5 + 0.3**0.5 + 0.2**0.5) for x in (0.4, 0.3, 0.2)] + [0.0],
    ),
}


@pytest.mark.parametrize("name", FILTERED)
def test_temperature_then_nucleus_then_top_k(name: str) -> None:
    options, law = FILTERED[name]
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.9]).log()
    assert p_value(one_per_step(**options), torch.tensor(law), logits) > FALSE_ALARMS

"""LLaDA's own sampler, token for token, from its own weights (tests/golden/llada-tiny)."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from llada.process import MaskingProcess
from llada.samplers import (
    Amount,
    Blocks,
    Confidence,
    Factor,
    Guidance,
    Proposal,
    Quota,
    Threshold,
    UnmaskingSampler,
    WholeCanvas,
)
from tests.golden_models import arrays, tiny_llada, values

GENERATE = values("llada-tiny", "generate")
CASES = {name: case for name, case in GENERATE["cases"].items() if not name.startswith("seeded")}
FAST = {name: c for name, c in values("llada-tiny", "fast_dllm")["cases"].items() if name.startswith("nocache")}
MASK = 380


def sampler_for(params: dict[str, Any]) -> UnmaskingSampler:
    eos, eot = GENERATE["eos_id_used_for_options"], GENERATE["eot_id_used_for_options"]
    length, block = params["gen_length"], params["block_length"]
    return UnmaskingSampler(
        amount=Quota(params["steps"]),
        order=Confidence(without=(eos, eot) if params.get("confidence_eos_eot_inf") else ()),
        proposal=Proposal(suppress_tokens=(eos,) if params.get("logits_eos_inf") else ()),
        window=WholeCanvas() if block == length else Blocks(block),
        guidance=Guidance(params.get("cfg_scale", 0.0)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_generate(name: str, dtype: torch.dtype) -> None:
    golden, case = arrays("llada-tiny", "generate"), CASES[name]
    prompt, params = golden[f"{name}.prompt"], case["params"]
    tail = torch.full((len(prompt), params["gen_length"]), MASK)
    canvas = torch.cat((prompt, tail), 1)
    arguments = {}
    if f"{name}.attention_mask" in golden:
        mask = golden[f"{name}.attention_mask"].bool()
        arguments["attention_mask"] = torch.cat((mask, torch.ones_like(tail, dtype=torch.bool)), 1)
    steps = list(sampler_for(params).iterate(tiny_llada(dtype), canvas, MaskingProcess(MASK), **arguments))
    assert torch.equal(steps[-1].tokens, golden[f"{name}.output"])
    trajectory = [canvas, *(step.tokens for step in steps)]
    reference = golden[f"{name}.trajectory"]
    # The reference also calls the model in steps whose quota is zero; those canvases repeat.
    different = [reference[0], *(b for a, b in pairwise(reference) if not torch.equal(a, b))]
    assert len(trajectory) == len(different)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(trajectory, different, strict=True))
    expected_calls = min(case["model_calls"], params["gen_length"])
    assert steps[-1].calls.tolist() == [expected_calls] * len(prompt)


def amount_for(params: dict[str, Any]) -> Amount:
    if "threshold" in params:
        return Threshold(params["threshold"])
    return Factor(params["factor"], last_passes=True) if "factor" in params else Quota(params["steps"])


@pytest.mark.parametrize("name", FAST)
def test_fast_dllm_without_cache(name: str) -> None:
    golden, case = arrays("llada-tiny", "fast_dllm"), FAST[name]
    prompt, params = golden[f"{name}.prompt"], case["params"]
    canvas = torch.cat((prompt, torch.full((len(prompt), params["gen_length"]), MASK)), 1)
    sampler = UnmaskingSampler(amount_for(params), window=Blocks(params["block_length"]))
    sample = sampler(tiny_llada(), canvas, MaskingProcess(MASK))
    assert torch.equal(sample.tokens, golden[f"{name}.output"])
    assert sample.calls.tolist() == [case["nfe"]]
    if "factor" in params:  # the paper's rule, without the released code's quirk at the last rank
        alone = replace(sampler, amount=Factor(params["factor"]))(tiny_llada(), canvas, MaskingProcess(MASK))
        assert torch.equal(alone.tokens, golden[f"{name}.output_prefix_rule"])
        assert alone.calls.tolist() == [case["nfe_prefix_rule"]]


@pytest.mark.parametrize("name", [key for key in arrays("llada-tiny", "tables") if key.startswith("quota")])
def test_quota_table(name: str) -> None:
    expected = arrays("llada-tiny", "tables")[name].flatten().tolist()
    masks, steps = (int(number) for number in re.findall(r"\d+", name))
    quota = Quota(steps)
    left = [quota.masks_left(masks, step, steps) for step in range(steps + 1)]
    assert [a - b for a, b in pairwise(left)] == expected
    assert left[-1] == 0

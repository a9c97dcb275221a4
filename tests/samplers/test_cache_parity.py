"""Fast-dLLM's cached decoding, token for token and call for call, from tests/golden/llada-tiny."""

from typing import Any

import pytest
import torch

from llada.process import MaskingProcess
from llada.samplers import (
    Amount,
    Blocks,
    CachePolicy,
    DualCache,
    Factor,
    PrefixCache,
    Quota,
    Threshold,
    UnmaskingSampler,
)
from tests.golden_models import arrays, tiny_llada, values

MASK = 380
CASES = {n: c for n, c in values("llada-tiny", "fast_dllm")["cases"].items() if not n.startswith("nocache")}
POLICIES: dict[str, CachePolicy] = {"prefix": PrefixCache(), "dual": DualCache()}


def amount_for(params: dict[str, Any]) -> Amount:
    if "threshold" in params:
        return Threshold(params["threshold"])
    return Factor(params["factor"], last_passes=True) if "factor" in params else Quota(params["steps"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_fast_dllm_with_cache(name: str, dtype: torch.dtype) -> None:
    golden, case = arrays("llada-tiny", "fast_dllm"), CASES[name]
    prompt, params = golden[f"{name}.prompt"], case["params"]
    canvas = torch.cat((prompt, torch.full((len(prompt), params["gen_length"]), MASK)), 1)
    window, cache = Blocks(params["block_length"]), POLICIES[name.split("_")[0]]
    sample = UnmaskingSampler(amount_for(params), window=window, cache=cache)(
        tiny_llada(dtype), canvas, MaskingProcess(MASK)
    )
    assert torch.equal(sample.tokens, golden[f"{name}.output"])
    assert sample.calls.tolist() == [case["nfe"]]
    plain = UnmaskingSampler(amount_for(params), window=window)(tiny_llada(dtype), canvas, MaskingProcess(MASK))
    if "factor" not in params:
        assert torch.equal(plain.tokens, sample.tokens) != case["differs_from_no_cache_output"]

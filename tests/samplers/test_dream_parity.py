"""Dream's own sampler, token for token, from its own weights (tests/golden/dream-tiny)."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from llada.process import MaskingProcess
from llada.samplers import Confidence, DreamFloor, Margin, NegativeEntropy, Order, Proposal, UnmaskingSampler
from tests.golden_models import arrays, tiny_dream, values

STORED = values("dream-tiny", "generate")
CASES = {name: case for name, case in STORED["cases"].items() if "seeded" not in name}
MASK = STORED["mask_token_id"]
ORDERS: dict[str, Order] = {
    "maskgit_plus": Confidence(filtered=True),
    "topk_margin": Margin(filtered=True),
    "entropy": NegativeEntropy(filtered=True),
}


def sampler_for(params: dict[str, Any]) -> UnmaskingSampler:
    return UnmaskingSampler(
        amount=DreamFloor(params["steps"], params.get("eps", 1e-3)),
        order=ORDERS[params["alg"]],
        proposal=Proposal(top_p=params.get("top_p"), top_k=params.get("top_k")),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_generate(name: str, dtype: torch.dtype) -> None:
    golden, params = arrays("dream-tiny", "generate"), CASES[name]["params"]
    prompt = golden[f"{name}.prompt"]
    tail = torch.full((len(prompt), params["max_new_tokens"]), MASK)
    canvas, arguments = torch.cat((prompt, tail), 1), {}
    if f"{name}.attention_mask" in golden:
        mask = golden[f"{name}.attention_mask"].bool()
        arguments["attention_mask"] = torch.cat((mask, torch.ones_like(tail, dtype=torch.bool)), 1)
    steps = list(sampler_for(params).iterate(tiny_dream(dtype), canvas, MaskingProcess(MASK), **arguments))
    assert torch.equal(steps[-1].tokens, golden[f"{name}.output"])
    reference = golden[f"{name}.trajectory"].long()
    # The reference also runs the model in steps that commit nothing; those canvases repeat.
    different = [b for a, b in pairwise(reference) if not torch.equal(a, b)]
    assert all(torch.equal(step.tokens, canvas) for step, canvas in zip(steps, different, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_counts_are_known_beforehand(name: str) -> None:
    params, steps = CASES[name]["params"], CASES[name]["params"]["steps"]
    rule = DreamFloor(steps, params.get("eps", 1e-3))
    left = [rule.masks_left(params["max_new_tokens"], k, steps) for k in range(steps + 1)]
    counts = [a - b for a, b in pairwise(left)]
    assert counts == [row[0] for row in CASES[name]["tokens_committed_per_step"]]
    assert counts == [rule.most(params["max_new_tokens"], k, steps) for k in range(steps)]

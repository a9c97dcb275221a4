"""The reference's own numbers, through the official layouts on disk."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.module import DiffusionLM
from llada.samplers import low_confidence
from tests.golden_models import GOLDEN, arrays, tiny_dit, tiny_dream, tiny_llada, values

CLOSE = {"atol": 3e-4, "rtol": 1e-4}


def folder(name: str, checkpoint: str = "checkpoint") -> Path:
    return GOLDEN / name / checkpoint


def test_llada_logits_and_padding() -> None:
    golden = arrays("llada-tiny", "logits")
    model = DiffusionLM.from_pretrained(folder("llada-tiny"))
    assert not model.training
    assert model.process.mask_token_id == 380
    for name in ("ids", "ids_noised"):
        torch.testing.assert_close(model(golden[name]), golden[name.replace("ids", "logits")], **CLOSE)
    for side in ("left", "right"):
        mask = golden[f"{side}_mask"].bool()
        logits = model(golden[f"{side}_ids"], attention_mask=mask)
        torch.testing.assert_close(logits[mask], golden[f"{side}_logits"][mask], **CLOSE)
    torch.testing.assert_close(model.backbone.hidden(golden["ids"]), golden["hidden_states"][-1], **CLOSE)


def test_dream_logits_raw_shifted_and_padded() -> None:
    golden = arrays("dream-tiny", "logits")
    raw, model = (
        DiffusionLM.from_pretrained(folder("dream-tiny"), shift=False),
        DiffusionLM.from_pretrained(folder("dream-tiny")),
    )
    assert model.backbone.shift
    torch.testing.assert_close(raw(golden["ids"]), golden["logits"], **CLOSE)
    torch.testing.assert_close(raw(golden["ids_noised"]), golden["logits_noised"], **CLOSE)
    torch.testing.assert_close(model(golden["ids_noised"]), golden["logits_noised_shifted"], **CLOSE)
    mask = golden["left_mask"].bool()
    torch.testing.assert_close(raw(golden["left_ids"], attention_mask=mask)[mask], golden["left_logits"][mask], **CLOSE)


@pytest.mark.parametrize(("name", "key"), [("checkpoint", "time_off"), ("checkpoint_time_conditioned", "time_on")])
def test_mdlm_logits(name: str, key: str) -> None:
    golden = arrays("mdlm-dit-tiny", "network")
    model = DiffusionLM.from_pretrained(folder("mdlm-dit-tiny", name))
    assert model.process.time_conditioned == (key == "time_on")
    assert model.process.mask_token_id == 130
    assert not model.process.predicts_mask
    arguments = {"sigma": golden["sigma"]} if model.process.time_conditioned else {}
    torch.testing.assert_close(model(golden["xt"], **arguments), golden[f"{key}.logits"], **CLOSE)


@pytest.mark.parametrize(("averaged", "key"), [(True, "logits_ema_weights"), (False, "logits_raw_weights")])
def test_mdlms_training_checkpoint(averaged: bool, key: str) -> None:
    golden = arrays("mdlm-dit-tiny/lightning", "expected")
    model = DiffusionLM.from_pretrained(folder("mdlm-dit-tiny", "lightning/mdlm_tiny.ckpt"), averaged=averaged)
    torch.testing.assert_close(model(golden["ids"]), golden[key], **CLOSE)


@pytest.mark.parametrize("name", ["llada-tiny", "dream-tiny"])
def test_bfloat16_agrees_wherever_the_margin_allows(name: str) -> None:
    golden = arrays(name, "logits")
    options = {"shift": False} if name == "dream-tiny" else {}
    model = DiffusionLM.from_pretrained(folder(name), dtype=torch.bfloat16, **options)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.backbone.parameters())
    logits = model(golden["ids"]).float()
    best = golden["logits"].topk(2, dim=-1).values
    # bfloat16 has 8 bits; over three layers its error stays below a tenth of the largest logit.
    clear = best[..., 0] - best[..., 1] > 0.1 * golden["logits"].abs().amax()
    assert int(clear.sum()) > 10
    assert torch.equal(logits.argmax(-1)[clear], golden["logits"].argmax(-1)[clear])


@pytest.mark.parametrize(
    ("checkpoint", "reference"),
    [
        ("llada-tiny/checkpoint", tiny_llada),
        ("dream-tiny/checkpoint", tiny_dream),
        ("mdlm-dit-tiny/checkpoint", lambda: tiny_dit("checkpoint")),
        ("mdlm-dit-tiny/checkpoint_time_conditioned", lambda: tiny_dit("checkpoint_time_conditioned")),
    ],
)
def test_the_network_is_the_one_that_the_reference_cases_run_on(checkpoint: str, reference: Any) -> None:
    """Decoding, caches, losses and likelihoods are compared with the reference's on these; see tests/samplers."""
    ours, expected = DiffusionLM.from_pretrained(GOLDEN / checkpoint).backbone, reference()
    assert type(ours) is type(expected)
    settings = set(inspect.signature(type(ours)).parameters) - {"max_length", "dropout"}
    assert all(getattr(ours, name) == getattr(expected, name) for name in settings)
    assert ours.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_cached_forwards() -> None:
    golden = arrays("llada-tiny", "cache_forward")
    backbone = DiffusionLM.from_pretrained(folder("llada-tiny")).backbone
    start, stop = golden["block"].tolist()
    length = golden["x_warm"].shape[1]
    for kind, region in (("prefix", slice(start, length)), ("dual", slice(start, stop))):
        cache = backbone.new_cache(1, length)
        warm = backbone.hidden(golden["x_warm"], cache=cache, region=slice(0, length))
        torch.testing.assert_close(backbone.head(warm), golden["full_logits"], **CLOSE)
        torch.testing.assert_close(torch.stack(cache.values), golden["warm_values"], **CLOSE)
        for step in ("step1", "step2"):
            hidden = backbone.hidden(golden[f"x_{step}"][:, region], cache=cache, region=region)
            torch.testing.assert_close(backbone.head(hidden), golden[f"{kind}_logits_{step}"], **CLOSE)


@pytest.mark.parametrize("name", ["one_block_2tok", "blocks8", "batch2_leftpad"])
def test_decoding(name: str) -> None:
    golden, params = arrays("llada-tiny", "generate"), values("llada-tiny", "generate")["cases"][name]["params"]
    model = DiffusionLM.from_pretrained(folder("llada-tiny"))
    prompt, mask = golden[f"{name}.prompt"], golden.get(f"{name}.attention_mask")
    answer = params["gen_length"]
    tokens = torch.nn.functional.pad(prompt, (0, answer), value=model.process.mask_token_id)
    if mask is not None:
        mask = torch.nn.functional.pad(mask.bool(), (0, answer), value=True)
    sampler = low_confidence(params["steps"], block_length=params["block_length"])
    sample = model.generate(tokens, mask, sampler=sampler)
    assert torch.equal(sample.tokens, golden[f"{name}.output"])

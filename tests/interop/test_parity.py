"""The reference's own numbers, through the official layouts on disk."""

from pathlib import Path

import pytest
import torch

from llada.module import DiffusionLM
from tests.golden_models import GOLDEN, arrays

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

"""MDLM's DiT: its own logits from its own weights (tests/golden/mdlm-dit-tiny), and who may influence whom."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llada.backbones import DiffusionTransformer
from llada.checkpoints.describe import build as rebuild
from llada.checkpoints.describe import describe
from llada.objectives import masked_mean
from llada.process import MaskingProcess
from llada.random import RowRandom
from tests.golden_models import GOLDEN, arrays, mdlm_name, mdlm_weights, tiny_dit

CLOSE = {"atol": 3e-4, "rtol": 1e-4}
MASK = 130
VOCAB = 20
FOLDERS = {"time_off": "checkpoint", "time_on": "checkpoint_time_conditioned"}


def build(**options: Any) -> DiffusionTransformer:
    """A model whose modulations and head have left their zeros."""
    torch.manual_seed(0)
    model = DiffusionTransformer(VOCAB, **{"width": 32, "num_layers": 2, "num_heads": 4, "cond_width": 8, **options})
    for silent in (*(block.modulation for block in model.blocks), model.final_modulation, model.head):
        torch.nn.init.normal_(silent.weight)
        torch.nn.init.normal_(silent.bias)
    return model.double().eval()


def tokens(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def levels(rows: int = 3) -> Tensor:
    return torch.linspace(0.1, 3.0, rows, dtype=torch.float64)


def gradients(model: DiffusionTransformer, value: Tensor) -> dict[str, Tensor]:
    """Of the body: none of its parameters may be out of the graph."""
    body = {name: p for name, p in model.named_parameters() if not name.startswith("head.")}
    return dict(zip(body, torch.autograd.grad(value, list(body.values()), retain_graph=True), strict=True))


SIGMAS = pytest.mark.parametrize("sigma", [None, levels()], ids=["without_time", "with_time"])


@pytest.mark.parametrize("network", FOLDERS)
def test_logits(network: str) -> None:
    golden = arrays("mdlm-dit-tiny", "network")
    sigma = golden["sigma"] if network == "time_on" else None
    logits = tiny_dit(FOLDERS[network])(golden["xt"], sigma=sigma)
    torch.testing.assert_close(logits, golden[f"{network}.logits"], **CLOSE)
    masked = golden["xt"] == MASK
    ours = logits[masked][:, :MASK].log_softmax(-1)  # the mask, the last id, is left out of the softmax
    theirs = golden[f"{network}.subs_logprobs"][masked][:, :MASK]
    torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=0)


def test_sigma_sweep() -> None:
    golden = arrays("mdlm-dit-tiny", "network")
    model, sigma = tiny_dit(FOLDERS["time_on"]), golden["sigma_sweep.sigma"]
    ids = golden["sigma_sweep.ids"].expand(len(sigma), -1)
    logits = model(ids, sigma=sigma)
    torch.testing.assert_close(logits, golden["sigma_sweep.logits"], **CLOSE)
    assert (logits[1:] - logits[:-1]).abs().amax((1, 2)).min() > 0.05  # every step of the sweep shows


def test_without_sigma_it_is_zero() -> None:
    model, ids = tiny_dit(FOLDERS["time_on"]), arrays("mdlm-dit-tiny", "network")["xt"]
    torch.testing.assert_close(model(ids), model(ids, sigma=torch.zeros(len(ids))), **CLOSE)


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_logits_of_a_lightning_checkpoint(weights: str) -> None:
    folder = "mdlm-dit-tiny/lightning"
    stored = torch.load(GOLDEN / folder / "mdlm_tiny.ckpt", weights_only=True)
    config = stored["hyper_parameters"]["config"]["model"]
    raw = mdlm_weights(stored["state_dict"])
    averaged = dict(
        zip(raw, stored["ema"]["shadow_params"], strict=True)
    )  # a plain list in the order of the parameters
    model = DiffusionTransformer(
        vocab_size=raw["embedding.weight"].shape[0],
        width=config["hidden_size"],
        num_layers=config["n_blocks"],
        num_heads=config["n_heads"],
        cond_width=config["cond_dim"],
        max_length=config["length"],
    ).eval()
    model.load_state_dict(raw if weights == "raw" else averaged)
    expected = arrays(folder, "expected")
    torch.testing.assert_close(model(expected["ids"]), expected[f"logits_{weights}_weights"], **CLOSE)


def test_every_parameter_has_a_name_in_mdlms_layout() -> None:
    stored = torch.load(GOLDEN / "mdlm-dit-tiny/lightning/mdlm_tiny.ckpt", weights_only=True)["state_dict"]
    ours = {name for name, _ in DiffusionTransformer(61, 32, 1, 2, 16).named_parameters()}
    assert {mdlm_name(name) for name in stored if "rotary_emb" not in name} == ours


def test_a_new_model_knows_nothing() -> None:
    model = DiffusionTransformer(VOCAB, width=32, num_layers=2, num_heads=4)
    x = tokens()
    assert not model(x, sigma=levels().float()).any()
    process = MaskingProcess(mask_token_id=VOCAB - 1, predicts_mask=False)
    output = masked_mean()(model, process, x.clamp(max=VOCAB - 2), random=RowRandom.from_seed(0, len(x)))
    assert output.num_scored.sum() > 0
    assert output.loss.item() == pytest.approx(math.log(VOCAB - 1), rel=1e-6)


def test_at_the_start_every_branch_is_shut() -> None:
    model, x = DiffusionTransformer(VOCAB, width=32, num_layers=2, num_heads=4, dropout=0.5), tokens()
    expected = F.layer_norm(model.embedding(x), (32,))
    torch.testing.assert_close(model.hidden(x, sigma=levels().float()), expected)
    torch.testing.assert_close(model.hidden(x), expected)


def test_initialisation_is_mdlms() -> None:
    model = DiffusionTransformer(500, width=96, num_layers=2, num_heads=4, cond_width=64)
    silent = ("modulation.weight", "modulation.bias", "head.weight", "head.bias")
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for _ in range(2):
        for name, parameter in parameters.items():
            if name.endswith(silent):
                assert not parameter.any(), name
            elif "norm" in name:
                assert torch.equal(parameter, torch.ones(96)), name
            else:
                bound = parameters[name.replace("bias", "weight")].shape[1] ** -0.5
                assert 0.9 * bound < parameter.abs().max() <= bound, name  # the largest of 64 or more uniform numbers
                # Five standard errors of the mean square of a uniform number.
                error = 5 * (0.8 / parameter.numel()) ** 0.5
                assert float(parameter.square().mean() * 3 / bound**2) == pytest.approx(1, abs=error), name
        before = model.blocks[1].attention.qkv.weight.clone()
        for parameter in parameters.values():
            parameter.fill_(7.0)
        model.reset_parameters()
        assert not torch.equal(model.blocks[1].attention.qkv.weight, before)


@SIGMAS
def test_selected_rows_and_their_gradients(sigma: Tensor | None) -> None:
    model, x, select = build(), tokens(), torch.tensor([0, 5, 9, 26])
    ours, theirs = model.hidden(x, sigma=sigma, select=select), model.hidden(x, sigma=sigma).flatten(0, 1)[select]
    assert ours.shape == (4, 32)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    full = gradients(model, (theirs * direction).sum())
    for name, mine in gradients(model, (ours * direction).sum()).items():
        torch.testing.assert_close(mine, full[name], msg=name)


@pytest.mark.parametrize("side", ["left", "right"])
@SIGMAS
def test_a_row_does_not_depend_on_padding_or_neighbours(sigma: Tensor | None, side: str) -> None:
    model, x, junk = build().float(), tokens(1, 5), (tokens(1, 4) + 1) % VOCAB
    row = torch.cat((junk, x) if side == "left" else (x, junk), 1)
    real = torch.arange(9)[None] >= 4 if side == "left" else torch.arange(9)[None] < 5
    batch = torch.cat((row, tokens(2, 9)))
    mask = torch.cat((real, torch.ones(2, 9, dtype=torch.bool)))
    logits = model(batch, attention_mask=mask, sigma=sigma)[0][real[0]]
    alone = model(x, sigma=None if sigma is None else sigma[:1])[0]
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(model(batch, sigma=sigma)[0][real[0]], alone, atol=1e-2)


@SIGMAS
def test_batch_invariance_in_float32(sigma: Tensor | None) -> None:
    model, x = build().float(), tokens()
    logits = model(x, sigma=sigma)
    for i in range(len(x)):
        alone = model(x[i : i + 1], sigma=None if sigma is None else sigma[i : i + 1])
        torch.testing.assert_close(logits[i : i + 1], alone, atol=1e-4, rtol=1e-5)


@SIGMAS
def test_packed_documents_do_not_see_one_another(sigma: Tensor | None) -> None:
    model, x = build(), tokens()
    segments = torch.tensor([0] * 4 + [1] * 5).expand_as(x)
    packed = model(x, sigma=sigma, segment_ids=segments)
    apart = torch.cat((model(x[:, :4], sigma=sigma), model(x[:, 4:], sigma=sigma)), 1)
    torch.testing.assert_close(packed, apart)


def test_a_rows_noise_level_is_its_own() -> None:
    model, x = build(), tokens()
    changed = levels()
    changed[1] += 0.5
    differs = (model(x, sigma=levels()) != model(x, sigma=changed)).any(-1)
    assert differs[1].all()
    assert not differs[[0, 2]].any()


@SIGMAS
def test_activation_checkpointing_changes_nothing(sigma: Tensor | None) -> None:
    x, results = tokens(), []
    for recompute in (False, True):
        model = build(activation_checkpointing=recompute, dropout=0.1).train()
        torch.manual_seed(5)  # dropout draws the same numbers, in the second forward pass too
        value = model.hidden(x, sigma=sigma, select=torch.tensor([1, 20])).square().sum()
        results.append({"value": value.detach(), **gradients(model, value)})
    for name, plain in results[0].items():
        assert torch.equal(results[1][name], plain), name


@pytest.mark.parametrize("branch", ["attention", "feed_forward"])
def test_dropout_acts_on_both_branches_in_training_only(branch: str) -> None:
    torch.manual_seed(0)
    model, x = DiffusionTransformer(VOCAB, 32, 1, 4, dropout=0.25).double(), tokens(50)
    gate = 2 if branch == "attention" else 5
    with torch.no_grad():
        model.blocks[0].modulation.bias.view(6, 32)[gate] = 1.0  # the other branch stays shut
    added = []
    model.blocks[0].register_forward_hook(lambda _, inputs, output: added.append(output - inputs[0]))
    for mode in (False, True):
        model.train(mode).hidden(x)
    full, dropped = added
    torch.testing.assert_close(dropped, torch.where(dropped == 0, dropped, full / 0.75))
    # 14,400 coins: five standard errors of the share are 0.018.
    assert float((dropped == 0).double().mean()) == pytest.approx(0.25, abs=0.018)


@pytest.mark.parametrize(
    "region", [slice(3, 6), torch.tensor([[5, 0, 4], [1, 2, 3], [8, 6, 7]])], ids=["slice", "index"]
)
@SIGMAS
def test_a_cached_region_equals_the_full_forward(sigma: Tensor | None, region: slice | Tensor) -> None:
    model, x = build(), tokens()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 7:] = False
    index = torch.arange(9).expand_as(x)[:, region] if isinstance(region, slice) else region
    cache = model.new_cache(*x.shape)
    stale = x.scatter(1, index, (x.gather(1, index) + 1) % VOCAB)
    model.hidden(stale, sigma=sigma, attention_mask=mask, cache=cache, region=slice(0, 9))
    part = model.hidden(x.gather(1, index), sigma=sigma, attention_mask=mask, cache=cache, region=region)
    fresh = model.new_cache(*x.shape)
    full = model.hidden(x, sigma=sigma, attention_mask=mask, cache=fresh, region=slice(0, 9))
    torch.testing.assert_close(full[mask], model.hidden(x, sigma=sigma, attention_mask=mask)[mask])
    # A token's first keys depend on the token alone; deeper ones on neighbours, which the partial pass left stale.
    torch.testing.assert_close(cache.keys[0], fresh.keys[0])
    assert not torch.allclose(cache.keys[1], fresh.keys[1])
    again = model.hidden(x.gather(1, index), sigma=sigma, attention_mask=mask, cache=fresh, region=region)
    torch.testing.assert_close(again, full.gather(1, index[..., None].expand(-1, -1, 32)))
    assert not torch.allclose(part, again)


@SIGMAS
def test_bfloat16_autocast(sigma: Tensor | None) -> None:
    model, x = build().float(), tokens()
    exact = model(x, sigma=sigma)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, sigma=sigma)
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.03


def test_a_description_rebuilds_it() -> None:
    model = build(hidden_multiple=2, max_length=50, dropout=0.2, rope_theta=500.0, attention="plain")
    again = rebuild(describe(model), torch.nn.Module)
    assert describe(again) == describe(model)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30}, "width=30 isn't divisible by num_heads=4"),
        ({"width": 12}, "even head width"),
        ({"num_layers": 0}, "num_layers must be 1 or more; got 0"),
        ({"cond_width": 0}, "cond_width must be 1 or more; got 0"),
        ({"hidden_multiple": -1}, "hidden_multiple must be 1 or more; got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"attention": "flesh"}, "attention kernel 'flesh' is unknown"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_input_is_named() -> None:
    model, x = build(max_length=9), tokens()
    with pytest.raises(ValueError, match="the row has 10 tokens but this backbone accepts at most max_length=9"):
        model(tokens(3, 10))
    with pytest.raises(ValueError, match=r"token id 20 is outside of the vocabulary 0 \.\. 19"):
        model(x.clone().fill_(VOCAB))
    with pytest.raises(ValueError, match=r"sigma must be \(B,\) = \(3,\), a noise level per row; got \(3, 1\)"):
        model(x, sigma=levels()[:, None])
    with pytest.raises(ValueError, match="cache and region go together"):
        model.hidden(x, cache=model.new_cache(3, 9))
    with pytest.raises(ValueError, match="can't be combined with packed segments"):
        model.hidden(x, cache=model.new_cache(3, 9), region=slice(0, 9), segment_ids=torch.zeros_like(x))
    with pytest.raises(ValueError, match="at most max_length=9"):
        model.hidden(x, cache=model.new_cache(3, 10), region=slice(0, 9))

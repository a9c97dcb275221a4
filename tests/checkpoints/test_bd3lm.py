"""BD3LM's weights: the network as it decodes, block by block, against its training pass over two copies of the row."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llada.backbones import DiffusionTransformer
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.process import MaskingProcess
from llada.samplers.published.processes import block_diffusion
from tests.checkpoints import plain

VOCAB, LENGTH, BLOCK = 23, 12, 4
MASK = VOCAB - 1
PROCESS = MaskingProcess(MASK, LinearSchedule(1e-3), predicts_mask=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = DiffusionTransformer(
        VOCAB, width=16, num_layers=2, num_heads=2, cond_width=8, max_length=LENGTH, block_length=BLOCK
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    DiffusionLM(network, PROCESS).save_pretrained(tmp_path / "bd3lm")
    return tmp_path / "bd3lm"


def test_the_configuration_has_the_released_fields(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    # kuleshov-group/bd3lm-owt-block_size4, its sizes aside
    assert config == {
        "architectures": ["BD3LM"], "attn_backend": "sdpa", "block_size": BLOCK, "cond_dim": 8, "cross_attn": True,
        "auto_map": {"AutoConfig": "configuration_bd3lm.BD3LMConfig", "AutoModelForMaskedLM": "modeling_bd3lm.BD3LM"},
        "dropout": 0.0, "hidden_dim": 16, "model_length": LENGTH, "model_type": "bd3lm", "n_blocks": 2, "n_heads": 2,
        "return_dict": True, "sampling_eps_max": 0.999, "sampling_eps_min": 1e-3, "time_conditioning": False,
        "torch_dtype": "float32", "var_min": True, "vocab_size": VOCAB,
    }  # fmt: skip


def test_each_block_has_the_logits_of_the_two_copy_pass(folder: Path) -> None:
    model = DiffusionLM.from_pretrained(folder, dtype=torch.float64)
    assert model.backbone.block_length == BLOCK
    clean = torch.randint(MASK, (2, LENGTH))
    noisy = clean.masked_fill(torch.rand(2, LENGTH) < 0.6, MASK)
    positions = torch.arange(LENGTH, dtype=torch.float64).repeat(2)
    mask = plain.block_diffusion_mask(LENGTH, BLOCK)
    both = plain.dit_logits(folder, torch.cat((noisy, clean), 1), positions, mask)[:, :LENGTH]
    for start in range(0, LENGTH, BLOCK):
        span = slice(start, start + BLOCK)
        canvas = clean.clone()
        canvas[:, span] = noisy[:, span]
        canvas[:, span.stop :] = MASK  # what comes later isn't seen
        torch.testing.assert_close(model(canvas)[:, span], both[:, span], rtol=1e-9, atol=1e-9)


def test_keys_of_finished_blocks_are_exact(folder: Path) -> None:
    model = DiffusionLM.from_pretrained(folder, dtype=torch.float64)
    tokens = torch.randint(MASK, (2, LENGTH))
    expected = model(tokens)
    cache = model.backbone.new_cache(2, LENGTH)
    for start in range(0, LENGTH, BLOCK):
        region = slice(start, start + BLOCK)
        hidden = model.backbone.hidden(tokens[:, region], cache=cache, region=region)
        torch.testing.assert_close(model.backbone.head(hidden), expected[:, region], rtol=1e-9, atol=1e-9)


def test_it_decodes_block_by_block(folder: Path) -> None:
    model = DiffusionLM.from_pretrained(folder)
    sample = model.generate(torch.full((2, LENGTH), MASK), sampler=block_diffusion(block_length=BLOCK), seed=3)
    assert not model.process.is_masked(sample.tokens).any()


def test_a_round_trip_changes_nothing(folder: Path, tmp_path: Path) -> None:
    DiffusionLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert "backbone.rotary_emb.inv_freq" in load_file(folder / "model.safetensors")


def test_a_block_as_long_as_the_row_is_mdlms_network(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"block_size": LENGTH}))
    model = DiffusionLM.from_pretrained(folder, dtype=torch.float64)
    assert model.backbone.block_length is None
    ids = torch.randint(VOCAB, (2, LENGTH))
    everything = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    expected = plain.dit_logits(folder, ids, torch.arange(LENGTH, dtype=torch.float64), everything)
    torch.testing.assert_close(model(ids), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", [{"block_size": 5}, {"time_conditioning": True}])
def test_blocks_that_cannot_be_served(folder: Path, change: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="blocks must divide model_length=12 and can't be time-conditioned"):
        DiffusionLM.from_pretrained(folder)

"""Adapters in PEFT's format, against the package itself: the same logits both ways, or a reason why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llada.checkpoints.released import merge_adapter, read_pretrained, write_adapter
from llada.checkpoints.released.families import LAYOUTS
from llada.module import DiffusionLM

transformers = pytest.importorskip("transformers", reason="the extra hf isn't installed")
peft = pytest.importorskip("peft", reason="the extra peft isn't installed")

IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
CAUSAL: dict[str, Any] = {"mask_token_id": 59, "causal": True, "shift": False}
"""Reads an autoregressive checkpoint as what it is, so that its own logits are the reference."""


def base(**fields: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=60, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, **fields,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base"
    base().save_pretrained(path)
    return path


def trained(path: Path, **options: Any) -> Any:
    """An adapter with random additions, as PEFT saves it; and the model with it."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]} | options
    model = peft.get_peft_model(base(), peft.LoraConfig(**options)).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    return model


ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all matrices": {"target_modules": "all-linear"},
    "rank patterns": {"rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 7}},
    "alpha patterns": {"alpha_pattern": {r"model\.layers\.1\..*_proj": 1.5, "^model.layers.0.mlp.down_proj": 9}},
    "both": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 12}, "use_rslora": True},
    "rank-stabilised": {"use_rslora": True},
    "some layers": {"layers_to_transform": [1]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole matrices": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "norms": {"modules_to_save": ["norm"]},
    "gaussian": {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_what_peft_saved_gives_its_logits(folder: Path, tmp_path: Path, case: str) -> None:
    reference = trained(tmp_path / "adapter", **ADAPTERS[case])
    with torch.no_grad():
        expected, plain = reference(IDS).logits, DiffusionLM.from_pretrained(folder, **CAUSAL)(IDS)
        ours = DiffusionLM.from_pretrained(folder, adapter=tmp_path / "adapter", **CAUSAL)(IDS)
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "both", "head"])
def test_what_we_write_gives_the_logits_in_peft(folder: Path, tmp_path: Path, name: str) -> None:
    """Out of our names, with ranks and scales of their own, into the model of transformers."""
    backbone = read_pretrained(folder, **CAUSAL).backbone
    torch.manual_seed(1)
    paths = [*(f"blocks.{n}.attention.{p}_proj" for n in (0, 1) for p in "qo"), "blocks.1.feed_forward.down_proj"]
    paths += ["head"] if name == "head" else []
    ranks = dict.fromkeys(paths, 3) | ({"blocks.0.attention.q_proj": 5} if name == "both" else {})
    alphas = dict.fromkeys(paths, 4.0) | ({"blocks.1.attention.o_proj": 9.0} if name == "both" else {})
    pairs = {}
    for path in paths:
        out, into = backbone.get_submodule(path).weight.shape
        pairs[path] = torch.randn(ranks[path], into) / 4, torch.randn(out, ranks[path]) / 4
    (layout,) = (layout for layout in LAYOUTS if layout.name == "qwen2")
    write_adapter(tmp_path / "a", backbone, layout, pairs, alphas, rank_stabilised=name == "both", base="base")
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(layout.theirs(f"{path}.weight").removesuffix(".weight") for path in paths)
    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(base(), tmp_path / "a").eval()(IDS).logits
        ours = DiffusionLM.from_pretrained(folder, adapter=tmp_path / "a", **CAUSAL)(IDS)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert (expected - base()(IDS).logits).abs().max() > 0.05


def change(file: str, edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        content = json.loads((adapter / file).read_text())
        edit(content)
        (adapter / file).write_text(json.dumps(content))

    return apply


def config(**fields: Any) -> Callable[[Path], None]:
    return change("adapter_config.json", lambda content: content.update(fields))


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        content = load_file(adapter / "adapter_model.safetensors")
        edit(content)
        save_file({name: t.contiguous() for name, t in content.items()}, adapter / "adapter_model.safetensors")

    return apply


def foreign(content: dict[str, torch.Tensor]) -> None:
    content.clear()
    content["lm_head.weight"] = torch.ones(2, 2)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dora": (config(use_dora=True), "use_dora=True, which isn't plain LoRA"),
    "biases": (config(bias="lora_only"), "bias='lora_only', but only 'none'"),
    "pissa": (config(init_lora_weights="pissa_niter_4"), "init_lora_weights='pissa_niter_4', but only"),
    "another method": (config(peft_type="IA3"), "peft_type='IA3', but only 'LORA'"),
    "unknown arithmetic": (config(use_newra={"scale": 2}), "use_newra=.*, which isn't plain LoRA"),
    "parameters": (config(target_parameters=["mlp.experts.gate_up_proj"]), "target_parameters=.*isn't plain LoRA"),
    "no method": (change("adapter_config.json", lambda c: c.pop("peft_type")), "no field 'peft_type'"),
    "rank is a lie": (config(r=9), "has rank 9; it has 4"),
    "rank of text": (config(r="4"), "r='4', but it must be a whole number"),
    "infinite scale": (config(lora_alpha=float("inf")), "adapter_config.json has lora_alpha=inf, but it must be a fin"),
    "whole matrices are gone": (config(modules_to_save=["lm_head"]), "trained as a whole .*holds no whole matrix"),
    "another file": (tensors(lambda content: foreign(content)), "holds no low-rank additions; is it another file"),
    "endless expression": (config(alpha_pattern={"(a+)+b": 1.0}), "expression .* too involved"),
    "patterns in a list": (config(rank_pattern=["q_proj"]), "rank_pattern=.*, but it must be an object"),
    "no matrices": (tensors(lambda w: w.update({f"{Q}A.weight": torch.tensor(1.0)})), "isn't of two matrices"),
    "no expression": (config(alpha_pattern={"q_proj[": 1.0}), "is no expression"),
    "half an addition": (
        tensors(lambda w: w.pop(f"{Q}A.weight")),
        "half of the addition to model.layers.0.self_attn.q",
    ),
    "another matrix": (
        tensors(lambda w: w.update({f"{Q}A.weight": torch.ones(4, 8)})),
        r"has shape \(32, 8\), but the",
    ),
    "another base": (
        tensors(lambda w: [w.update({n.replace("self_attn", "attn"): w.pop(n)}) for n in list(w)]),
        r"changes model\.layers\.\d\.attn\.\w_proj, which the model hasn't",
    ),
    "nothing": (tensors(lambda w: [w.pop(n) for n in list(w)]), "holds no low-rank additions; is it another file"),
    "truncated": (lambda a: (a / "adapter_model.safetensors").write_bytes(b"x"), "damaged or truncated"),
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors; pickled"),
    "no config": (lambda a: (a / "adapter_config.json").unlink(), "there is no file .*adapter_config.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_another_kind_of_adapter_is_refused_and_changes_nothing(folder: Path, tmp_path: Path, case: str) -> None:
    spoil, message = BROKEN[case]
    trained(tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    backbone = read_pretrained(folder, **CAUSAL).backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        merge_adapter(backbone, tmp_path / "adapter")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_an_embedding_that_is_the_head_as_well_is_not_changed_alone(folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "adapter", target_modules=["embed_tokens"])
    tied = tmp_path / "tied"
    base(tie_word_embeddings=True).save_pretrained(tied)
    with pytest.raises(ValueError, match="changes the embedding alone, but the model's head is the same matrix"):
        DiffusionLM.from_pretrained(tied, adapter=tmp_path / "adapter", **CAUSAL)


def test_halves_are_added_up_in_single_precision(folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "adapter")
    exact = DiffusionLM.from_pretrained(folder, adapter=tmp_path / "adapter", **CAUSAL).backbone
    plain = DiffusionLM.from_pretrained(folder, dtype=torch.bfloat16, **CAUSAL).backbone
    halves = DiffusionLM.from_pretrained(folder, dtype=torch.bfloat16, adapter=tmp_path / "adapter", **CAUSAL).backbone
    name = "blocks.0.attention.q_proj.weight"
    change = exact.state_dict()[name] - DiffusionLM.from_pretrained(folder, **CAUSAL).backbone.state_dict()[name]
    torch.testing.assert_close(
        halves.state_dict()[name], (plain.state_dict()[name].float() + change).bfloat16(), rtol=1e-2, atol=1e-6
    )

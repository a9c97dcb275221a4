"""Hugging Face's own models: as reference for converted checkpoints, and wrapped as backbones."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForMaskedLM

from llada.backbones.huggingface import HuggingFaceBackbone
from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import low_confidence
from tests.installed import of_transformers

transformers = pytest.importorskip("transformers", reason="the extra hf isn't installed")
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip


def causal(family: str) -> Any:
    torch.manual_seed(0)
    extra = {"head_dim": 8} if family == "Qwen3" else {}
    config = of_transformers(f"{family}Config")(**SMALL, **extra)
    return of_transformers(f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_a_causal_mask_gives_the_autoregressive_logits(family: str, tmp_path: Path) -> None:
    reference = causal(family)
    for parameter in reference.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    reference.save_pretrained(tmp_path / "ar")
    ids = torch.randint(60, (2, 9))
    with torch.no_grad():
        expected = reference(ids).logits
        causal_model = DiffusionLM.from_pretrained(tmp_path / "ar", mask_token_id=59, causal=True, shift=False)
        torch.testing.assert_close(causal_model(ids), expected, rtol=1e-4, atol=1e-5)
        model = DiffusionLM.from_pretrained(tmp_path / "ar", mask_token_id=59)
        assert model.backbone.shift
        assert not torch.allclose(model(ids)[:, 1:], expected[:, :-1], atol=1e-3)  # it sees to the right


ADAPTED: dict[str, tuple[str, str, dict[str, Any]]] = {  # model_type -> body, class, further fields
    "a2d-qwen2": ("Qwen2", "A2DQwen2LMHeadModel", {}),
    "a2d-qwen3": ("Qwen3", "A2DQwen3LMHeadModel", {}),
    "a2d-llama": ("Llama", "A2DLlamaLMHeadModel", {}),
    "sdar": ("Qwen3", "SDARForCausalLM", {"block_size": 4}),
    "Fast_dLLM_Qwen": ("Qwen2", "Fast_dLLM_QwenForCausalLM", {"bd_size": 3}),
}


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("family", ADAPTED)
def test_an_adapted_family_is_its_body_under_its_own_mask(family: str, renamed: bool, tmp_path: Path) -> None:
    """transformers computes the body; who sees whom, and where outputs are read, is written out here."""
    body, name, fields = ADAPTED[family]
    reference = causal(body)
    for parameter in reference.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    reference.save_pretrained(tmp_path / "m")
    file = tmp_path / "m/config.json"
    kind = {} if renamed else {"model_type": family}
    fields = {"architectures": [name], "mask_token_id": 59, **fields}
    file.write_text(json.dumps(json.loads(file.read_text()) | fields | kind))
    ids = torch.randint(60, (2, 11))
    block = fields.get("block_size", fields.get("bd_size", 11))
    place = torch.arange(11) // block
    hidden = torch.zeros(11, 11).masked_fill(place[:, None] < place[None], torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = reference(ids, attention_mask=hidden[None, None].expand(2, 1, 11, 11)).logits
        if family == "Fast_dLLM_Qwen":
            expected = torch.cat((expected[:, :1], expected[:, :-1]), 1)
        model = DiffusionLM.from_pretrained(tmp_path / "m")
        torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == family
    assert torch.equal(DiffusionLM.from_pretrained(tmp_path / "again")(ids), model(ids))


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_a_saved_start_loads_in_transformers(family: str, tmp_path: Path) -> None:
    reference = causal(family)
    reference.save_pretrained(tmp_path / "ar")
    DiffusionLM.from_pretrained(tmp_path / "ar", mask_token_id=59).save_pretrained(tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", local_files_only=True).eval()
    ids = torch.randint(60, (1, 6))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, reference(ids).logits)


ENCODER: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 60,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 64}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForMaskedLM": ("BertConfig", ENCODER),
    "RobertaForMaskedLM": ("RobertaConfig", ENCODER),
    "ModernBertForMaskedLM": ("ModernBertConfig", {**ENCODER, **ENDS, "cls_token_id": 1, "sep_token_id": 2}),
}
CAUSAL: dict[str, tuple[str, dict[str, Any], bool]] = {  # the last: whether the logits are what the head makes
    "LlamaForCausalLM": ("LlamaConfig", SMALL, True),
    "Qwen2ForCausalLM": ("Qwen2Config", SMALL, True),
    "MistralForCausalLM": ("MistralConfig", {**SMALL, "sliding_window": 3}, True),
    "Gemma2ForCausalLM": ("Gemma2Config", {**SMALL, "head_dim": 8, "sliding_window": 3}, False),
    "CohereForCausalLM": ("CohereConfig", SMALL, False),
    "GraniteForCausalLM": ("GraniteConfig", {**SMALL, "logits_scaling": 3.0}, False),
    "GPT2LMHeadModel": ("GPT2Config", {**GPT2, **ENDS}, True),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "BertModel": ("BertConfig", ENCODER, "BertModel has no vocabulary head"),
    "BertForTokenClassification": ("BertConfig", ENCODER, "has no vocabulary head"),
    "MambaForCausalLM": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 60, "state_size": 4, **ENDS},
        "can't be run with a four-dimensional mask",
    ),
    "Lfm2ForCausalLM": (
        "Lfm2Config",
        {**SMALL, "layer_types": ["conv", "full_attention"]},
        "has conv layers, which read from left to right only",
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 60},
        "is an encoder-decoder",
    ),
}


def make(name: str, config: str, arguments: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return of_transformers(name)(of_transformers(config)(**arguments)).eval()


def skip_if_only_two_dimensional(reference: Any) -> None:
    """Skip the test where this version of transformers takes no four-dimensional mask for a model."""
    try:
        reference(torch.ones(1, 2, dtype=torch.long), attention_mask=torch.zeros(1, 1, 2, 2))
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"{type(reference).__name__} of transformers {transformers.__version__}: {error}")


def sees(backbone: HuggingFaceBackbone, position: int) -> set[int]:
    """Which tokens change what is said of a position."""
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        before = backbone(ids)[0, position]
        return {
            other
            for other in range(8)
            if not torch.equal(backbone(ids.index_fill(1, torch.tensor([other]), 40))[0, position], before)
        }


@pytest.mark.parametrize("name", CAUSAL)
def test_a_wrapped_causal_model_sees_everything(name: str) -> None:
    config, arguments, separate = CAUSAL[name]
    reference = make(name, config, arguments)
    skip_if_only_two_dimensional(reference)
    backbone = HuggingFaceBackbone(reference)
    assert backbone.made_bidirectional
    assert backbone.shift
    assert backbone.whole != separate
    assert sees(backbone, 1) == set(range(8))
    assert sees(HuggingFaceBackbone(reference, shift=False), 7) == set(range(8))
    ids = torch.randint(3, 60, (2, 8))
    with torch.no_grad():
        assert backbone.hidden(ids, select=torch.tensor([3, 9])).shape == (2, 32 if separate else 60)
        raw = HuggingFaceBackbone(reference, shift=False)(ids)
        torch.testing.assert_close(backbone(ids)[:, 1:], raw[:, :-1])
    with pytest.raises(ValueError, match="don't pack rows"):
        backbone.hidden(ids, segment_ids=torch.zeros_like(ids))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_wrapped_model_of_one_layer_has_the_autoregressive_logits_at_its_end(name: str) -> None:
    """There, and only there, a causal mask hides nothing; scaled and bent logits stay scaled and bent."""
    config, arguments, _ = CAUSAL[name]
    fewer = {key: 1 if key in ("num_hidden_layers", "n_layer") else value for key, value in arguments.items()}
    reference = make(name, config, fewer | ({"sliding_window": 64} if "sliding_window" in fewer else {}))
    skip_if_only_two_dimensional(reference)
    ids = torch.randint(3, 60, (2, 8))
    with torch.no_grad():
        ours = HuggingFaceBackbone(reference, shift=False)(ids)
        torch.testing.assert_close(ours[:, -1], reference(ids).logits[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MASKED)
def test_a_wrapped_masked_model_is_left_as_it_is(name: str) -> None:
    config, arguments = MASKED[name]
    reference = make(name, config, arguments)
    backbone = HuggingFaceBackbone(reference)
    assert (backbone.made_bidirectional, backbone.shift, backbone.whole) == (False, False, True)
    ids, mask = torch.randint(3, 60, (2, 8)), torch.tensor([[True] * 8, [True] * 6 + [False] * 2])
    with torch.no_grad():
        torch.testing.assert_close(backbone(ids, mask), reference(ids, attention_mask=mask.long()).logits)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GraniteForCausalLM", "BertForMaskedLM"])
def test_a_wrapped_model_comes_back_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    config, arguments, *_ = CAUSAL.get(name) or MASKED[name]
    model = DiffusionLM(HuggingFaceBackbone(make(name, config, arguments)), MaskingProcess(59))
    torch.save({"state_dict": model.state_dict(), PARTS_KEY: stored_parts(model)}, tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    ids = torch.randint(3, 60, (2, 8))
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))
    assert again.backbone.shift == model.backbone.shift


def test_a_network_without_values_is_not_tried() -> None:
    config, arguments, *_ = CAUSAL["LlamaForCausalLM"]
    network = make("LlamaForCausalLM", config, arguments).to("meta")
    with pytest.raises(NotImplementedError, match="meta device have no values to try it with; load them first"):
        HuggingFaceBackbone(network)


def test_a_wrapped_model_is_saved_by_its_own_class(tmp_path: Path) -> None:
    config, arguments, *_ = MASKED["BertForMaskedLM"]
    model = DiffusionLM(HuggingFaceBackbone(make("BertForMaskedLM", config, arguments)), MaskingProcess(59)).eval()
    model.save_pretrained(tmp_path / "out", max_shard_size="50KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    theirs = BertForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.mask_token_id == 59
    ids = torch.randint(3, 60, (2, 8))
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, model(ids))
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert torch.equal(
        half["cls.predictions.bias"], model.state_dict()["backbone.network.cls.predictions.bias"].bfloat16()
    )
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"saved by its own class.*leave out the layout 'llada'"):
        model.save_pretrained(tmp_path / "other", layout="llada")


def test_a_folder_of_transformers_is_loaded_by_name(tmp_path: Path) -> None:
    reference = make("BertForMaskedLM", "BertConfig", ENCODER)
    reference.save_pretrained(tmp_path / "bert")
    backbone = HuggingFaceBackbone(str(tmp_path / "bert")).eval()
    ids = torch.randint(3, 60, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(backbone(ids), reference(ids).logits)
    with pytest.raises(ValueError, match="code from a checkpoint is never run"):
        HuggingFaceBackbone({"architecture": "logging", "config": {}})
    with pytest.raises(ValueError, match="described by its architecture and config"):
        HuggingFaceBackbone({"config": {}})


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install llada\[hf\]"):
        HuggingFaceBackbone("some/model")


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_a_wrapped_causal_model_equals_the_converted_one(family: str, tmp_path: Path) -> None:
    reference = causal(family)
    reference.save_pretrained(tmp_path / "ar")
    converted = DiffusionLM.from_pretrained(tmp_path / "ar", mask_token_id=59)
    wrapped = HuggingFaceBackbone(reference, shift=True)
    ids = torch.randint(60, (2, 7))
    mask = torch.tensor([[True] * 7, [False] * 2 + [True] * 5])
    with torch.no_grad():
        torch.testing.assert_close(wrapped(ids), converted(ids), rtol=1e-4, atol=1e-5)
        ours, theirs = converted(ids, attention_mask=mask), wrapped(ids, attention_mask=mask)
        torch.testing.assert_close(theirs[1, 3:], ours[1, 3:], rtol=1e-4, atol=1e-5)


def test_a_wrapped_masked_model_trains_and_samples() -> None:
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
                                     vocab_size=60)  # fmt: skip
    reference = transformers.BertForMaskedLM(config).eval()
    backbone = HuggingFaceBackbone(reference)
    ids = torch.randint(59, (2, 6))
    with torch.no_grad():
        torch.testing.assert_close(backbone(ids), reference(ids).logits)
    model = DiffusionLM(backbone, MaskingProcess(59))
    sample = model.generate(torch.full((2, 6), 59), sampler=low_confidence(steps=3))
    assert not model.process.is_masked(sample.tokens).any()
    assert sample.calls.tolist() == [3, 3]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_wrapped_is_refused(name: str) -> None:
    config, arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        HuggingFaceBackbone(make(name, config, arguments))


class Own(torch.nn.Module):
    """Averages the tokens from the first to each, or all of them; obeys masks or not."""

    def __init__(self, *, causal: bool, obedient: bool = True) -> None:
        super().__init__()
        self.embedding, self.lm_head = torch.nn.Embedding(60, 8), torch.nn.Linear(8, 60)
        self.causal, self.obedient = causal, obedient
        self.config = transformers.BertConfig(**ENCODER)

    @property
    def base_model(self) -> torch.nn.Module:
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        keep = attention_mask if attention_mask.ndim == 2 else attention_mask[:, 0, 0] == 0
        states = self.embedding(input_ids) * (keep[..., None] if self.obedient else 1.0)
        states = states.cumsum(1) if self.causal else states.sum(1, keepdim=True).expand_as(states)
        return SimpleNamespace(last_hidden_state=states, logits=self.lm_head(states))

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding


def test_what_a_model_does_counts_and_not_what_it_is_called() -> None:
    assert not HuggingFaceBackbone(Own(causal=False)).made_bidirectional
    with pytest.raises(ValueError, match="doesn't look to the right even where its mask allows it"):
        HuggingFaceBackbone(Own(causal=True))
    with pytest.raises(ValueError, match="lets tokens see padding"):
        HuggingFaceBackbone(Own(causal=False, obedient=False))
    with pytest.raises(ValueError, match="isn't a model of transformers"):
        HuggingFaceBackbone(torch.nn.Linear(2, 2))


def test_the_first_token_of_a_padded_row_is_read_at_itself() -> None:
    model = HuggingFaceBackbone(causal("Llama"))
    assert model.shift
    row, mask = torch.tensor([[3, 9, 4]]), torch.tensor([[False, False, True, True, True]])
    padded = torch.nn.functional.pad(row, (2, 0))
    with torch.no_grad():
        torch.testing.assert_close(model(padded, attention_mask=mask)[:, 2:], model(row))

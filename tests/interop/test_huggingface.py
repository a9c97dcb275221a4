"""Hugging Face's own models: as reference for converted checkpoints, and wrapped as backbones."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llada.backbones.huggingface import HuggingFaceBackbone
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import low_confidence

transformers = pytest.importorskip("transformers", reason="the extra hf isn't installed")
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip


def causal(family: str) -> Any:
    torch.manual_seed(0)
    extra = {"head_dim": 8} if family == "Qwen3" else {}
    config = getattr(transformers, f"{family}Config")(**SMALL, **extra)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


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


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_a_saved_start_loads_in_transformers(family: str, tmp_path: Path) -> None:
    reference = causal(family)
    reference.save_pretrained(tmp_path / "ar")
    DiffusionLM.from_pretrained(tmp_path / "ar", mask_token_id=59).save_pretrained(tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", local_files_only=True).eval()
    ids = torch.randint(60, (1, 6))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, reference(ids).logits)


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


def test_what_cannot_be_wrapped_is_refused() -> None:
    headless = transformers.BertModel(transformers.BertConfig(hidden_size=32, num_hidden_layers=1,
                                      num_attention_heads=2, intermediate_size=48, vocab_size=60))  # fmt: skip
    with pytest.raises(ValueError, match="BertModel has no vocabulary head"):
        HuggingFaceBackbone(headless)

    class Stubborn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lm_head = torch.nn.Embedding(60, 8), torch.nn.Linear(8, 60)
            self.base_model = self._body

        def _body(self, input_ids: torch.Tensor, **_: Any) -> Any:
            states = self.embedding(input_ids).cumsum(1)  # causal whatever the mask says
            return type("Output", (), {"last_hidden_state": states})

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.lm_head

    with pytest.raises(ValueError, match="doesn't look to the right"):
        HuggingFaceBackbone(Stubborn())

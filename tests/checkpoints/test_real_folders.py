"""What lies in real folders beside the plain case: heads beside ties, masks that only the tokenizer knows, new rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.mask import SPELLINGS
from llada.module import DiffusionLM
from llada.process import MaskingProcess

VOCAB = 37
IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def save(folder: Path, layout: str, drop: tuple[str, ...] = (), **options: Any) -> DiffusionLM:
    """A small model of a family; fields named in ``drop`` are left out of its configuration."""
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=2, num_heads=2, hidden_width=24, **options)
    model = DiffusionLM(backbone, MaskingProcess(5)).eval()
    model.save_pretrained(folder, layout=layout)
    edit(folder, **dict.fromkeys(drop))
    return model


def edit(folder: Path, **fields: Any) -> None:
    """Change fields; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))


def add(folder: Path, **tensors: torch.Tensor) -> None:
    content = load_file(folder / "model.safetensors")
    save_file(content | {name.replace("__", "."): t for name, t in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("layout", "field", "head", "embedding", "options"),
    [
        ("llada", "weight_tying", "model.transformer.ff_out.weight", "model.transformer.wte.weight", {}),
        (
            "qwen2",
            "tie_word_embeddings",
            "lm_head.weight",
            "model.embed_tokens.weight",
            {"qkv_bias": True, "shift": True},
        ),
    ],
)
class TestHeadBesideATie:
    def test_an_equal_copy_ties(
        self, tmp_path: Path, layout: str, field: str, head: str, embedding: str, options: dict[str, Any]
    ) -> None:
        model = save(tmp_path / "m", layout, tie_embeddings=True, **options)
        add(tmp_path / "m", **{head: load_file(tmp_path / "m/model.safetensors")[embedding].clone()})
        again = DiffusionLM.from_pretrained(tmp_path / "m")
        assert again.backbone.tie_embeddings
        assert again.backbone.head.weight is again.backbone.embedding.weight
        assert torch.equal(again(IDS), model(IDS))

    def test_another_head_unties_and_is_saved_so(
        self, tmp_path: Path, layout: str, field: str, head: str, embedding: str, options: dict[str, Any]
    ) -> None:
        model = save(tmp_path / "m", layout, **options)
        edit(tmp_path / "m", **{field: True})
        with pytest.warns(UserWarning, match=f"ties the head .*another head, {head}, which is used"):
            again = DiffusionLM.from_pretrained(tmp_path / "m")
        assert not again.backbone.tie_embeddings
        assert torch.equal(again(IDS), model(IDS))
        again.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again/config.json").read_text())[field] is False
        assert torch.equal(DiffusionLM.from_pretrained(tmp_path / "again")(IDS), model(IDS))

    def test_the_last_row_counts(
        self, tmp_path: Path, layout: str, field: str, head: str, embedding: str, options: dict[str, Any]
    ) -> None:
        save(tmp_path / "m", layout, tie_embeddings=True, **options)
        copy = load_file(tmp_path / "m/model.safetensors")[embedding].clone()
        copy[-1, -1] += 1e-3
        add(tmp_path / "m", **{head: copy})
        with pytest.raises(ValueError, match="tie_embeddings=True, but the files hold a head"):
            DiffusionLM.from_pretrained(tmp_path / "m", tie_embeddings=True)
        assert not DiffusionLM.from_pretrained(tmp_path / "m", tie_embeddings=False).backbone.tie_embeddings

    def test_untied_without_a_head_says_how_to_tie(
        self, tmp_path: Path, layout: str, field: str, head: str, embedding: str, options: dict[str, Any]
    ) -> None:
        model = save(tmp_path / "m", layout, tie_embeddings=True, **options)
        edit(tmp_path / "m", **{field: False})
        with pytest.raises(ValueError, match=f"lacks the tensor {head}\n.*say so: tie_embeddings=True"):
            DiffusionLM.from_pretrained(tmp_path / "m")
        assert torch.equal(DiffusionLM.from_pretrained(tmp_path / "m", tie_embeddings=True)(IDS), model(IDS))


MOE: dict[str, Any] = {"qk_norm": True, "num_experts": 4, "experts_per_token": 2}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "mask_token": {
        "tokenizer_config.json": {"mask_token": "<|hole|>"},
        "tokenizer.json": {"added_tokens": [{"id": 9, "content": "<|hole|>"}, {"id": 3, "content": "[MASK]"}]},
    },
    "mask_token as an object": {
        "special_tokens_map.json": {"mask_token": {"content": "<|hole|>"}},
        "added_tokens.json": {"<|hole|>": 9, "<mask>": 3},
    },
    "decoder of added tokens": {"tokenizer_config.json": {"added_tokens_decoder": {"9": {"content": "<|mdm_mask|>"}}}},
    "slow tokenizer": {"added_tokens.json": {"|<MASK>|": 9}, "vocab.json": {"a": 0}},
    "vocabulary": {"tokenizer.json": {"model": {"vocab": {"a": 0, "[MASK]": 9}}, "added_tokens": []}},
    "said twice": {
        "tokenizer.json": {"added_tokens": [{"id": 9, "content": "<|mask|>"}]},
        "added_tokens.json": {"<|mask|>": 9},
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("layout", "options"), [("llada_moe", MOE), ("llama", {"shift": True})])
def test_the_tokenizer_tells_the_mask(tmp_path: Path, name: str, layout: str, options: dict[str, Any]) -> None:
    save(tmp_path / "m", layout, drop=("mask_token_id",), **options)
    with pytest.raises(ValueError, match=r"names no mask_token_id; give one with mask_token_id= \(--mask ID\)"):
        DiffusionLM.from_pretrained(tmp_path / "m")
    for file, content in TOKENIZERS[name].items():
        (tmp_path / "m" / file).write_text(json.dumps(content))
    assert DiffusionLM.from_pretrained(tmp_path / "m").process.mask_token_id == 9
    assert DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=7).process.mask_token_id == 7
    edit(tmp_path / "m", mask_token_id=11)
    assert DiffusionLM.from_pretrained(tmp_path / "m", shift=False).process.mask_token_id == 11


def test_a_mask_by_its_name_and_what_can_be_wrong_with_it(tmp_path: Path) -> None:
    save(tmp_path / "m", "llada", drop=("mask_token_id",))
    (tmp_path / "m/added_tokens.json").write_text(json.dumps({"<|mask|>": 9, "<x>": 4, "<far>": 99}))
    assert DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id="<x>").process.mask_token_id == 4
    with pytest.raises(ValueError, match="have no token '<y>', which is to be the mask"):
        DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id="<y>")
    with pytest.raises(ValueError, match="mask_token_id=99 has no row"):
        DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id="<far>")
    (tmp_path / "m/tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 8, "content": "<|mask|>"}]}))
    with pytest.raises(ValueError, match=r"'<\|mask\|>' has different ids: 8 in tokenizer.json, 9 in added_tokens"):
        DiffusionLM.from_pretrained(tmp_path / "m")
    edit(tmp_path / "m", mask_token_id=-1)  # as pad_token_id of early conversions: none
    with pytest.raises(ValueError, match="has different ids"):
        DiffusionLM.from_pretrained(tmp_path / "m")


def test_a_damaged_list_of_tokens_names_no_mask(tmp_path: Path) -> None:
    save(tmp_path / "m", "llada", drop=("mask_token_id",))
    for broken in (5, {"a": 1}, ["a", 3], [{"id": "9", "content": "<|mask|>"}], [{"content": ["<|mask|>"], "id": 9}]):
        (tmp_path / "m/tokenizer.json").write_text(json.dumps({"added_tokens": broken, "model": broken}))
        with pytest.raises(ValueError, match="names no mask_token_id"):
            DiffusionLM.from_pretrained(tmp_path / "m")


def test_a_head_and_an_embedding_that_are_no_matrices(tmp_path: Path) -> None:
    save(tmp_path / "m", "qwen2", tie_embeddings=True, qkv_bias=True, shift=True)
    add(tmp_path / "m", **{"lm_head.weight": torch.tensor(1.0), "model.embed_tokens.weight": torch.tensor(1.0)})
    with pytest.warns(UserWarning, match="another head"), pytest.raises(ValueError, match="has shape"):
        DiffusionLM.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_known_spelling_is_found(tmp_path: Path, spelling: str) -> None:
    save(tmp_path / "m", "llada", drop=("mask_token_id",))
    (tmp_path / "m/added_tokens.json").write_text(json.dumps({"<eos>": 2, spelling: 9}))
    assert DiffusionLM.from_pretrained(tmp_path / "m").process.mask_token_id == 9


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_behind_the_vocabulary_gets_a_row(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    model = save(tmp_path / "m", "llama", drop=("mask_token_id",), shift=True, tie_embeddings=tied)
    with pytest.warns(UserWarning, match=f"the mask token {VOCAB} has no row in the files: it gets one"):
        grown = DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=VOCAB, dtype=dtype)
    for name in ("embedding", "head"):
        before, after = getattr(model.backbone, name).weight.to(dtype), getattr(grown.backbone, name).weight
        assert torch.equal(after[:VOCAB], before)
        torch.testing.assert_close(
            after[VOCAB], getattr(model.backbone, name).weight.mean(0).to(dtype), rtol=1e-2, atol=1e-3
        )
    assert grown.backbone.vocab_size == VOCAB + 1
    if dtype == torch.float32:
        torch.testing.assert_close(grown(IDS)[..., :VOCAB], model(IDS))
    grown.save_pretrained(tmp_path / "again")
    again = DiffusionLM.from_pretrained(tmp_path / "again")  # with its row, and so without a word
    assert torch.equal(again.backbone.embedding.weight, grown.backbone.embedding.weight)


def test_only_the_masks_own_row_may_be_missing(tmp_path: Path) -> None:
    save(tmp_path / "m", "llama", drop=("mask_token_id",), shift=True)
    edit(tmp_path / "m", vocab_size=VOCAB + 1)
    with pytest.raises(ValueError, match=r"has shape \(37, 16\), but config\.json asks for \(38, 16\)"):
        DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=VOCAB)
    edit(tmp_path / "m", vocab_size=VOCAB - 1)  # the files have the row that the configuration doesn't count
    assert DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=VOCAB - 1).backbone.vocab_size == VOCAB


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "a2d-qwen2": ("qwen2", {"qkv_bias": True}),
    "a2d-qwen3": ("qwen3", {"qk_norm": True}),
    "a2d-llama": ("llama", {}),
    "sdar": ("qwen3", {"qk_norm": True, "block_length": 2}),
    "fast_dllm": ("qwen2", {"qkv_bias": True, "shift": True, "block_length": 2}),
    "dream": ("qwen2", {"qkv_bias": True, "shift": True}),
}


@pytest.mark.parametrize("family", BODIES)
def test_a_family_under_the_name_of_its_body_is_known_by_its_class(tmp_path: Path, family: str) -> None:
    body, options = BODIES[family]
    model = save(tmp_path / "m", family, **options)
    edit(tmp_path / "m", model_type=body)
    again = DiffusionLM.from_pretrained(tmp_path / "m")
    assert (again.backbone.shift, again.backbone.block_length) == (model.backbone.shift, model.backbone.block_length)
    assert torch.equal(again(IDS), model(IDS))
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(DiffusionLM.from_pretrained(tmp_path / "again")(IDS), model(IDS))


@pytest.mark.parametrize("body", ["llama", "qwen2", "qwen3"])
def test_a_shift_that_nothing_tells_is_asked_for(tmp_path: Path, body: str) -> None:
    options: dict[str, Any] = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}.get(body, {})
    save(tmp_path / "m", body, drop=("right_shift_logits",), shift=True, **options)
    with pytest.raises(ValueError, match="--backbone shift=true or --backbone shift=false"):
        DiffusionLM.from_pretrained(tmp_path / "m")
    for shift in (True, False):
        told = DiffusionLM.from_pretrained(tmp_path / "m", shift=shift)
        told.save_pretrained(tmp_path / f"{shift}")  # where it is written down
        assert DiffusionLM.from_pretrained(tmp_path / f"{shift}").backbone.shift is shift
    edit(tmp_path / "m", mask_token_id=None)  # an autoregressive checkpoint as a start: shifted by its nature
    assert DiffusionLM.from_pretrained(tmp_path / "m", mask_token_id=5).backbone.shift


def test_blocks_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "m", "sdar", drop=("block_size",), qk_norm=True, block_length=4)
    with pytest.raises(ValueError, match=r"no field 'block_size'.*--backbone block_length=4"):
        DiffusionLM.from_pretrained(tmp_path / "m")
    assert DiffusionLM.from_pretrained(tmp_path / "m", block_length=2).backbone.block_length == 2


ABSURD: dict[str, dict[str, Any]] = {
    "layers": {"num_hidden_layers": 2**31},
    "heads": {"num_attention_heads": 2**40, "head_dim": 2},
    "width": {"hidden_size": 2**40},
    "head": {"head_dim": 2**40},
    "vocabulary": {"vocab_size": 2**50},
    "inside": {"intermediate_size": 2**60},
    "keys": {"num_attention_heads": 2**30, "num_key_value_heads": 2**30},
    "everything": {"num_hidden_layers": 10**4000},
    "layer types": {"num_hidden_layers": 2**31, "layer_types": ["full_attention"] * 2},
}


@pytest.mark.parametrize("case", ABSURD)
@pytest.mark.parametrize("family", ["a2d-qwen3", "sdar", "fast_dllm", "llada_moe", "qwen3"])
def test_absurd_sizes_take_no_memory(tmp_path: Path, family: str, case: str) -> None:
    resource = pytest.importorskip("resource")
    _, options = BODIES.get(family, ("", {"shift": True, "qk_norm": True} if family == "qwen3" else MOE))
    save(tmp_path / "m", family, **options)
    add(tmp_path / "m", **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    edit(tmp_path / "m", **ABSURD[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"config\.json|divisible|whole number|can't be built"):
        DiffusionLM.from_pretrained(tmp_path / "m")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB

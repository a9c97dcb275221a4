"""The three paths of the documentation, walked: fine-tuning (a small LLaDA, a small Dream), research, pretraining."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from llada import DiffusionLM
from llada.checkpoints.checkpoint import read_checkpoint
from llada.cli import main
from tests.checkpoints.test_known import editable_install
from tests.cli import conftest as small
from tests.cli.page import walk
from tests.tiny_checkpoint import MASK, VOCAB_SIZE, write_checkpoint, write_tokenizer

SMALL = ["--trainer.max_steps=4", "--trainer.accumulate_grad_batches=1", "--data.max_length=128",
         "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false",
         "--data.val_fraction=0.2"]  # fmt: skip
ANSWERS = ["--num_new_tokens", "4", "--sampler", "low_confidence", "--steps", "2"]
REMOTE_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class LLaDAConfig(PretrainedConfig):
    model_type = "llada"

class LLaDAModelLM(PreTrainedModel):
    config_class = LLaDAConfig
    def __init__(self, config):
        super().__init__(config)
        self.model = torch.nn.Module()
        self.model.transformer = torch.nn.Module()
        self.model.transformer.wte = torch.nn.Embedding(config.embedding_size, config.d_model)
        self.post_init()
"""
"""Stands for the modelling file of a released folder: it reads the embedding by its released name."""


def llada_folder(folder: Path) -> Path:
    write_checkpoint(folder)
    (folder / "modeling_llada.py").write_text(REMOTE_CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def dream_folder(folder: Path) -> Path:
    """Dream's names and fields with random weights."""
    write_tokenizer(folder)
    config = {"model_type": "Dream", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": VOCAB_SIZE, "mask_token_id": MASK,
              "max_position_embeddings": 192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (VOCAB_SIZE, 32), "lm_head": (VOCAB_SIZE, 32), "model.norm": (32,)}
    for n in range(2):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.{name}": (32,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.{name}": (32, 32) for name in ("q_proj", "o_proj")}
        shapes |= {f"{layer}.self_attn.{name}": (16, 32) for name in ("k_proj", "v_proj")}
        shapes |= {f"{layer}.mlp.{name}": (64, 32) for name in ("gate_proj", "up_proj")} | {
            f"{layer}.mlp.down_proj": (32, 64)
        }
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) / 6 for name, shape in shapes.items()}
    for n in range(2):
        for name, width in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
            weights[f"model.layers.{n}.self_attn.{name}.bias"] = torch.zeros(width)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def smaller(words: Sequence[str]) -> Sequence[str] | None:
    """Options that make a command of the page about fine-tuning small."""
    match words[0]:
        case "evaluate" | "serve":  # which need the network, or never end
            return None
        case "fit":
            return SMALL
        case "check":
            return ["--data.max_length=128"]
        case "chat" | "generate":
            return ANSWERS
    return []


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What would have gone to the hub."""
    made: list[SimpleNamespace] = []

    class Api:
        def create_repo(self, name: str, **said: object) -> None:
            made.append(SimpleNamespace(what="repo", name=name, **said))

        def upload_file(self, **said: object) -> None:
            made.append(SimpleNamespace(what="file", **said))

        def upload_folder(self, **said: object) -> str:
            made.append(SimpleNamespace(what="folder", **said))
            return "https://huggingface.co/me/my-model/commit/0"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return made


@pytest.mark.parametrize("make", [llada_folder, dream_folder])
def test_the_page_from_a_released_folder_to_a_model_of_ones_own(make, tmp_path, monkeypatch, capsys, uploads) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "FOLDER")
    chats = [
        [
            ("user", f"Where is boat {n}?"),
            ("assistant", f"On river {n}."),
            ("user", "And the boy?"),
            ("assistant", "Home."),
        ]
        for n in range(40)
    ]
    rows = [{"messages": [{"role": role, "content": said} for role, said in chat]} for chat in chats]
    Path("chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("questions.jsonl").write_text(json.dumps({"messages": rows[0]["messages"][:1]}))
    once = ("check", "generate", "score")  # the second family needs no more than the way from folder to folder

    def extra(words: Sequence[str]) -> Sequence[str] | None:
        return None if make is dream_folder and words[0] in once else smaller(words)

    ran = walk("fine-tuning.md", extra, monkeypatch, capsys)
    assert ran.count("convert") == 3
    assert {"config", "fit", "chat", "push", *(once if make is llada_folder else ())} <= set(ran)

    # The adapter on the released weights, and the folder, are the trained model.
    trained = DiffusionLM.load_from_checkpoint("runs/finetune_chat/model.ckpt")
    assert not torch.equal(
        trained.backbone.state_dict()["blocks.0.attention.q_proj.weight"],
        DiffusionLM.from_pretrained("FOLDER").backbone.state_dict()["blocks.0.attention.q_proj.weight"],
    )
    tokens = torch.arange(8)[None] + 20
    for again in (DiffusionLM.from_pretrained("FINE_TUNED"), DiffusionLM.from_pretrained("FOLDER", adapter="ADAPTER")):
        torch.testing.assert_close(again(tokens), trained(tokens), rtol=1e-5, atol=1e-5)
    assert make is dream_folder or len(Path("answers.jsonl").read_text().splitlines()) == 1

    # What went to the hub: the folder, and a card since it has none.
    assert [each.what for each in uploads] == ["repo", "file", "folder"]
    assert uploads[0].private
    card = uploads[1].path_or_fileobj.decode()
    assert "base_model: GSAI-ML/LLaDA-8B-Instruct" in card
    assert re.search(r"llada chat me/my-model", card)

    if make is llada_folder:  # the class that came with the folder reads what was written
        theirs = AutoModel.from_pretrained("FINE_TUNED", trust_remote_code=True)
        stored = load_file("FINE_TUNED/model.safetensors")["model.transformer.wte.weight"]
        assert torch.equal(theirs.model.transformer.wte.weight.float(), stored.float())


def test_what_is_no_checkpoint_isn_t_pushed(tmp_path, monkeypatch, capsys, uploads) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    assert main(["push", "notes", "me/my-model"]) == 1
    assert "llada convert CHECKPOINT notes" in capsys.readouterr().err
    write_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("mine")
    assert main(["push", "model", "mymodel"]) == 1
    assert "OWNER/MODEL" in capsys.readouterr().err
    assert main(["push", "model", "me/mymodel", "--public"]) == 0
    assert [each.what for each in uploads] == ["repo", "folder"]  # the card of one's own is kept
    assert not uploads[0].private


def tiny(story: Path) -> list[str]:
    """Options of a run of `pretrain_llada` on a short text."""
    return [str(word) for word in (*small.text(story), *small.SMALL, *small.QUIET, *small.SHORT)]


def test_the_page_about_a_part_of_ones_own(tmp_path, monkeypatch, capsys, story) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("held_out.txt").write_text("a boat is on the river\n" * 20)
    monkeypatch.syspath_prepend(str(tmp_path / "work" / "mylab"))  # what `pip install -e ./mylab` does
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path / "site")])
    editable_install(tmp_path / "work" / "mylab", tmp_path / "site")

    def extra(words: Sequence[str]) -> Sequence[str] | None:
        match words[0]:
            case "fit" if "runs/power-2.0" in words or "runs/power-1.0" in words:
                return None  # as the others
            case "fit" | "check":
                return [*tiny(story), *(["--trainer.max_steps=5"] if "last" in words else [])]
            case "score":
                return ["--draws=1", "--max_length=16"]
        return []

    ran = walk("research.md", extra, monkeypatch, capsys)
    assert ran == ["config", "check", "fit", "fit", "compare", "fit", "score"]
    for name, power, step in (("base", None, 3), ("mine", 1.5, 5)):
        stored = read_checkpoint(f"runs/{name}/model.ckpt")
        schedule = stored["llada"]["parts"]["process"]["init_args"]["schedule"]
        assert schedule["init_args"].get("power") == power
        assert stored["global_step"] == step
        assert list(Path(f"runs/{name}").rglob("metrics.csv"))
    assert "<svg" in Path("curves.svg").read_text()
    assert not Path("runs/pretrain_llada/model.ckpt").exists()


def test_the_page_about_pretraining(tmp_path, monkeypatch, capsys, story) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/story.txt").write_text(story.read_text())
    Path("held_out.txt").write_text("a boat is on the river\n" * 20)
    Path("code.jsonl").write_text("".join(json.dumps({"content": f"boat = {n}\n"}) + "\n" for n in range(4000)))
    mixed = [*small.SMALL, *small.QUIET, *small.SHORT]

    def extra(words: Sequence[str]) -> Sequence[str] | None:
        match words[0]:
            case "fit" if "mixture.yaml" in words:
                return mixed
            case "fit" if "20000" in words or "ddp" in words or "--data.tokenizer" in words:
                return None
            case "fit" | "check":
                return tiny(story)
            case "tokenizer" if "train" in words:
                return ["--training.vocab_size", "290"]
            case "sample":
                return ["--num_new_tokens", "4"]
            case "score":
                return ["--draws=1", "--max_length=16"]
        return []

    ran = walk("pretraining.md", extra, monkeypatch, capsys)
    assert ran == ["config", "check", "fit", "tokenizer", "tokenizer", "fit", "sample", "score", "convert"]
    assert DiffusionLM.from_pretrained("my-model").backbone.width == 16
    assert Path("runs/mixture/model.ckpt").exists()

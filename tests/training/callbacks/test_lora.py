"""LoRA: only the additions are trained, checkpoints are plain, a resumed run goes on exactly."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.checkpoints.released.options import LoadOptions
from llada.cli import main
from llada.text.loading import load_parts
from llada.training.callbacks import LoRA

ROWS = [{"tokens": torch.tensor([i, 1, 2, 3, 4, i])} for i in range(4)]


def build(seed: int = 0, **options: Any) -> DiffusionLM:
    torch.manual_seed(seed)
    backbone = BidirectionalTransformer(8, width=16, num_layers=2, num_heads=2, **options)
    return DiffusionLM(backbone, MaskingProcess(7), optimizer=partial(torch.optim.AdamW, lr=3e-2))


def fit(model: DiffusionLM, steps: int, folder: Path, adapters: LoRA, **options: Any) -> Trainer:
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[adapters], default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, DataLoader(ROWS, batch_size=4), **options)
    return trainer


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True, "num_kv_heads": 1}])
def test_the_change_of_every_matrix_has_the_rank_and_nothing_else_changes(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model, before = build(**options), build(**options).state_dict()
    fit(model, 5, tmp_path, LoRA(rank=2))
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        change = weight - before[name]
        if name.endswith("_proj.weight"):
            assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) == 2, name
        else:
            assert not change.any(), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("lora" in name for name, _ in model.named_modules())


def test_it_starts_from_the_very_function_and_learns(tmp_path: Path) -> None:
    model, losses = build(), []
    tokens = torch.tensor([[1, 7, 2, 3]])
    fresh = model.eval()(tokens).detach()
    seen = {}

    class Watch(LoRA):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen["logits"] = pl_module.eval()(tokens).detach()
            seen["trained"] = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            pl_module.train()

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    fit(model, 60, tmp_path, Watch(rank=4, targets=["q_proj", "down_proj"]))
    assert torch.equal(seen["logits"], fresh)
    assert seen["trained"] == 2 * (4 * (16 + 16) + 4 * (64 + 16))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_checkpoint_is_a_plain_model_and_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = build()
    fit(whole, 6, tmp_path, LoRA(rank=2))

    class SaveHalfWay(LoRA):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    stopped = build()
    trainer = fit(stopped, 3, tmp_path, SaveHalfWay(rank=2))
    loaded = DiffusionLM.load_from_checkpoint(tmp_path / "half.ckpt")
    for name, value in stopped.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    trainer.save_checkpoint(tmp_path / "end.ckpt")  # after the additions were merged

    for file in ("half.ckpt", "end.ckpt"):
        resumed = build()
        fit(resumed, 6, tmp_path, LoRA(rank=2), ckpt_path=tmp_path / file)
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_wrong_use_is_named(tmp_path: Path) -> None:
    trainer = fit(build(), 1, tmp_path, LoRA(rank=2))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)
    torch.save({**stored, "callbacks": {}}, tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match="belong to other weights"):
        fit(build(seed=5), 2, tmp_path, LoRA(rank=2), ckpt_path=tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="written without LoRA"):
        fit(build(), 2, tmp_path, LoRA(rank=2), ckpt_path=tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match="no matrix 'c_attn'"):
        fit(build(), 1, tmp_path, LoRA(targets=["c_attn"]))
    with pytest.raises(ValueError, match="not the head"):
        LoRA(targets=["head"])
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        LoRA(rank=0)


def released(folder: Path, **options: Any) -> DiffusionLM:
    """The base model of a run, saved in the layout that can say it, and read again."""
    if not folder.exists():
        build(**options).save_pretrained(folder)
    return DiffusionLM.from_pretrained(folder)


FAMILIES: dict[str, dict[str, Any]] = {
    "llada": {},
    "a2d-qwen3": {"qk_norm": True},
    "dream": {"qkv_bias": True, "shift": True, "num_kv_heads": 1},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_leaves_an_adapter_that_makes_the_base_what_it_became(tmp_path: Path, family: str) -> None:
    base = released(tmp_path / "base", **FAMILIES[family])
    assert json.loads((tmp_path / "base/config.json").read_text())["model_type"].lower() == family
    trainer = fit(base, 5, tmp_path, LoRA(rank=2, alpha=3))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert main(["convert", str(tmp_path / "run.ckpt"), str(tmp_path / "a"), "--adapter", "--layout", family]) == 0
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 3.0, "LORA")
    stored = load_file(tmp_path / "a/adapter_model.safetensors")
    assert len(stored) == 2 * 7 * 2
    tuned = DiffusionLM.from_pretrained(tmp_path / "base", adapter=tmp_path / "a")
    for name, value in base.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], value)
    assert main(["convert", str(tmp_path / "base"), str(tmp_path / "sums"), "--adapter", str(tmp_path / "a")]) == 0
    sums = DiffusionLM.from_pretrained(tmp_path / "sums").state_dict()
    assert all(torch.equal(value, sums[name]) for name, value in tuned.state_dict().items())
    # LLaDA calls the last matrix of a layer and the head alike: the short name would mean both.
    short = "down_proj" if family != "llada" else None
    assert ("down_proj" in config["target_modules"]) == (short is not None)
    assert ("model.transformer.blocks.1.ff_out" in config["target_modules"]) == (short is None)


def test_a_run_goes_on_from_an_adapter(tmp_path: Path) -> None:
    base = released(tmp_path / "base")
    fit(base, 4, tmp_path, LoRA(rank=2, alpha=3, targets=["q_proj", "up_proj"])).save_checkpoint(tmp_path / "run.ckpt")
    assert main(["convert", str(tmp_path / "run.ckpt"), str(tmp_path / "a"), "--adapter"]) == 0
    seen = {}

    class Watch(LoRA):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.update({name: value.clone() for name, value in pl_module.state_dict().items()})
            seen["trained"] = [name for name, p in pl_module.named_parameters() if p.requires_grad]

    again = released(tmp_path / "base")
    trainer = fit(again, 1, tmp_path, Watch(adapter=str(tmp_path / "a")))
    for name, value in base.state_dict().items():
        torch.testing.assert_close(seen[name], value)
    assert len(seen["trained"]) == 2 * 2 * 2
    assert not torch.equal(again.state_dict()["backbone.blocks.0.attention.q_proj.weight"],
                           base.state_dict()["backbone.blocks.0.attention.q_proj.weight"])  # fmt: skip
    trainer.save_checkpoint(tmp_path / "second.ckpt")
    assert main(["convert", str(tmp_path / "second.ckpt"), str(tmp_path / "b"), "--adapter"]) == 0
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 3.0)
    fit(released(tmp_path / "base"), 2, tmp_path, LoRA(adapter=str(tmp_path / "a")), ckpt_path=tmp_path / "second.ckpt")


def test_an_adapter_is_added_to_a_file_of_the_trainer_as_well(tmp_path: Path) -> None:
    base = released(tmp_path / "base")
    fit(base, 3, tmp_path, LoRA(rank=2)).save_checkpoint(tmp_path / "run.ckpt")
    assert main(["convert", str(tmp_path / "run.ckpt"), str(tmp_path / "a"), "--adapter"]) == 0
    assert main(["convert", str(tmp_path / "base"), str(tmp_path / "base.ckpt")]) == 0
    sums = load_parts(str(tmp_path / "base.ckpt"), None, "cpu", None, LoadOptions(adapter=str(tmp_path / "a")))[0]
    for name, value in base.state_dict().items():
        torch.testing.assert_close(sums.state_dict()[name], value)


def test_a_run_without_additions_leaves_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(build(), 1, tmp_path, LoRA(rank=2))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    stored = torch.load(tmp_path / "run.ckpt", weights_only=True)
    torch.save({**stored, "callbacks": {}}, tmp_path / "plain.ckpt")
    assert main(["convert", str(tmp_path / "plain.ckpt"), str(tmp_path / "a"), "--adapter"]) == 1
    assert "plain.ckpt holds no low-rank additions" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install llada\[peft\]"):
        fit(build(), 1, tmp_path, LoRA())

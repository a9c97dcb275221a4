"""LoRA: only the additions are trained, checkpoints are plain, a resumed run goes on exactly."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
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


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install llada\[peft\]"):
        fit(build(), 1, tmp_path, LoRA())

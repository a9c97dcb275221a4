"""``llada fit`` with the recipes that learn from preferences."""

import json
from pathlib import Path

import pytest

from llada.checkpoints.checkpoint import read_checkpoint
from llada.module import DiffusionLM
from llada.objectives import FrozenCopy, PreferenceObjective
from tests.cli.conftest import CONFIGS, QUIET, SHORT, SMALL, Command, checkpoint_in


def options(folder: Path, name: str) -> list[object]:
    pairs = [
        {"prompt": f"where is boat {n}", "chosen": "on the river", "rejected": [{"role": "assistant", "content": "no"}]}
        for n in range(40)
    ]
    (folder / "preferences.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    return [
        "--config", CONFIGS / f"{name}.yaml", *SMALL, *QUIET, *SHORT, "--model.backbone.hidden_width=32",
        "--init_from=null", "--data.tokenizer=llada.data.SentencePieceTraining", "--data.tokenizer.vocab_size=290",
        "--data.val_fraction=0.2", "--model.optimizer.lr=1e-2", "--trainer.log_every_n_steps=1",
    ]  # fmt: skip


def logged(name: str) -> dict[str, str]:
    """The last value of each column of the log."""
    header, *rows = (line.split(",") for line in next(Path(f"runs/{name}").rglob("metrics.csv")).read_text().split())
    return {column: next((row[i] for row in reversed(rows) if row[i]), "") for i, column in enumerate(header)}


@pytest.mark.parametrize("name", ["vrpo", "dpo_autoregressive"])
def test_the_recipes_train(llada: Command, tmp_path: Path, name: str) -> None:
    given = options(tmp_path, name)
    if name == "vrpo":
        given += ["--data.packing=llada.data.FirstFitDecreasing", "--data.max_length=64", "--data.batch_size=2"]
    run = llada("fit", *given)
    assert run.code == 0, run.err
    found = logged(name)
    assert float(found["val/preference_accuracy"]) >= 0.0
    assert float(found["val/nll"]) > 0.0
    assert float(found["train/preference_kl"]) < 0.0  # the chosen answers have become likelier
    assert ("train/preference_noise_se" in found) == (name == "vrpo")
    objective = DiffusionLM.load_from_checkpoint(checkpoint_in(Path.cwd())).objective
    assert isinstance(objective, PreferenceObjective)
    assert objective.reference == FrozenCopy()
    if name != "vrpo":
        return
    run = llada("fit", *given, "--ckpt_path=last", "--trainer.max_steps=4")
    assert run.code == 0, run.err
    assert read_checkpoint(checkpoint_in(Path.cwd()))["global_step"] == 4

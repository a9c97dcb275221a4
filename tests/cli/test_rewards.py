"""``llada fit`` with the recipe that learns from rewards, and the walk that leads there: SFT, VRPO, rewards."""

import json
from pathlib import Path

import pytest

from llada.checkpoints.checkpoint import read_checkpoint
from llada.module import DiffusionLM
from llada.rewards import PolicyObjective, Trajectory
from tests.cli.conftest import CONFIGS, QUIET, SMALL, Command
from tests.cli.test_preferences import logged

TOKENIZER = ["--data.tokenizer=llada.data.SentencePieceTokenizer", "--data.tokenizer.path=tokenizer"]


def write(name: str, records: list[dict[str, object]]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def step(name: str, *further: object) -> list[object]:
    """The options of one step of the walk, in small."""
    return [
        "fit", "--config", CONFIGS / f"{name}.yaml", *SMALL, *QUIET, "--model.backbone.hidden_width=32",
        "--data.val_fraction=0.2", "--model.optimizer.lr=3e-3", "--trainer.log_every_n_steps=1", *further,
    ]  # fmt: skip


def test_from_fine_tuning_to_preferences_to_rewards(llada: Command) -> None:
    """Each step is one command that begins with the weights of the one before; the last one resumes."""
    asked = [f"reach {n}" for n in range(30)]
    write("pairs.jsonl", [{"prompt": p, "answer": "1+1"} for p in asked])
    write("preferences.jsonl", [{"prompt": p, "chosen": "1+1", "rejected": "no"} for p in asked])
    write("tasks.jsonl", [{"prompt": p, "numbers": [1, 1], "target": 2} for p in asked])
    trained = ["--training=SentencePieceTraining", "--training.vocab_size=290", "--out=tokenizer"]
    Path("story.txt").write_text("\n\n".join(f"reach {n} by 1+1 = {n} no" for n in range(100)), encoding="utf-8")
    run = llada("tokenizer", "train", "--source=TextFiles", "--source.paths=story.txt", *trained)
    assert run.code == 0, run.err

    short = ["--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    run = llada(*step("finetune", *TOKENIZER, *short, "--init_from=null", "--data.max_length=24"))
    assert run.code == 0, run.err
    run = llada(*step("vrpo", *TOKENIZER, *short, "--data.max_length=24", "--model.objective.draws=2"))
    assert run.code == 0, run.err
    last = [*TOKENIZER, "--data.rollout.answer_length=6", "--data.rollout.group_size=3", "--data.inner_steps=2"]
    last += ["--trainer.callbacks.every_n_train_steps=1"]
    run = llada(*step("grpo", *last, "--trainer.max_steps=3"))
    assert run.code == 0, run.err

    found = logged("grpo")
    assert float(found["train/policy_ratio_error"]) == 0.0
    assert float(found["val/reward"]) >= 0.0
    assert float(found["train/reward"]) >= 0.0
    assert "reach" in run.out + run.err  # answers are shown
    model = DiffusionLM.load_from_checkpoint("runs/grpo/model.ckpt")
    assert isinstance(model.objective, PolicyObjective)
    assert model.objective.proxy == Trajectory(num_steps=8)

    run = llada(*step("grpo", *last, "--trainer.max_steps=5", "--ckpt_path=last"))
    assert run.code == 0, run.err
    assert read_checkpoint("runs/grpo/model.ckpt")["global_step"] == 5


@pytest.mark.parametrize("method", ["diffu_grpo", "ebpo"])
def test_published_methods_by_name(llada: Command, method: str) -> None:
    """A configuration takes any of them in the place of the default; what it is made of is read and checked."""
    write("tasks.jsonl", [{"prompt": f"reach {n}", "numbers": [1, 1], "target": 2} for n in range(30)])
    run = llada(
        "check", "--config", CONFIGS / "grpo.yaml", *SMALL, "--init_from=null",
        f"--model.objective=llada.rewards.{method}",
        "--data.tokenizer=llada.data.SentencePieceTraining", "--data.tokenizer.vocab_size=290",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert "objective: PolicyObjective(" in run.out

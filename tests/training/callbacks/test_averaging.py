"""The average is the model from its first update on, and the weights of training are it before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from llada.checkpoints.checkpoint import read_checkpoint
from llada.training.callbacks import EMAWeightAveraging, LoRA
from tests.training.test_resume_point import Kill, Killed, steps, train


def delayed() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.5, update_starting_at_step=3)


class Validated(Callback):
    """Keeps the embedding that validation sees, and may fail there."""

    def __init__(self, fails: bool = False) -> None:
        self.seen: list[torch.Tensor] = []
        self.fails = fails

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.backbone.embedding.weight.detach().clone())
        if self.fails:
            raise Killed


def test_the_untrained_network_is_never_the_model(tmp_path: Path) -> None:
    plain = train(tmp_path, window=1, max_steps=2)[1].state_dict()
    seen = Validated()
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    ended = train(tmp_path, delayed(), seen, steps(tmp_path), window=1, max_steps=2, **options)[1].state_dict()
    stored = read_checkpoint(tmp_path / "model.ckpt")
    for found in (stored["state_dict"], ended):
        assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    assert torch.equal(seen.seen[0], plain["backbone.embedding.weight"])
    assert "current_model_state" not in stored


def test_the_average_begins_with_the_weights_of_its_first_step(tmp_path: Path) -> None:
    name = "backbone.embedding.weight"
    weights = [train(tmp_path, window=1, max_steps=number)[1].state_dict()[name] for number in (4, 5)]
    ended = train(tmp_path, delayed(), steps(tmp_path), window=1, max_steps=5)[1].state_dict()[name]
    assert torch.allclose(ended, (weights[0] + weights[1]) / 2)
    stored = read_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(stored["current_model_state"][name], weights[1])
    assert torch.equal(stored["state_dict"][name], ended)


def with_lora() -> list[Callback]:
    pytest.importorskip("peft", reason="the extra peft isn't installed")
    return [LoRA(2, targets=["q_proj"]), delayed()]


@pytest.mark.parametrize(("callbacks", "kill"), [(lambda: [delayed()], 2), (with_lora, 5)])
def test_it_resumes_before_and_after_its_first_update(
    callbacks: Callable[[], list[Callback]], kill: int, tmp_path: Path
) -> None:
    whole = train(tmp_path, *callbacks(), window=1, max_steps=7)[1].state_dict()
    train(tmp_path, *callbacks(), Kill(kill, during=True), steps(tmp_path), window=1)
    path = tmp_path / "model.ckpt"
    assert read_checkpoint(path)["global_step"] == kill
    again = train(tmp_path, *callbacks(), window=1, max_steps=7, resume=path)[1].state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_a_run_that_fails_in_a_validation_keeps_its_own_weights(tmp_path: Path) -> None:
    options = {"val_check_interval": 6, "check_val_every_n_epoch": None, "window": 1}
    run, model = train(tmp_path, delayed(), Validated(fails=True), **options)
    assert run.global_step == 6
    own = train(tmp_path, window=1, max_steps=6)[1].state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.items())


def test_low_rank_additions_must_be_there_before_the_average() -> None:
    pytest.importorskip("peft", reason="the extra peft isn't installed")
    with pytest.raises(ValueError, match="LoRA must stand in front of EMAWeightAveraging"):
        train(Path(), delayed(), LoRA(2, targets=["q_proj"]))

"""Whoever overrides a hook of Lightning's without ``super()`` loses nothing: not the gradient, not the checkpoint."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import PARTS_KEY, read_checkpoint
from llada.module import DiffusionLM
from llada.objectives import NELBO, PerScored
from llada.process import MaskingProcess
from llada.training.loop import TrainingLoop

VOCAB, LENGTH, WINDOW = 12, 8, 2
MASK = VOCAB - 1

# What Lightning asks of an override that does its work: the shortest one that does.
FAITHFUL: dict[str, Any] = {
    "optimizer_step": lambda self, epoch, batch_idx, optimizer, closure: optimizer.step(closure=closure),
    "optimizer_zero_grad": lambda self, epoch, batch_idx, optimizer: optimizer.zero_grad(),
    "backward": lambda self, loss, *_, **__: loss.backward(),
    "lr_scheduler_step": lambda self, scheduler, metric: scheduler.step(),
    "configure_gradient_clipping": lambda self, optimizer, gradient_clip_val, gradient_clip_algorithm: (
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
    ),
    "transfer_batch_to_device": lambda self, batch, device, dataloader_idx: batch,
    "on_before_batch_transfer": lambda self, batch, dataloader_idx: batch,
    "on_after_batch_transfer": lambda self, batch, dataloader_idx: batch,
    "configure_callbacks": lambda self: [],
}
LOADERS = {"train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"}
HOOKS = sorted(
    {name for owner in (ModelHooks, DataHooks, CheckpointHooks) for name in vars(owner) if not name.startswith("_")}
    - LOADERS
    - {"configure_sharded_model"}  # which Lightning refuses to see beside configure_model
    | set(FAITHFUL)
)


def nothing(self: Any, *_: Any, **__: Any) -> None:
    """An override without super()."""


def overriding(*names: str, base: type[DiffusionLM] = DiffusionLM) -> type[DiffusionLM]:
    return type("Overriding", (base,), {name: FAITHFUL.get(name, nothing) for name in names})


def build(cls: type[DiffusionLM] = DiffusionLM, *, meta: bool = False, **parts: Any) -> DiffusionLM:
    torch.manual_seed(0)
    with torch.device("meta" if meta else "cpu"):
        backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    defaults: dict[str, Any] = {
        "objective": NELBO(normaliser=PerScored()),  # whose denominators differ between micro-batches
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "seed": 3,
    }
    return cls(backbone, MaskingProcess(MASK), **{**defaults, **parts})


def rows(number: int = 16) -> DataLoader[Any]:
    tokens = torch.randint(MASK, (number, LENGTH), generator=torch.Generator().manual_seed(1))
    return DataLoader([{"tokens": row} for row in tokens], batch_size=2)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 3,
        "accumulate_grad_batches": WINDOW,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


def weights(model: DiffusionLM) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def outcome(model: DiffusionLM, folder: Path) -> dict[str, Any]:
    """What a run leaves behind: weights, losses, results of evaluations, and the checkpoint."""
    run = trainer(folder, log_every_n_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model, rows(), rows(4))
        found = {"weights": weights(model), "loss": run.callback_metrics["train/loss"]}
        run.save_checkpoint(folder / "model.ckpt")
        run.save_checkpoint(folder / "weights.ckpt", weights_only=True)
        found |= run.validate(model, rows(4), verbose=False)[0] | run.test(model, rows(4), verbose=False)[0]
    for name in ("model.ckpt", "weights.ckpt"):
        assert torch.equal(weights(DiffusionLM.load_from_checkpoint(folder / name)), weights(model))
        assert read_checkpoint(folder / name)[PARTS_KEY]["parts"]["seed"] == 3
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(build(), tmp_path_factory.mktemp("plain"))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert {"val/nll", "val/nll_se", "test/nll", "loss"} <= found.keys()
    torch.testing.assert_close(found.pop("weights"), expected["weights"], rtol=0, atol=0)
    assert all(float(value) == float(expected[name]) for name, value in found.items())


OURS = sorted(
    {"configure_model", "on_save_checkpoint", "on_load_checkpoint", "on_train_start", "setup"}
    | {name for name in vars(TrainingLoop) if name in HOOKS}
)
"""Hooks in which the library does something, and two in which it once did."""


@pytest.mark.parametrize("hook", OURS)
def test_overriding_a_hook_changes_nothing(hook: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    model = build(overriding(hook))
    model.__class__.__module__, model.__class__.__qualname__ = __name__, "DiffusionLM"  # for the checkpoint's class
    assert_same(outcome(model, tmp_path), expected)


def test_overriding_all_hooks_at_once_changes_nothing(tmp_path: Path, expected: dict[str, Any]) -> None:
    class Mixin:
        """In front of the model in the order of resolution."""

    for hook in HOOKS:
        setattr(Mixin, hook, FAITHFUL.get(hook, nothing))
    mixed = type("DiffusionLM", (Mixin, DiffusionLM), {"__module__": __name__})
    assert_same(outcome(build(mixed), tmp_path), expected)


def test_hooks_may_be_assigned_to_the_object_and_super_may_be_called(tmp_path: Path, expected: dict[str, Any]) -> None:
    class Calling(DiffusionLM):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            super().on_save_checkpoint(checkpoint)
            checkpoint["mine"] = 1

    Calling.__qualname__ = "DiffusionLM"
    model = build(Calling)
    model.on_load_checkpoint = model.configure_model = model.on_before_optimizer_step = lambda *_: None
    assert_same(outcome(model, tmp_path), expected)
    assert read_checkpoint(tmp_path / "model.ckpt")["mine"] == 1


def test_the_list_of_hooks_is_not_empty() -> None:
    assert {"on_before_optimizer_step", "on_save_checkpoint", "configure_model", "on_fit_start"} <= set(HOOKS)
    assert len(HOOKS) > 40
    assert {"on_after_backward", "on_validation_epoch_end", "on_test_epoch_end", "on_train_end"} <= set(OURS)


@pytest.mark.parametrize("hooks", [(), ("configure_model",), ("on_fit_start", "setup")])
def test_weights_on_the_meta_device_are_made_all_the_same(hooks: tuple[str, ...], tmp_path: Path) -> None:
    plain, other = build(meta=True), build(overriding(*hooks), meta=True)
    for model in (plain, other):
        trainer(tmp_path).fit(model, rows())
    assert torch.equal(weights(plain), weights(other))


@pytest.mark.parametrize("hook", ["on_save_checkpoint", "on_before_optimizer_step", "on_fit_start"])
def test_a_nan_stops_the_run_all_the_same(hook: str, tmp_path: Path) -> None:
    model = build(overriding(hook))
    model.backbone.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    with pytest.raises(ValueError, match="gradient norm became nan at step 0"):
        trainer(tmp_path, saving).fit(model, rows())
    assert not list(tmp_path.rglob("*.ckpt"))


class Norms(Callback):
    """Notes the gradient norm where callbacks usually do, and where the gradient has just been made."""

    def __init__(self) -> None:
        self.after_backward: list[float] = []
        self.before_step: list[float] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after_backward.append(self.norm(pl_module))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.before_step.append(self.norm(pl_module))

    def norm(self, module: nn.Module) -> float:
        return float(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm())


def test_callbacks_see_the_gradient_of_the_whole_step(tmp_path: Path) -> None:
    """The same rows in one batch of four, and in two of two."""
    norms = []
    for window in (1, 2):
        watching = Norms()
        data = DataLoader(rows().dataset, batch_size=4 // window)
        trainer(tmp_path, watching, accumulate_grad_batches=window).fit(build(), data)
        norms.append(watching.before_step)
        assert watching.after_backward[window - 1 :: window] == watching.before_step
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert len(norms[0]) == 3


def test_frozen_parts_stay_in_evaluation_mode(tmp_path: Path) -> None:
    class Modes(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            found.append((pl_module.backbone.blocks[0].training, pl_module.backbone.head.training))

    found: list[tuple[bool, bool]] = []
    model = build()
    model.backbone.blocks[0].eval()
    model.generate(torch.full((1, 4), MASK))
    run = trainer(tmp_path, Modes(), max_steps=1)
    run.fit(model, rows(), rows(4))
    assert set(found) == {(False, True)}
    run.save_checkpoint(tmp_path / "model.ckpt")

    loaded = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")  # in evaluation mode
    loaded.backbone.blocks[0].requires_grad_(False)
    found.clear()
    trainer(tmp_path, Modes(), max_steps=1).fit(loaded, rows())
    assert set(found) == {(False, True)}
    assert not loaded.backbone.blocks[0].attention.training

    chosen = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt").train()
    chosen.backbone.head.eval()
    found.clear()
    trainer(tmp_path, Modes(), max_steps=1).fit(chosen, rows())
    assert set(found) == {(True, False)}


def test_generation_gives_every_part_its_mode_back() -> None:
    model = build()
    model.backbone.blocks[0].eval()
    before = [part.training for part in model.modules()]
    model.generate(torch.full((1, 4), MASK))
    list(model.iterate(torch.full((1, 4), MASK)))
    model.log_likelihood([[1]], [[2]])
    assert [part.training for part in model.modules()] == before
    assert not all(before)


def test_averaging_weights_warns_of_no_sharding_and_keeps_the_parts(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", ".*configure_model.*")
        run = trainer(tmp_path, EMAWeightAveraging(decay=0.5))
        run.fit(build(overriding("on_save_checkpoint")), rows())


def test_one_trainer_and_one_model_can_be_used_again(tmp_path: Path) -> None:
    model, other = build(), build()
    run = trainer(tmp_path)
    for module in (model, model, other):
        run.validate(module, rows(4), verbose=False)
        assert run.callbacks[0] is module.training_loop
        assert sum(type(callback) is type(model.training_loop) for callback in run.callbacks) == 1

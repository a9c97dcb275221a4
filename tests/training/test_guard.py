"""A number that isn't finite stops the run, or costs one step; a good checkpoint is never overwritten."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.guard import underflow
from llada.training.norms import total_norm

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


def build(lr: float = 1e-2, eps: float = 1e-8, cls: type[DiffusionLM] = DiffusionLM, **parts: Any) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    return cls(backbone, MaskingProcess(MASK), optimizer=partial(torch.optim.AdamW, lr=lr, eps=eps), seed=1, **parts)


def rows(number: int = 20) -> DataLoader[Any]:
    tokens = torch.randint(MASK, (number, LENGTH), generator=torch.Generator().manual_seed(1))
    return DataLoader([{"tokens": row} for row in tokens], batch_size=2)


def trainer(folder: Path, steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    saving = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    defaults: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[*callbacks, saving], default_root_dir=folder,
        **{**defaults, **options},
    )  # fmt: skip


def poison_gradient(model: DiffusionLM, calls: set[int]) -> None:
    """Make the head's gradient NaN in some of the backward passes, while the loss is finite."""
    count = iter(range(1000))
    model.backbone.head.weight.register_hook(lambda g: g * torch.nan if next(count) in calls else g)


def poison_loss(model: DiffusionLM, calls: set[int]) -> None:
    """Make the loss infinite in some of the forward passes."""
    count, objective = iter(range(1000)), model.training_loop.window.divide

    def divide(output: Any, *arguments: Any) -> Any:
        if next(count) in calls:
            output = type(output)(**{**vars(output), "numerator": output.numerator * torch.inf})
        return objective(output, *arguments)

    model.training_loop.window.divide = divide  # type: ignore[method-assign]


def saved(folder: Path) -> DiffusionLM:
    return DiffusionLM.load_from_checkpoint(folder / "last.ckpt")


def weights(model: DiffusionLM) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (poison_gradient, r"the gradient norm became nan at step 2 \(up to batch 2 of the epoch\), with a finite loss"),
        (poison_loss, r"the training loss became inf at step 2 \(batch 2 of the epoch\)"),
    ],
)
def test_a_good_checkpoint_is_not_overwritten(tmp_path: Path, poison: Any, message: str, last: bool) -> None:
    model, steps = build(), 3 if last else 6
    poison(model, {2})
    with pytest.raises(ValueError, match=message + ".*lower learning rate.*on_nonfinite"):
        trainer(tmp_path, steps).fit(model, rows())
    two = build()
    trainer(tmp_path / "two", 2).fit(two, rows())
    assert torch.equal(weights(saved(tmp_path)), weights(two))


@pytest.mark.parametrize("saving", [True, False])
@pytest.mark.parametrize("poison", [poison_gradient, poison_loss])
def test_numbers_that_are_read_later_are_read_before_anything_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Any, saving: bool
) -> None:
    """As on an accelerator, where the optimiser may have made the bad step by then."""
    monkeypatch.setattr("llada.training.loop.read_at_once", lambda tensor: False)
    model, run = build(), trainer(tmp_path, 3)
    poison(model, {2})
    if not saving:
        run.callbacks.pop()
    with pytest.raises(ValueError, match=r"became .* at step 2"):
        run.fit(model, rows())
    assert not torch.isfinite(weights(model)).all()
    if saving:
        two = build()
        trainer(tmp_path / "two", 2).fit(two, rows())
        assert torch.equal(weights(saved(tmp_path)), weights(two))


@pytest.mark.parametrize("lr", [1e25, 1e30])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_that_spoils_the_weights_is_not_saved(tmp_path: Path, lr: float, steps: int) -> None:
    good = build()
    trainer(tmp_path, 1).fit(good, rows())
    with pytest.raises(ValueError, match=r"the weights are no numbers after 1 steps|nothing was saved"):
        trainer(tmp_path, steps).fit(build(lr), rows())
    assert torch.equal(weights(saved(tmp_path)), weights(good))


def test_a_run_that_saves_nothing_does_not_end_as_if_all_were_well(tmp_path: Path) -> None:
    run = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the weights are no numbers after 1 steps"):
        run.fit(build(1e30), rows())


def test_averaged_weights_are_looked_at_too(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)

    class Spoil(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            next(average._average_model.module.parameters()).data.fill_(torch.nan)

    with pytest.raises(ValueError, match="the weights are no numbers"):
        trainer(tmp_path, 1, average, Spoil()).fit(build(), rows())
    assert not list(tmp_path.rglob("*.ckpt"))


class Running(nn.Module):
    """A backbone with a stored number beside its weights, which turns into a NaN while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, VOCAB)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("scratch", torch.full((1,), torch.nan), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training:
            self.mean /= 0.0
        found: Tensor = self.embedding(tokens)
        return found


def test_stored_numbers_beside_the_weights_are_looked_at_too(tmp_path: Path) -> None:
    model = DiffusionLM(Running(), MaskingProcess(MASK))
    with pytest.raises(ValueError, match=r"the weights, such as backbone\.mean, are no numbers after 1 steps"):
        trainer(tmp_path, 1).fit(model, rows())
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("poison", [poison_gradient, poison_loss])
@pytest.mark.parametrize("window", [1, 2])
def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path: Path, poison: Any, window: int) -> None:
    """Step 1 is left out: its weights and the optimiser's state are those after step 0."""
    seen: list[Tensor] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            states = trainer.optimizers[0].state
            seen.append(torch.cat([weights(pl_module), *(states[p]["exp_avg"].flatten() for p in states)]))

    model = build(on_nonfinite="skip")
    poison(model, {2 * window - 1})
    run = trainer(tmp_path, 4, Watch(), accumulate_grad_batches=window)
    with pytest.warns(UserWarning, match="at step 1 .*; the optimiser step is left out, 1 so far"):
        run.fit(model, rows())
    after = seen[window - 1 :: window]
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[1], after[2])
    assert torch.isfinite(after[3]).all()
    assert run.callback_metrics["train/skipped_steps"] == 1
    assert saved(tmp_path).on_nonfinite == "skip"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["llada"]["skipped_steps"] == 1


def test_spoilt_weights_are_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the weights are no numbers"):
        trainer(tmp_path, 3).fit(build(1e30, on_nonfinite="skip"), rows())


def test_a_training_step_of_ones_own_is_guarded_too(tmp_path: Path) -> None:
    class Own(DiffusionLM):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch["tokens"]).square().mean()

    model = build(cls=Own)
    poison_gradient(model, {2})
    with pytest.raises(ValueError, match="the gradient norm became nan at step 2"):
        trainer(tmp_path, 4).fit(model, rows())


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"on_nonfinite must be .*; got 'ignore'"):
        build(on_nonfinite="ignore")


def test_half_precision_names_its_cause(tmp_path: Path) -> None:
    cause = r"float16 \(precision 16-true\), in which the optimiser's eps=1e-08 is 0.*bf16-true"
    with pytest.raises(ValueError, match=cause):
        trainer(tmp_path, 2, precision="16-true").fit(build(), rows())
    model = build(eps=1e-4)
    assert underflow([p.half() for p in model.parameters()], [model.configure_optimizers()]) == ""
    assert underflow(model.parameters(), [build().configure_optimizers()]) == ""


def test_the_norm_is_that_of_all_tensors_together() -> None:
    tensors = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]).double(), torch.tensor([12.0]).bfloat16()]
    assert total_norm(tensors).item() == pytest.approx(13.0)
    assert total_norm([torch.full((4,), 6e4).half()]).item() == pytest.approx(1.2e5, rel=1e-2)
    assert total_norm([]).item() == 0.0
    for bad in (torch.nan, torch.inf, 1e30):
        assert not torch.isfinite(total_norm([torch.tensor([1.0, bad])]))

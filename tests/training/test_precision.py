"""Lightning's number formats: what is kept, what is computed in, and what is refused."""

import importlib.util
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.weights import load_whole

VOCAB = 16


class Watching(DiffusionLM):
    """Notes losses, and the dtype of what a projection gives."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.losses.append(super().training_step(batch, batch_idx))
        return self.losses[-1]


def fit(precision: str, stored: torch.dtype | None = None) -> tuple[Watching, set[torch.dtype]]:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2, head_bias=True).to(stored)
    backbone.head.requires_grad_(stored is None)
    model = Watching(backbone, MaskingProcess(VOCAB - 1))
    model.losses, computed = [], set()
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, output: computed.add(output.dtype))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader([{"tokens": torch.arange(VOCAB - 1)}] * 6, batch_size=2))
    return model, computed


@pytest.mark.parametrize(
    ("precision", "kept", "computed"),
    [("bf16-mixed", torch.float32, torch.bfloat16), ("bf16-true", torch.bfloat16, torch.bfloat16)],
)
def test_bfloat16(precision: str, kept: torch.dtype, computed: torch.dtype) -> None:
    """Losses come near those of float32: they are summed in it, and only the products are rounded."""
    model, dtypes = fit(precision)
    assert {parameter.dtype for parameter in model.parameters()} == {kept}
    assert dtypes == {computed}
    exact, _ = fit("32-true")
    assert all(loss.dtype in (torch.float32, torch.float64) for loss in model.losses)
    torch.testing.assert_close(torch.stack(model.losses), torch.stack(exact.losses), rtol=0.03, atol=0.03)


def test_mixed_precision_trains_weights_in_float32_however_they_were_loaded() -> None:
    with pytest.warns(UserWarning, match=r'11 parameters were in half precision.*precision="bf16-true"'):
        model, computed = fit("bf16-mixed", torch.bfloat16)
    assert computed == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.backbone.head.parameters()} == {torch.bfloat16}  # frozen
    (optimizer,) = model.trainer.optimizers
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {torch.float32}
    model, _ = fit("bf16-true", torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_autocast_casts_what_several_products_read_once() -> None:
    """Each would keep a copy of its own for the backward pass."""
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    read: dict[str, Tensor] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda _, given, __, name=name: read.update({name.rpartition(".")[2]: given[0]})
            )
    with torch.autocast("cpu", torch.bfloat16):
        backbone.hidden(torch.arange(VOCAB)[None])
    for together in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        assert {read[name].dtype for name in together} == {torch.bfloat16}
        assert len({read[name].data_ptr() for name in together}) == 1


def test_whole_weights_take_the_dtype_of_the_model_on_any_device() -> None:
    """So that a run on one card and one on eight, whose model begins on the meta device, compute the same."""
    given = {"weight": torch.ones(2, 2, dtype=torch.bfloat16), "bias": torch.ones(2, dtype=torch.bfloat16)}
    for device in ("cpu", "meta"):
        layer = nn.Linear(2, 2, device=device)
        load_whole(layer, given)
        assert {(p.dtype, p.device.type) for p in layer.parameters()} == {(torch.float32, "cpu")}
        assert torch.equal(layer.weight, torch.ones(2, 2))


@pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="transformer-engine is installed"
)
def test_eight_bits_without_their_package_are_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match="transformer_engine"):
        Trainer(accelerator="cpu", precision="transformer-engine")

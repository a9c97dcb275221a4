"""What a forward pass leaves out: padding, masks, and the last layer where nobody asks for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.backbones.attention.kernels import Visibility
from llada.backbones.attention.unpadded import unpadded
from llada.metrics import masked_log_likelihood
from llada.objectives import NELBO
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import Blocks, Quota, UnmaskingSampler

VOCAB, LENGTH = 20, 10
REAL = torch.tensor(
    [[1] * 10, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1, 1, 1, 1, 0]]
).bool()
SEGMENTS = torch.tensor(
    [[0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0] * 10, [0, 0, 0, 0, 0, 1, 1, 1, 2, 2], [3, 3, 4, 4, 4, 4, 4, 5, 5, 5]]
)


def transformer(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    return BidirectionalTransformer(VOCAB, **{"width": 32, "num_layers": 3, "num_heads": 4, **options}).double()


def dit(**options: Any) -> DiffusionTransformer:
    torch.manual_seed(0)
    model = DiffusionTransformer(VOCAB, **{"width": 32, "num_layers": 3, "num_heads": 4, "cond_width": 8, **options})
    for silent in (*(block.modulation for block in model.blocks), model.final_modulation):
        nn.init.normal_(silent.bias)
    return model.double()


BUILDERS: dict[str, Callable[..., Any]] = {
    "transformer": transformer,
    "grouped": lambda **options: transformer(num_kv_heads=2, **options),
    "causal": lambda **options: transformer(causal=True, **options),
    "dit": dit,
}


def tokens() -> Tensor:
    return torch.randint(VOCAB, (4, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("attention", ["auto", "segments"])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["", "packed"])
@pytest.mark.parametrize("select", [None, torch.tensor([0, 13, 9, 31, 26])], ids=["", "select"])
def test_results_and_gradients_are_those_of_the_formula(
    name: str, attention: str, segments: Tensor | None, select: Tensor | None
) -> None:
    found = []
    for kernel in (attention, "plain"):
        model = BUILDERS[name](attention=kernel)
        hidden = model.hidden(tokens(), attention_mask=REAL, segment_ids=segments, select=select)
        counts = REAL[..., None] if select is None else REAL.flatten()[select, None]
        hidden = hidden * counts
        weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        body = [p for part in (model.embedding, model.blocks) for p in part.parameters()]
        found.append([hidden, *torch.autograd.grad((hidden * weight).sum(), body, allow_unused=True)])
    for ours, formula in zip(*found, strict=True):
        torch.testing.assert_close(ours, formula)


def test_padding_gets_zeros() -> None:
    hidden = transformer().hidden(tokens(), attention_mask=REAL)
    assert torch.equal((hidden == 0).all(-1), ~REAL)
    padding = transformer().hidden(tokens(), attention_mask=REAL, select=torch.tensor([10, 39, 13]))
    assert (padding == 0).all(-1).tolist() == [True, True, False]


def flops(model: Any, **arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        model.hidden(tokens(), **arguments)
    return counter.get_total_flops()


@pytest.mark.parametrize("build", [transformer, dit])
def test_linear_layers_see_real_tokens_only(build: Callable[..., Any]) -> None:
    model = build()
    everything, real = flops(model), int(REAL.sum())
    fixed = modulations(model) if build is dit else 0  # of the noise level, once
    assert (flops(model, attention_mask=REAL) - fixed) * 40 == (everything - fixed) * real
    assert flops(build(attention="sdpa"), attention_mask=REAL) == everything


def modulations(model: DiffusionTransformer) -> int:
    layers = [*model.noise_embedding.mlp, model.final_modulation, *(block.modulation for block in model.blocks)]
    return sum(2 * layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("options", [{}, {"attention_mask": REAL}, {"segment_ids": SEGMENTS}], ids=str)
@pytest.mark.parametrize("build", [transformer, dit])
def test_the_last_output_projection_and_perceptron_run_for_the_wanted_rows_only(
    build: Callable[..., Any], options: dict[str, Tensor]
) -> None:
    model = build()
    block = model.blocks[-1]
    behind = [block.attention.o_proj, *(m for m in block.feed_forward.modules() if isinstance(m, nn.Linear))]
    saved = sum(2 * layer.weight.numel() for layer in behind)
    count = int(REAL.sum()) if "attention_mask" in options else 40
    select = torch.tensor([3, 17, 35])
    assert flops(model, **options) - flops(model, select=select, **options) == saved * (count - 3)


@pytest.mark.parametrize("options", [{"attention_mask": REAL}, {"segment_ids": SEGMENTS}], ids=["padded", "packed"])
def test_no_mask_is_built(options: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Visibility) -> Tensor:
        raise AssertionError("a mask was built")

    model = transformer()
    by_mask = model.hidden(tokens(), **options)
    monkeypatch.setattr(Visibility, "mask", property(refuse))
    with pytest.raises(AssertionError, match="a mask was built"):
        Visibility(REAL).mask  # noqa: B018 - what the next line would raise
    monkeypatch.setattr("llada.backbones.attention.kernels.CELLS_THAT_PAY_A_RUN", 0)
    without = model.hidden(tokens(), **options)
    real = REAL if "attention_mask" in options else torch.ones_like(REAL)
    torch.testing.assert_close(without[real], by_mask[real])


def test_full_batches_are_dense() -> None:
    everything = torch.ones_like(REAL)
    assert unpadded(tokens(), everything, None) is None
    assert unpadded(tokens(), ~everything, None) is None
    model = transformer()
    assert torch.equal(model.hidden(tokens(), attention_mask=everything), model.hidden(tokens()))
    assert model.hidden(tokens(), attention_mask=~everything).isfinite().all()


def test_positions_and_runs_of_a_packed_row() -> None:
    packed = unpadded(tokens(), REAL, SEGMENTS)
    assert packed is not None
    assert packed.tokens.tolist() == [tokens()[REAL].tolist()]
    assert packed.positions[0, 10:14].tolist() == [3, 4, 5, 6]
    assert packed.positions[0, 22:].tolist() == [1, 0, 3, 4, 0, 1]
    runs = packed.visibility.runs(1, 28, 28, REAL.device)
    assert runs.query_lengths == [3, 2, 5, 4, 5, 3, 1, 3, 2]
    assert runs.longest_query == LENGTH


def test_a_shifted_model_computes_the_padding_that_it_reads() -> None:
    x, formula = tokens(), transformer(shift=True, attention="plain")
    for select in (None, torch.tensor([13, 31])):
        expected = formula.hidden(x, attention_mask=REAL, select=select)
        torch.testing.assert_close(transformer(shift=True).hidden(x, attention_mask=REAL, select=select), expected)
    with pytest.raises(ValueError, match="'segments' computes nothing at padding, where a backbone with shift=True"):
        transformer(shift=True, attention="segments").hidden(x, attention_mask=REAL)


def test_a_noise_level_per_row_keeps_the_rows() -> None:
    sigma = torch.linspace(0.1, 2.0, 4)
    found = dit().hidden(tokens(), sigma=sigma, attention_mask=REAL)
    torch.testing.assert_close(found, dit(attention="plain").hidden(tokens(), sigma=sigma, attention_mask=REAL))


def rows_behind_the_last_attention(model: Any, run: Callable[[], Any]) -> list[int]:
    seen: list[int] = []
    hook = model.blocks[-1].feed_forward.register_forward_hook(lambda _, x, y: seen.append(y.numel() // y.shape[-1]))
    run()
    hook.remove()
    return seen


@pytest.mark.parametrize("build", [transformer, dit])
def test_training_sampling_and_likelihood_ask_for_the_rows_that_they_need(build: Callable[..., Any]) -> None:
    model, process, x, mask = build().float().eval(), MaskingProcess(VOCAB - 1), tokens() % (VOCAB - 1), VOCAB - 1
    random = RowRandom.from_seed(0, 4)
    masked = int(NELBO()(model, process, x, random=random).num_scored.sum())
    assert rows_behind_the_last_attention(model, lambda: NELBO()(model, process, x, random=random)) == [masked]
    canvas = x.clone()
    canvas[:, 4:] = mask
    sampler = UnmaskingSampler(Quota(6), window=Blocks(3))
    assert rows_behind_the_last_attention(model, lambda: sampler(model, canvas, process)) == [12, 8, 4] * 2
    answer = torch.arange(LENGTH).expand(4, -1) >= 6
    where = answer & (x % 2 == 0)
    seen = rows_behind_the_last_attention(model, lambda: masked_log_likelihood(model, process, x, answer, where))
    assert seen == [int(where.sum())]

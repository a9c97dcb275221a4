"""Duo's curriculum: the arg max of Gaussian numbers is uniform noise, and softened tokens harden as they cool."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from scipy import stats
from torch.utils.data import DataLoader

from llada.backbones import BidirectionalTransformer, DiffusionTransformer
from llada.denoiser import as_denoiser
from llada.module import DiffusionLM
from llada.noise import ArgmaxSchedule, LinearSchedule
from llada.noise.gaussian import kept_share, lost_share, ratio_at
from llada.objectives import NELBO, IndependentMasks, TemperedTokens
from llada.objectives.gaussian import largest
from llada.process import MaskingProcess, UniformProcess
from llada.random import RowRandom
from llada.training.callbacks import TokenCurriculum

K, ROWS = 5, 20_000


def test_the_share_of_kept_tokens_has_its_closed_form_and_its_ends() -> None:
    """Of two tokens it is 2 Phi(r / sqrt 2) - 1; of 50,000 it keeps its digits at both ends."""
    ratio = torch.tensor([1e-6, 0.3, 2.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(kept_share(ratio, 2), torch.erf(ratio / 2.0), rtol=1e-11, atol=0.0)
    torch.testing.assert_close(lost_share(ratio, 2), torch.erfc(ratio / 2.0), rtol=1e-9, atol=0.0)
    for number in (2, 27, 50_257):
        ratio = torch.linspace(0.01, 9.0, 40, dtype=torch.float64)
        share = kept_share(ratio, number)
        torch.testing.assert_close(share + lost_share(ratio, number), torch.ones_like(share))
        assert (share.diff() > 0).all()
        torch.testing.assert_close(ratio_at(share[:30], number), ratio[:30])
    schedule = ArgmaxSchedule(50_257)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    slope = (schedule.alpha(t + 1e-5) - schedule.alpha(t - 1e-5)) / 2e-5
    torch.testing.assert_close(schedule.alpha_prime(t), slope, rtol=1e-6, atol=0.0)
    for options in ({"num_tokens": 1}, {"num_tokens": 4, "start": 1.0, "end": 1.0}):
        with pytest.raises(ValueError, match="must"):
            ArgmaxSchedule(**options)


@pytest.mark.parametrize("top_k", [2, K])
def test_the_largest_numbers_have_the_law_of_all_of_them(top_k: int) -> None:
    """Against K numbers drawn outright: who is first and second, and how large they are. False alarm 1e-6 per test."""
    ratio = torch.full((ROWS, 1), 0.8, dtype=torch.float64)
    x_0 = torch.full((ROWS, 1), 3)
    ids, values = largest(x_0, ratio, K, top_k, RowRandom.from_seed(4, ROWS))
    assert ids.shape == values.shape == (ROWS, 1, top_k)
    assert (values.diff(dim=-1) <= 0).all()
    assert (ids.sort(-1).values.diff(dim=-1) > 0).all()
    outright = torch.randn(ROWS, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outright[:, 3] += 0.8
    theirs, names = outright.topk(top_k)
    for place in range(2):
        assert stats.ks_2samp(values[:, 0, place].numpy(), theirs[:, place].numpy()).pvalue > 1e-6
    pairs, expected = (20 * first + second for first, second in ((ids[:, 0, 0], ids[:, 0, 1]), names.T[:2]))
    table = torch.stack([part.bincount(minlength=100) for part in (pairs, expected)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 0].numpy()).pvalue > 1e-6
    alpha = float(kept_share(ratio[:1], K))
    kept = int((ids[:, 0, 0] == 3).sum())
    assert stats.binomtest(kept, ROWS, alpha + (1.0 - alpha) / K).pvalue > 1e-6


def test_cold_tokens_are_hard_tokens() -> None:
    """Prompts stay, the token is the largest number's, and as T falls the mixture is its embedding alone."""
    torch.manual_seed(0)
    backbone = DiffusionTransformer(K, width=16, num_layers=1, num_heads=2, cond_width=8).eval()
    torch.nn.init.normal_(backbone.head.weight)  # which begins at 0
    process = UniformProcess(K, LinearSchedule(1e-3), time_conditioned=True)
    batch = {"tokens": torch.randint(K, (30, 6)), "maskable": torch.rand(30, 6) < 0.8}
    random = RowRandom.from_seed(2, 30)
    design = TemperedTokens(temperature=1e-9, top_k=3)
    draw = design(as_denoiser(backbone), process, batch, random=random)
    assert torch.equal(draw.tokens[~draw.maskable], draw.x_0[~draw.maskable])
    assert torch.equal(draw.inputs["soft_ids"][..., 0], draw.tokens)
    torch.testing.assert_close(draw.bound_weight, process.bound_weight(draw.t, draw.tokens, draw.x_0))
    soft = backbone.hidden(draw.tokens, **draw.inputs)
    hard = backbone.hidden(draw.tokens, sigma=draw.inputs["sigma"])
    torch.testing.assert_close(soft, hard)
    warm = TemperedTokens(temperature=1.0, top_k=3)(as_denoiser(backbone), process, batch, random=random)
    assert torch.equal(warm.tokens, draw.tokens)
    parts = backbone.embedding(warm.inputs["soft_ids"]) * warm.inputs["soft_weights"][..., None]
    torch.testing.assert_close(backbone._mixed(warm.inputs["soft_ids"], warm.inputs["soft_weights"]), parts.sum(-2))
    assert not torch.allclose(backbone.hidden(warm.tokens, **warm.inputs), hard, atol=1e-3)
    output = NELBO(warm_design := TemperedTokens(temperature=1.0, top_k=3))(backbone, process, batch, random=random)
    assert torch.autograd.grad(output.loss, backbone.embedding.weight)[0].abs().sum() > 0
    assert "sees more" in (NELBO(warm_design).bound_gap(process) or "")


def test_padding_is_left_alone_by_soft_tokens() -> None:
    """A row beside a longer one is read as it is alone."""
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(K, width=16, num_layers=1, num_heads=2).eval()
    ids, weights = torch.randint(K, (2, 6, 3)), torch.rand(2, 6, 3).softmax(-1)
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    together = backbone.hidden(ids[..., 0], attention_mask=mask, soft_ids=ids, soft_weights=weights)
    alone = backbone.hidden(ids[:1, :4, 0], soft_ids=ids[:1, :4], soft_weights=weights[:1, :4])
    torch.testing.assert_close(together[:1, :4], alone)


class Seen(torch.nn.Module):
    """A backbone that notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(K, K))
        self.mixed: list[bool] = []

    def forward(self, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
        self.mixed.append("soft_ids" in inputs)
        return self.table[tokens]


def loader() -> DataLoader[Any]:
    rows = [{"tokens": torch.randint(K, (6,))} for _ in range(12)]
    return DataLoader(rows, batch_size=2)  # type: ignore[arg-type]


@pytest.fixture
def quiet() -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }


def test_the_callback_softens_the_first_steps(quiet: dict[str, Any]) -> None:
    curriculum = TokenCurriculum(3, start=1e-1, end=1e-3, top_k=2)
    assert [curriculum.temperature(step) for step in range(4)] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-3])
    model = DiffusionLM(Seen(), UniformProcess(K), NELBO())
    Trainer(max_steps=5, callbacks=[curriculum], **quiet).fit(model, loader())
    assert model.backbone.mixed == [True] * 3 + [False] * 2  # type: ignore[comparison-overlap]
    assert model.objective == NELBO(IndependentMasks())
    masked = DiffusionLM(Seen(), MaskingProcess(K - 1))
    with pytest.raises(ValueError, match=r"has masks; use IndependentMasks"):
        Trainer(max_steps=1, callbacks=[curriculum], **quiet).fit(masked, loader())
    for wrong in (
        lambda: TokenCurriculum(0),
        lambda: TokenCurriculum(2, end=0.0),
        lambda: TemperedTokens(temperature=0.0),
        lambda: TemperedTokens(top_k=1),
    ):
        with pytest.raises(ValueError, match="must be"):
            wrong()
    assert math.isfinite(curriculum.temperature(10**9))

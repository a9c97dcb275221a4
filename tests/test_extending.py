"""The parts of docs/extending.md do what the page promises: fit, checkpoint, ragged sampling."""

import ast
import importlib
import inspect
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import NELBO, DiffusionLM, RowRandom
from llada.backbones import BidirectionalTransformer
from llada.noise import LinearSchedule
from llada.objectives import IndependentMasks
from llada.process import MaskingProcess, UniformProcess
from llada.samplers import AncestralSampler, Threshold, UnmaskingSampler, canvas
from llada.text import TextModel
from tests.objectives.test_designs import ENTROPY, JOINT, K

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SILENT: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
VOCAB, MASK = 5, 4


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The page's code as a module, as a user would keep it."""
    folder = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (folder / "parts_of_the_page.py").write_text("\n".join(blocks))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("parts_of_the_page")
    finally:
        sys.path.remove(str(folder))


def models(page: ModuleType) -> dict[str, DiffusionLM]:
    """Each part in a model of its own."""
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    masked = MaskingProcess(MASK, page.SmoothStep())
    hybrid = page.MostlyMasks(mask_token_id=MASK, num_tokens=MASK)
    edges = UnmaskingSampler(order=page.EdgesFirst(length=6))
    return {
        "schedule": DiffusionLM(backbone, masked),
        "process": DiffusionLM(backbone, hybrid, sampler=AncestralSampler(steps=4)),
        "uniform process": DiffusionLM(backbone, UniformProcess(VOCAB), sampler=AncestralSampler(steps=4)),
        "order": DiffusionLM(backbone, masked, sampler=edges),
        "weight": DiffusionLM(backbone, masked, NELBO(weight=page.RareToken(token=3))),
        "backbone": DiffusionLM(page.Bag(VOCAB, width=8), masked),
    }


@pytest.mark.parametrize("part", ["schedule", "process", "uniform process", "order", "weight", "backbone"])
def test_a_part_is_trained_saved_loaded_and_sampled_from(page: ModuleType, tmp_path: Path, part: str) -> None:
    model = models(page)[part]
    rows = [
        {"tokens": torch.tensor([0, 1, 2, 3, 1, 0]), "attention_mask": torch.arange(6) < 5 + (i % 2)} for i in range(8)
    ]
    for row in rows:
        row["maskable"] = row["attention_mask"]
    trainer = Trainer(accelerator="cpu", max_steps=2, default_root_dir=tmp_path, **SILENT)
    trainer.fit(model, DataLoader(rows, batch_size=4))
    (first,) = trainer.validate(model, DataLoader(rows, batch_size=4), verbose=False)
    assert 0.0 < first["val/nll"] < 10.0
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert (loaded.process, loaded.objective, loaded.sampler) == (model.process, model.objective, model.sampler)
    assert type(loaded.backbone) is type(model.backbone)
    (second,) = trainer.validate(loaded, DataLoader(rows, batch_size=4), verbose=False)
    assert first == second

    prompts = [[1, 2], [3]]
    ragged = canvas(prompts, 4, mask_token_id=MASK, pad_token_id=0)
    together = loaded.generate(*ragged, seed=3)
    for row, prompt in enumerate(prompts):
        alone = loaded.generate(*canvas([prompt], 4, mask_token_id=MASK, pad_token_id=0), seed=3 + row)
        assert together.tokens[row, 2 - len(prompt) :].tolist() == alone.tokens[0].tolist()
        assert alone.tokens[0, : len(prompt)].tolist() == prompt
    if part != "uniform process":  # whose data tokens are all tokens
        assert not (together.tokens == MASK).any()


@pytest.mark.parametrize(
    "part",
    ["SmoothStep", "MostlyMasks", "EdgesFirst", "RareToken", "Bag", "SideBySide", "SideBySideTransformer", "Tiny"],
)
def test_a_part_is_under_thirty_lines(page: ModuleType, part: str) -> None:
    """A schedule, a process, an order, a weight, backbones and a layout; the page's last lines try the layout."""
    (made,) = ast.parse(inspect.getsource(getattr(page, part))).body
    assert isinstance(made, ast.ClassDef)
    assert made.end_lineno is not None
    assert made.end_lineno < 30


def test_pure_noise_of_the_pages_process_has_its_shares(page: ModuleType) -> None:
    """A tenth of 20,000 tokens is random, each of the four ids a quarter of that; within six standard deviations."""
    tokens = torch.zeros(2_000, 10, dtype=torch.long)
    hybrid = page.MostlyMasks(mask_token_id=MASK, num_tokens=MASK)
    drawn = hybrid.prior(tokens, torch.ones_like(tokens, dtype=torch.bool), random=RowRandom.from_seed(0, 2_000))
    counts = drawn.flatten().bincount(minlength=VOCAB)
    assert abs(int(counts[MASK]) - 18_000) < 6 * math.sqrt(20_000 * 0.9 * 0.1)
    assert ((counts[:MASK] - 500).abs() < 6 * math.sqrt(500)).all()


def test_the_pages_process_at_half_time_has_its_shares(page: ModuleType) -> None:
    """Of 20,000 zeros half is noise, a tenth of that random and each of the four ids a quarter; six deviations."""
    tokens = torch.zeros(2_000, 10, dtype=torch.long)
    hybrid = page.MostlyMasks(mask_token_id=MASK, num_tokens=MASK)
    half = torch.full((2_000,), 0.5, dtype=torch.float64)
    drawn = hybrid.corrupt(tokens, half, random=RowRandom.from_seed(0, 2_000)).tokens
    counts = drawn.flatten().bincount(minlength=VOCAB)
    assert abs(int(counts[MASK]) - 9_000) < 6 * math.sqrt(20_000 * 0.45 * 0.55)
    assert ((counts[1:MASK] - 250).abs() < 6 * math.sqrt(250)).all()


@pytest.mark.parametrize("part", ["process", "uniform process"])
def test_a_sampler_that_writes_once_is_refused_where_any_token_may_be_wrong(page: ModuleType, part: str) -> None:
    made = canvas([[1, 2]], 4, mask_token_id=MASK, pad_token_id=0)
    with pytest.raises(ValueError, match=r"writes every mask once.*use AncestralSampler"):
        models(page)[part].generate(*made, sampler=UnmaskingSampler())


def test_a_text_model_generates_under_uniform_noise(page: ModuleType) -> None:
    """A prompt is text whatever its ids; only what lies behind it is written."""

    class Letters:
        bos_token_id = eos_token_id = eot_token_id = pad_token_id = None
        chat_template = None

    text = TextModel(models(page)["uniform process"], Letters())
    made = text.canvas([[0, 4, 0]], 3)
    assert made.given.tolist() == [[True] * 3 + [False] * 3]
    assert text.generate(made, 0).tokens[0, :3].tolist() == [0, 4, 0]


def test_an_order_does_not_depend_on_padding(page: ModuleType) -> None:
    """Beside a longer prompt a row is written in the order in which it is written alone."""
    model = models(page)["order"]
    written = {}
    for name, prompts in {"alone": [[1]], "beside": [[1], [1, 2, 3]]}.items():
        sampler = UnmaskingSampler(order=page.EdgesFirst(length=4))
        made = canvas(prompts, 3, mask_token_id=MASK, pad_token_id=0)
        padding = int((~made.attention_mask[0]).sum())
        steps = model.iterate(*made, sampler=sampler)
        written[name] = [
            (step.changed[0].nonzero()[:, 0] - padding).tolist() for step in steps if step.changed[0].any()
        ]
    assert written["alone"] == written["beside"]
    assert written["alone"][0] == [3]


def test_an_amount_that_needs_probabilities_says_how_an_order_gives_them(page: ModuleType) -> None:
    with pytest.raises(ValueError, match="EdgesFirst"):
        UnmaskingSampler(amount=Threshold(0.5), order=page.EdgesFirst(length=4))


def test_a_backbone_without_a_mask_serves_what_has_no_padding_and_refuses_the_rest() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = torch.nn.Parameter(torch.arange(VOCAB).float())

        def forward(self, tokens: Tensor) -> Tensor:
            return self.scores.expand(*tokens.shape, -1)

    model = DiffusionLM(Plain(), MaskingProcess(MASK))
    even = canvas([[1], [2]], 3, mask_token_id=MASK, pad_token_id=0)
    assert model.generate(*even).tokens.tolist() == [[1, 3, 3, 3], [2, 3, 3, 3]]
    with pytest.raises(ValueError, match="Plain doesn't take 'attention_mask', which this batch needs: it has padding"):
        model.generate(*canvas([[1, 2], [2]], 3, mask_token_id=MASK, pad_token_id=0))


def test_the_bound_of_the_pages_process_is_the_entropy_under_its_oracle(page: ModuleType) -> None:
    """Five standard errors of 200,000 rows; the seed is fixed."""
    rows = 200_000
    process = page.MostlyMasks(
        mask_token_id=K, num_tokens=K, scatter=0.3, schedule=LinearSchedule(1e-6), time_conditioned=True
    )

    def oracle(tokens: Tensor, sigma: Tensor) -> Tensor:
        """log p(x_i | the other token of x_t)."""
        share = process.shares(process.schedule.time_at(-torch.expm1(-sigma.double())))
        kept, masked, scattered = (part[:, None, None] for part in share)
        seen = kept * torch.eye(K + 1, dtype=torch.float64)[tokens][..., :K] + scattered / K
        seen = torch.where((tokens == K)[..., None], masked, seen)  # q(z_j | x_j), (B, 2, K)
        return torch.nn.functional.pad(torch.stack((seen[:, 1] @ JOINT.T, seen[:, 0] @ JOINT), 1).log(), (0, 1))

    index = torch.multinomial(JOINT.flatten(), rows, replacement=True, generator=torch.Generator().manual_seed(1))
    x_0 = torch.stack((index // K, index % K), 1)
    objective = NELBO(IndependentMasks())
    nelbo = objective(oracle, process, x_0, random=RowRandom.from_seed(1_000_007, rows)).nelbo
    error = float(nelbo.std()) / math.sqrt(rows)
    assert abs(float(nelbo.mean()) - ENTROPY) < 5 * error < 0.05 * ENTROPY

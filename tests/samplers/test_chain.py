"""Samplers that step from canvas to canvas: in blocks, in ragged batches, with stops; every noise alike."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.process import AbsorbingHybridProcess, HybridProcess, MaskingProcess, Process, UniformProcess
from llada.samplers import (
    AncestralSampler,
    Blocks,
    ClassifierGuidance,
    CommitAndRenoise,
    ConstantKappa,
    GibbsSampler,
    Guidance,
    Margin,
    ParticleSampler,
    PsiSampler,
    Sampler,
    Sliding,
    TokenPotential,
)
from llada.samplers.classifier import Classifier

K, NULL, PAD = 5, 6, 0
TABLE = torch.randn(NULL + 1, NULL + 1, generator=torch.Generator().manual_seed(2))


def mixing(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits that depend on the row's real tokens and on how far away they stand."""
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
    near = torch.arange(tokens.shape[1])
    weight = 0.5 ** (near[:, None] - near).abs() * real[:, None]
    return 2.0 * weight.double() @ TABLE[tokens].double()


@dataclass(frozen=True)
class Sum(Classifier):
    def __call__(self, tokens: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        return -0.3 * (tokens * real).sum(1) * t


GUIDED = Guidance(0.7, NULL)
SAMPLERS: dict[str, tuple[Sampler, Process]] = {
    "ancestral, masks": (AncestralSampler(7, window=Blocks(3), guidance=GUIDED), MaskingProcess(K)),
    "ancestral, hybrid": (
        AncestralSampler(7, power=2.0, window=Blocks(3), classifier=ClassifierGuidance(Sum(), rows_per_call=7)),
        AbsorbingHybridProcess(K, K, 0.3),
    ),
    "psi": (PsiSampler(7, kappa=ConstantKappa(0.5), greedy_tail=True, window=Blocks(3)), HybridProcess(K, K, 0.3)),
    "corrected": (GibbsSampler(7, positions=2, order=Margin(), window=Blocks(3)), UniformProcess(K, posterior=True)),
    "commit and renoise": (
        CommitAndRenoise(4, entropy_bound=0.5, stop_entropy=1.0, window=Blocks(3), guidance=GUIDED),
        UniformProcess(K),
    ),
    "particles": (
        ParticleSampler(TokenPotential((2,)), AncestralSampler(7, window=Blocks(3), guidance=GUIDED), 3, threshold=0.9),
        UniformProcess(K),
    ),
    "particles, renoised": (
        ParticleSampler(TokenPotential((2,)), CommitAndRenoise(4, stop_entropy=1.0), 3, threshold=1.0),
        UniformProcess(K),
    ),
    "particles, the whole canvas": (
        ParticleSampler(TokenPotential((2,)), GibbsSampler(3), 3, lookahead=False),
        HybridProcess(K, K, 0.3),
    ),
}
PROMPTS = [[1, 2, 3, 4], [2], [4, 4]]
NEW = 7


def ragged() -> tuple[Tensor, Tensor, Tensor]:
    width = max(map(len, PROMPTS)) + NEW
    tokens = torch.full((len(PROMPTS), width), PAD)
    mask, given = torch.zeros_like(tokens).bool(), torch.ones_like(tokens).bool()
    for row, prompt in enumerate(PROMPTS):
        begin = width - NEW - len(prompt)
        tokens[row, begin : width - NEW], mask[row, begin:] = torch.tensor(prompt), True
    given[:, -NEW:] = False
    return tokens, mask, given


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    sampler, process = SAMPLERS[name]
    tokens, mask, given = ragged()
    given[1, -5:] = True  # which has fewer to write
    together = sampler(mixing, tokens, process, given=given, seed=3, attention_mask=mask)
    assert torch.equal(together.tokens[given], tokens[given])
    assert len(together.tokens[~given].unique()) > 1
    assert bool((together.tokens[~given] < K).all())
    for row, real in enumerate(mask):
        alone = sampler(mixing, tokens[row][real][None], process, given=given[row][real][None], seed=3 + row)
        assert torch.equal(alone.tokens[0], together.tokens[row][real]), row
        assert alone.calls[0] == together.calls[row], row


@pytest.mark.parametrize("name", list(SAMPLERS)[:6])
def test_blocks_are_finished_from_left_to_right(name: str) -> None:
    sampler, process = SAMPLERS[name]
    tokens, mask, given = ragged()
    steps = list(sampler.iterate(mixing, tokens, process, given=given, seed=3, attention_mask=mask))
    moved = [step.changed.any(0).nonzero().flatten().tolist() for step in steps if step.changed.any()]
    block = [max(columns) // 3 if columns else -1 for columns in ([(c - 2) for c in each] for each in moved)]
    if "particles" not in name:  # which show another particle now and then
        assert block == sorted(block)
        assert all((min(each) - 2) // 3 == last for each, last in zip(moved, block, strict=True))
        assert max(block) == 2
    given_steps = {"commit and renoise": 12, "particles": 21, "corrected": 4 + 2 * 3}.get(name, 7)
    assert bool((steps[-1].calls <= given_steps + 1).all())


def test_a_stop_token_ends_a_row_behind_its_block() -> None:
    favourite = torch.eye(K)[[1, 2, 1, 3, 1, 3]] * 40.0
    model = lambda tokens: favourite.expand(len(tokens), -1, -1)  # noqa: E731
    tokens = torch.zeros(1, 6, dtype=torch.long)
    for sampler in (AncestralSampler(6), CommitAndRenoise(3)):
        chain = type(sampler)(sampler.steps, window=Blocks(2)).stopping(2)
        steps = list(chain.iterate(model, tokens, UniformProcess(K), given=tokens > 0))
        assert steps[-1].tokens.tolist() == [[1, 2, 2, 2, 2, 2]]
        assert int(steps[-1].calls[0]) <= 3
        whole = sampler.stopping(2)
        assert whole is sampler
    particles = ParticleSampler(TokenPotential((1,)), AncestralSampler(6, window=Blocks(2)), 2).stopping((2,))
    assert particles(model, tokens, UniformProcess(K), given=tokens > 0).tokens.tolist() == [[1, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize(("sampler", "calls"), [(AncestralSampler(4), 4), (GibbsSampler(3, corrections=2), 3 + 2 * 2)])
def test_the_model_runs_once_a_step_and_once_a_correction_behind_all_but_the_last(sampler: Any, calls: int) -> None:
    runs = []

    def model(tokens: Tensor) -> Tensor:
        runs.append(tokens)
        return torch.zeros(*tokens.shape, K)

    sample = sampler(model, torch.zeros(2, 6).long(), UniformProcess(K), given=torch.zeros(2, 6).bool())
    assert sample.calls.tolist() == [calls] * 2
    assert len(runs) == calls
    first = sampler(model, torch.zeros(2, 6).long(), UniformProcess(K), given=torch.zeros(2, 6).bool(), seed=0)
    assert torch.equal(sample.tokens, first.tokens)  # which is the seed by default


def test_windows_that_chains_cannot_have_are_refused_by_name() -> None:
    for kind in (AncestralSampler, CommitAndRenoise, GibbsSampler):
        with pytest.raises(ValueError, match=rf"{kind.__name__} draws all open.*use window=Blocks"):
            kind(window=Sliding(2))
    tokens, mask, given = ragged()
    sampler = AncestralSampler(9, window=Blocks(3, from_start=True))
    with pytest.raises(ValueError, match="decode the rows one by one"):
        sampler(mixing, tokens, UniformProcess(K), given=given, attention_mask=mask)
    with pytest.raises(ValueError, match="2 steps can't be shared among 3 blocks"):
        AncestralSampler(2, window=Blocks(3))(mixing, tokens, UniformProcess(K), given=given, attention_mask=mask)


@pytest.mark.parametrize("process", [MaskingProcess(K), HybridProcess(K, K, 0.3), UniformProcess(K)], ids=str)
def test_texts_of_one_step_have_a_likelihood(process: Process) -> None:
    """Over all texts of two tokens behind a prompt the probabilities sum up to 1, guided or not."""
    texts = torch.cartesian_prod(torch.tensor([1]), torch.arange(K), torch.arange(K))
    given = torch.tensor([[True, False, False]]).expand(len(texts), -1)
    seeds = torch.full((len(texts),), 5)  # the same noise for all
    data: dict[str, Any] = {"suppress_tokens": (NULL,)}
    for sampler in (
        AncestralSampler(1, 0.7, **data),
        PsiSampler(1, guidance=GUIDED, **data),
        AncestralSampler(1, top_k=2, **data),
    ):
        found = sampler.likelihood(mixing, texts, process, given=given, seed=seeds)
        assert float(found.log_likelihood.exp().sum()) == pytest.approx(1.0)
        assert found.is_exact == (process.mask_token_id is not None)
        assert found.calls.tolist() == [1] * len(texts)
        assert found.generated.tolist() == [2] * len(texts)
    if found.is_exact:
        rows = AncestralSampler(1)(mixing, texts[:1].repeat(4000, 1), process, given=given[:1].repeat(4000, 1)).tokens
        law = AncestralSampler(1).likelihood(mixing, texts, process, given=given).log_likelihood.exp()
        counts = (rows[:, 1] * K + rows[:, 2]).bincount(minlength=K * K) / 4000
        assert float((counts - law).abs().sum() / 2) < 0.04  # of 25 cells 0.03 is expected
        with pytest.raises(ValueError, match="holds the mask token 5"):
            AncestralSampler(1).likelihood(mixing, texts.masked_fill(texts == 2, K), process, given=given)


def test_texts_of_several_steps_have_none_and_each_says_why() -> None:
    tokens = torch.ones(1, 3, dtype=torch.long)
    for sampler, why in (
        (AncestralSampler(2), "reached in many ways; for masks, use the preset ancestral"),
        (AncestralSampler(1, window=Blocks(1)), "reached in many ways"),
        (AncestralSampler(1, greedy_tail=True), "its end is greedy"),
        (PsiSampler(2), "takes tokens back"),
        (GibbsSampler(2), "draws written tokens again"),
        (CommitAndRenoise(1), "draws every token several times"),
    ):
        with pytest.raises(ValueError, match=why):
            sampler.likelihood(mixing, tokens, UniformProcess(K))

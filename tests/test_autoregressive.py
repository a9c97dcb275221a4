"""The autoregressive twin: exact likelihood by enumeration, cached decoding equal to the plain one, one module."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import AutoregressiveLM, BidirectionalTransformer, DiffusionLM, MaskingProcess, RowRandom
from llada.metrics import NextTokenLikelihood, next_token_log_likelihood
from llada.objectives import NELBO, NextTokens
from llada.samplers import NextToken, canvas

MASK, VOCABULARY = 5, 6


def backbone(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(1)
    options = {"causal": True, "shift": True, **options}
    return BidirectionalTransformer(VOCABULARY, 16, 2, 2, **options).double()


def twin(**options: Any) -> AutoregressiveLM:
    return AutoregressiveLM(backbone(**options), MaskingProcess(MASK, predicts_mask=False)).eval()


def every(length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(VOCABULARY - 1)] * length).view(-1, length)


@pytest.mark.parametrize("convolution", [0, 3])
def test_continuations_of_a_token_have_total_probability_one(convolution: int) -> None:
    model, continuations = twin(convolution=convolution), every(3)
    tokens = torch.cat((torch.full((len(continuations), 1), 2), continuations), 1)
    random = RowRandom.from_seed(0, len(tokens))
    output = NELBO(NextTokens())(model.backbone, model.process, tokens, random=random)
    assert output.num_tokens.unique().tolist() == [3]
    assert (-output.nelbo).exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    answer = torch.ones_like(tokens, dtype=torch.bool)
    answer[:, 0] = False
    likelihood = next_token_log_likelihood(model.backbone, model.process, tokens, answer)
    torch.testing.assert_close(likelihood, -output.nelbo)
    torch.testing.assert_close(output.loss.detach().double(), output.nelbo.sum() / (3 * len(tokens)), rtol=1e-6, atol=0)


def test_a_token_is_predicted_from_those_before_it_alone() -> None:
    model, tokens = twin(), torch.tensor([[1, 2, 3, 4, 0, 1]])
    changed = tokens.clone()
    changed[0, 3] = 0
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_packed_documents_and_padded_rows_are_scored_as_if_alone() -> None:
    model, first, second = twin(), torch.tensor([[1, 2, 3]]), torch.tensor([[4, 0, 1, 1]])
    alone = [
        NELBO(NextTokens())(model.backbone, model.process, row, random=RowRandom.from_seed(0, 1))
        for row in (first, second)
    ]
    packed = NELBO(NextTokens())(
        model.backbone,
        model.process,
        {"tokens": torch.cat((first, second), 1), "segment_ids": torch.tensor([[0] * 3 + [1] * 4])},
        random=RowRandom.from_seed(0, 1),
    )
    assert packed.num_tokens.item() == 5
    torch.testing.assert_close(packed.nelbo, alone[0].nelbo + alone[1].nelbo)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, 0] = False
    padded = NELBO(NextTokens())(
        model.backbone,
        model.process,
        {
            "tokens": torch.cat((torch.nn.functional.pad(first, (1, 0)), second)),
            "maskable": mask,
            "attention_mask": mask,
        },
        random=RowRandom.from_seed(0, 2),
    )
    assert padded.num_tokens.tolist() == [2, 3]
    torch.testing.assert_close(padded.nelbo, torch.cat([output.nelbo for output in alone]))


@pytest.mark.parametrize("convolution", [0, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_decoding_equals_plain_decoding_in_any_batch(convolution: int, temperature: float) -> None:
    model = twin(convolution=convolution)
    batch = canvas([[1, 2, 3], [4]], 5, mask_token_id=MASK, pad_token_id=0)
    cached = model.generate(*batch, sampler=NextToken(temperature))
    plain = model.generate(*batch, sampler=NextToken(temperature, cached=False))
    alone = model.generate(torch.tensor([[4, *[MASK] * 5]]), sampler=NextToken(temperature), seed=1)
    assert torch.equal(cached.tokens, plain.tokens)
    assert torch.equal(cached.tokens[1, 2:], alone.tokens[0])
    assert cached.calls.tolist() == [5, 5]
    assert cached.generated.tolist() == [5, 5]
    assert not model.process.is_masked(cached.tokens).any()


def test_a_call_computes_only_the_new_token() -> None:
    model, widths = twin(), []
    model.backbone.embedding.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].shape[1]))
    model.generate(torch.tensor([[1, 2, 3, *[MASK] * 4]]))
    assert widths == [3, 1, 1, 1]


def test_greedy_decoding_takes_the_likeliest_next_token() -> None:
    model = twin()
    tokens = model.generate(torch.tensor([[1, 2, *[MASK] * 3]])).tokens
    for column in (2, 3, 4):
        logits = model(tokens)[0, column].clone()
        logits[MASK] = -torch.inf
        assert tokens[0, column] == logits.argmax()


def test_draws_follow_the_model() -> None:
    # chi-square with 24 degrees of freedom; 51.2 is exceeded once in a thousand runs
    model, draws = twin(), 4000
    tokens = torch.tensor([[2, MASK, MASK]]).expand(draws, -1)
    sampled = model.generate(tokens, sampler=NextToken(1.0), seed=7).tokens[:, 1:]
    pairs = every(2)
    rows = torch.cat((torch.full((len(pairs), 1), 2), pairs), 1)
    answer = torch.tensor([[False, True, True]]).expand(len(rows), -1)
    expected = next_token_log_likelihood(model.backbone, model.process, rows, answer).exp() * draws
    observed = torch.bincount(sampled[:, 0] * (VOCABULARY - 1) + sampled[:, 1], minlength=len(pairs))
    assert ((observed - expected).square() / expected).sum() < 51.2


def test_a_row_stops_at_its_stop_token() -> None:
    def counts_up(tokens: Tensor) -> Tensor:
        following = torch.nn.functional.pad(tokens[:, :-1] + 1, (1, 0))
        return torch.nn.functional.one_hot(following.clamp(max=4), VOCABULARY).double() * 50

    tokens = torch.tensor([[2, *[MASK] * 5], [0, *[MASK] * 5]])
    sample = NextToken(stop_token_ids=4, cached=False)(counts_up, tokens, MaskingProcess(MASK))
    assert sample.tokens.tolist() == [[2, 3, 4, 4, 4, 4], [0, 1, 2, 3, 4, 4]]
    assert sample.calls.tolist() == [2, 4]


def test_given_tokens_between_masks_are_kept_and_seen_by_what_follows() -> None:
    model = twin()
    tokens = torch.tensor([[1, MASK, 3, MASK]])
    cached, plain = (model.generate(tokens, sampler=NextToken(cached=cached)).tokens for cached in (True, False))
    assert torch.equal(cached, plain)
    assert cached[0, 2] == 3
    logits = model(cached)[0, 3].clone()
    logits[MASK] = -torch.inf
    assert cached[0, 3] == logits.argmax()


def test_the_answers_likelihood_is_the_sum_of_its_tokens() -> None:
    model = twin()
    prompts, answers = [[1, 2], [3]], [[4], [0, 1, 2]]
    estimate = NextTokenLikelihood(rows_per_call=1)(model.backbone, model.process, prompts, answers)
    together = NextTokenLikelihood()(model.backbone, model.process, prompts, answers)
    torch.testing.assert_close(estimate.log_likelihood, together.log_likelihood)
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        logits = model(torch.tensor([prompt + answer]))[0]
        logits[:, MASK] = -torch.inf
        expected = sum(logits.log_softmax(-1)[len(prompt) + i, token].item() for i, token in enumerate(answer))
        assert estimate.log_likelihood[index].item() == pytest.approx(expected, rel=1e-6)
    assert estimate.standard_error.tolist() == [0.0, 0.0]
    assert estimate.num_samples.tolist() == [1, 1]
    with pytest.raises(ValueError, match="begin prompts with a BOS token"):
        NextTokenLikelihood()(model.backbone, model.process, [[]], [[1]])


@pytest.mark.parametrize("missing", ["causal", "shift"])
def test_a_backbone_that_sees_the_answer_is_refused(missing: str) -> None:
    network = backbone(**{missing: False})
    with pytest.raises(ValueError, match=f"{missing}=False"):
        AutoregressiveLM(network, MaskingProcess(MASK))
    with pytest.raises(ValueError, match=f"{missing}=False"):
        NextToken()(network, torch.tensor([[1, MASK]]), MaskingProcess(MASK))


def test_it_is_a_diffusion_model_with_other_parts(tmp_path: Path) -> None:
    rows = [{"tokens": torch.tensor([1, 2, 3, 4]), "maskable": torch.ones(4, dtype=torch.bool)}] * 8
    model = AutoregressiveLM(backbone(), MaskingProcess(MASK), optimizer=partial(torch.optim.AdamW, lr=1e-2))
    trainer = Trainer(
        max_steps=60, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=1, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, DataLoader(rows, batch_size=8), DataLoader(rows, batch_size=8))
    assert trainer.callback_metrics["val/nll"].item() < 0.05 * math.log(VOCABULARY)
    assert model.generate(torch.tensor([[1, MASK, MASK, MASK]])).tokens.tolist() == [[1, 2, 3, 4]]
    trainer.save_checkpoint(tmp_path / "twin.ckpt")
    for kind in (AutoregressiveLM, DiffusionLM):
        loaded = kind.load_from_checkpoint(tmp_path / "twin.ckpt")
        assert loaded.generate(torch.tensor([[1, MASK, MASK, MASK]])).tokens.tolist() == [[1, 2, 3, 4]]
        assert loaded.objective == NELBO(NextTokens())

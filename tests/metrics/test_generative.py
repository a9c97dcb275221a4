"""Generative perplexity and entropy: exact values, and the judges it takes."""

import math

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.metrics import GenerativePerplexity, next_token_log_likelihood, shifted_logits, unigram_entropy
from llada.process import MaskingProcess

PROBABILITIES = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)


def judge(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Tokens are independent and of known probabilities."""
    return PROBABILITIES.log().expand(*tokens.shape, 4)


def test_perplexity_of_a_known_judge() -> None:
    quality = GenerativePerplexity()(judge, [[3, 0, 1, 2], [3, 0, 0]])
    nats = [math.log(2.0) * bits for bits in (1 + 2 + 3, 1 + 1)]
    assert quality.num_tokens == 5
    assert quality.nll == pytest.approx(sum(nats) / 5)
    assert quality.perplexity == pytest.approx(2.0 ** (8 / 5))
    residual = [nats[0] - 3 * quality.nll, nats[1] - 2 * quality.nll]
    assert quality.nll_se == pytest.approx(math.sqrt(2.0 * sum(r * r for r in residual)) / 5)


def test_entropy_is_that_of_the_tokens_of_each_sample() -> None:
    quality = GenerativePerplexity()(judge, torch.tensor([[3, 0, 0, 1, 1], [3, 2, 2, 2, 2]]))
    assert quality.entropy == pytest.approx(math.log(2.0) / 2)
    assert quality.entropy_se == pytest.approx(math.log(2.0) / 2)  # half the difference of two numbers
    assert float(unigram_entropy(torch.arange(8))) == pytest.approx(math.log(8.0))
    assert float(unigram_entropy(torch.tensor([5, 5, 5]))) == 0.0


def test_one_sample_says_nothing_of_the_spread() -> None:
    quality = GenerativePerplexity()(judge, [[3, 0, 1]])
    assert math.isnan(quality.nll_se)
    assert math.isnan(quality.entropy_se)


def test_nothing_behind_the_end_of_the_text_counts() -> None:
    scorer = GenerativePerplexity(eos_token_id=2)
    assert scorer(judge, [[2, 0, 1, 2, 3, 3, 3]]) == pytest.approx(scorer(judge, [[2, 0, 1, 2]]), nan_ok=True)
    assert scorer(judge, [[2, 0, 1, 2, 3, 3, 3]]).num_tokens == 3
    assert GenerativePerplexity()(judge, [[2, 0, 1, 2, 3, 3, 3]]).num_tokens == 6


def test_a_prompt_is_given_and_not_scored() -> None:
    quality = GenerativePerplexity(prompt_length=3)(judge, [[3, 3, 3, 0], [3, 3, 3, 1]])
    assert (quality.num_tokens, quality.entropy) == (2, 0.0)
    assert quality.nll == pytest.approx(1.5 * math.log(2.0))
    with pytest.raises(ValueError, match="no tokens"):
        GenerativePerplexity(prompt_length=3)(judge, [[3, 3, 3]])
    with pytest.raises(ValueError, match="prompt_length must be 1 or more; got 0"):
        GenerativePerplexity(prompt_length=0)


def test_the_twin_judges_by_its_exact_likelihood() -> None:
    torch.manual_seed(0)
    twin = BidirectionalTransformer(9, 16, 1, 2, causal=True, shift=True).double()
    rows = torch.randint(8, (5, 6))
    answer = (torch.arange(6) > 0).expand(5, 6)
    with torch.no_grad():
        total = next_token_log_likelihood(twin, MaskingProcess(8), rows, answer)
    quality = GenerativePerplexity(rows_per_call=2)(twin, rows)
    assert quality.nll == pytest.approx(-float(total.sum()) / 25, rel=1e-12)


def test_a_causal_model_of_transformers_judges_by_its_own_loss() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    network = transformers.LlamaForCausalLM(config).eval()
    rows = torch.randint(11, (3, 7))
    with torch.no_grad():
        loss = float(network(input_ids=rows, labels=rows).loss)
    assert GenerativePerplexity()(shifted_logits(network), rows).nll == pytest.approx(loss, rel=1e-5)
    ragged = GenerativePerplexity()(shifted_logits(network), [rows[0], rows[1, :4]])
    alone = [GenerativePerplexity()(shifted_logits(network), [row]) for row in (rows[0], rows[1, :4])]
    assert ragged.nll * 9 == pytest.approx(alone[0].nll * 6 + alone[1].nll * 3, rel=1e-5)

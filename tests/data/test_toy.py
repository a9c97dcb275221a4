import math

import pytest
import torch
from scipy.stats import chisquare

from llada.data import ToyLanguage

MASK = 3
LANGUAGES = [
    ToyLanguage.dirichlet(3, 4),
    ToyLanguage.markov(3, 4),
    ToyLanguage.dirichlet(3, 4, concentration=0.2, seed=5),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_probabilities_of_all_rows_sum_to_one(language):
    assert language.rows.shape == (81, 4)
    assert language.log_prob(language.rows).exp().sum() == pytest.approx(1.0)
    assert torch.equal(language.index(language.rows), torch.arange(81))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_entropy_is_the_mean_surprise(language):
    log_p = language.log_prob(language.rows)
    assert language.entropy() == pytest.approx(float(-(log_p.exp() * log_p).sum()), abs=1e-12)


def test_the_entropy_of_certain_and_even_languages():
    assert ToyLanguage(torch.ones(2, 2, 2)).entropy() == pytest.approx(3 * math.log(2))
    assert ToyLanguage(torch.tensor([[0.0, 5.0], [0.0, 0.0]])).entropy() == 0.0


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_oracle_is_bayes(language):
    p = language.probabilities
    row = torch.tensor([[MASK, 1, MASK, 2]])
    logits = language.oracle(row)
    assert logits.shape == (1, 4, 4)
    # p(x_0, x_2 | x_1 = 1, x_3 = 2), written out.
    joint = p[:, 1, :, 2] / p[:, 1, :, 2].sum()
    torch.testing.assert_close(logits[0, 0, :3].exp(), joint.sum(1))
    torch.testing.assert_close(logits[0, 2, :3].exp(), joint.sum(0))
    torch.testing.assert_close(logits[0, 1].exp(), torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    assert bool((logits[..., MASK] == -math.inf).all())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_oracle_gives_the_chain_rule_in_every_order(language):
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        total = torch.zeros(81, dtype=torch.float64)
        tokens = torch.full_like(language.rows, MASK)
        for position in order:
            choices = language.rows[:, position]
            total += language.oracle(tokens)[torch.arange(81), position, choices]
            tokens[:, position] = choices
        torch.testing.assert_close(total, language.log_prob(language.rows))


def test_a_markov_chain_forgets_what_lies_behind_a_visible_token():
    language = ToyLanguage.markov(3, 4)
    posteriors = language.oracle(torch.tensor([[0, 1, MASK, MASK], [2, 1, MASK, MASK]]))
    torch.testing.assert_close(posteriors[0, 2:], posteriors[1, 2:])
    behind = language.oracle(torch.tensor([[MASK, token, MASK, MASK] for token in range(3)]))[:, 2]
    assert len(behind[:, 0].unique()) == 3  # every token has a law of its own of what follows it
    other = ToyLanguage.dirichlet(3, 4).oracle(torch.tensor([[0, 1, MASK, MASK], [2, 1, MASK, MASK]]))
    assert not torch.allclose(other[0, 2:], other[1, 2:])


def test_samples_follow_the_table():
    language = ToyLanguage.dirichlet(3, 2)
    rows = language.sample(20_000, torch.Generator().manual_seed(1))
    assert rows.shape == (20_000, 2)
    counts = torch.bincount(language.index(rows), minlength=9).numpy()
    # Fixed seed; another seed would fail with probability 1e-3.
    assert chisquare(counts, 20_000 * language.probabilities.flatten().numpy()).pvalue > 1e-3
    # The test has power: an even language is told apart.
    assert chisquare(counts).pvalue < 1e-9


def test_seeds_make_languages():
    assert torch.equal(ToyLanguage.dirichlet(3, 3).probabilities, ToyLanguage.dirichlet(3, 3).probabilities)
    assert not torch.equal(ToyLanguage.dirichlet(3, 3).probabilities, ToyLanguage.dirichlet(3, 3, seed=1).probabilities)


def test_impossible_tables_and_rows_are_refused():
    with pytest.raises(ValueError, match=r"must be \(V, ..., V\)"):
        ToyLanguage(torch.ones(2, 3))
    with pytest.raises(ValueError, match="finite, 0 or more, and not all 0"):
        ToyLanguage(torch.tensor([1.0, -0.5]))
    with pytest.raises(ValueError, match="not all 0"):
        ToyLanguage(torch.zeros(2, 2))
    language = ToyLanguage(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="row 1 shows tokens that have probability 0 together"):
        language.oracle(torch.tensor([[0, 2], [1, 2]]))
    with pytest.raises(ValueError, match=r"tokens must be in 0..1"):
        language.log_prob(torch.tensor([[0, 2]]))

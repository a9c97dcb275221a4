"""N-gram baselines: they are distributions, and they are the ones of the formulas."""

import math

import numpy as np
import pytest

from llada.metrics.ngram import NGramBaseline

TEXT = [0, 1, 0, 2, 0, 1]


def test_unigram_by_hand() -> None:
    # counts 3, 2, 1, 0 plus one each, over 6 + 4
    expected = -(math.log(0.4) + math.log(0.1)) / 2
    assert NGramBaseline(TEXT, 4).unigram_nll([0, 3]) == pytest.approx(expected)


def test_bigram_by_hand() -> None:
    # After 0 came 1 twice and 2 once: three continuations, two different ones.
    after_zero = (2 + 2 * 0.3) / (3 + 2)
    expected = -(math.log(0.4) + math.log(after_zero)) / 2
    assert NGramBaseline(TEXT, 4).bigram_nll([0, 1]) == pytest.approx(expected)


def test_both_are_distributions() -> None:
    rng = np.random.default_rng(0)
    baseline = NGramBaseline(rng.integers(0, 5, 40), 7)
    assert sum(math.exp(-baseline.unigram_nll([w])) for w in range(7)) == pytest.approx(1.0)
    for h in range(7):  # 5 and 6 were never seen
        pairs = [math.exp(-2 * baseline.bigram_nll([h, w]) + baseline.unigram_nll([h])) for w in range(7)]
        assert sum(pairs) == pytest.approx(1.0)


def test_a_bigram_text_is_predicted_by_bigrams_only() -> None:
    rng = np.random.default_rng(1)
    text = np.cumsum(rng.choice([1, 2], size=4000)) % 10
    baseline = NGramBaseline(text[:3000], 10)
    assert baseline.unigram_nll(text[3000:]) == pytest.approx(math.log(10), abs=0.02)
    assert baseline.bigram_nll(text[3000:]) == pytest.approx(math.log(2), abs=0.03)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        NGramBaseline([1], 4)
    with pytest.raises(ValueError, match=r"must be in 0 \.\. 3"):
        NGramBaseline([1, 4], 4)

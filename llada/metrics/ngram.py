"""Unigram and bigram models: what a bound has to beat before it says anything.

    p(w) = (c(w) + 1) / (N + V)                                   add-one
    p(w | h) = (c(h, w) + T(h) p(w)) / (c(h) + T(h))              Witten-Bell; T(h) different tokens were seen after h

Reference: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class NGramBaseline:
    """Counts of a training text.

    Args:
        tokens: (N,) integers, at least two.
        vocab_size: V.

    Raises:
        ValueError: if there are fewer than two tokens or one is outside the vocabulary.

    Examples:
        >>> from llada.metrics import NGramBaseline
        >>> baseline = NGramBaseline([0, 1, 0, 1, 0, 1, 0, 1], vocab_size=2)
        >>> round(baseline.unigram_nll([0, 1]), 3), round(baseline.bigram_nll([0, 1]), 3)
        (0.693, 0.399)
    """

    tokens: ArrayLike
    vocab_size: int

    def __post_init__(self) -> None:
        tokens = self._tokens
        if len(tokens) < 2:
            raise ValueError(f"an n-gram baseline needs at least two tokens; got {len(tokens)}")
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            reach = f"0 .. {self.vocab_size - 1}, by vocab_size={self.vocab_size}"
            raise ValueError(f"tokens must be in {reach}; got {tokens.min()} .. {tokens.max()}")

    @property
    def _tokens(self) -> NDArray[np.int64]:
        return np.asarray(self.tokens, dtype=np.int64)

    def _unigram(self) -> NDArray[np.float64]:
        counts = np.bincount(self._tokens, minlength=self.vocab_size)
        return np.asarray((counts + 1.0) / (counts.sum() + self.vocab_size))

    def unigram_nll(self, text: ArrayLike) -> float:
        """Cross-entropy of a text under the unigram model, nats per token.

        Args:
            text: (n,) token ids.
        """
        return float(-np.log(self._unigram()[np.asarray(text, dtype=np.int64)]).mean())

    def bigram_nll(self, text: ArrayLike) -> float:
        """Cross-entropy of a text under the bigram model, nats per token; the first token counts as a unigram.

        Args:
            text: (n,) token ids.
        """
        train, test = self._tokens, np.asarray(text, dtype=np.int64)
        pairs, pair_counts = np.unique(train[:-1] * self.vocab_size + train[1:], return_counts=True)
        followers = np.bincount(pairs // self.vocab_size, minlength=self.vocab_size)
        history = np.bincount(train[:-1], minlength=self.vocab_size)
        wanted = test[:-1] * self.vocab_size + test[1:]
        place = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        counts = np.where(pairs[place] == wanted, pair_counts[place], 0)
        unigram, h = self._unigram(), test[:-1]
        seen = history[h] > 0
        probability = np.where(
            seen,
            (counts + followers[h] * unigram[test[1:]]) / np.maximum(history[h] + followers[h], 1),
            unigram[test[1:]],
        )
        return float(-np.log(np.concatenate((unigram[test[:1]], probability))).mean())

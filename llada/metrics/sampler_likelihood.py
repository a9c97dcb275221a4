"""What decoding costs in likelihood: held-out text under the very sampler, against model calls per token.

The plain bound and an autoregressive likelihood say what a *model* knows. Writing several tokens per call loses some of
it; how much is the difference of this number to that of the same order with one token per call.
"""

from typing import Any

from torch import Tensor

from llada.metrics.nelbo import BoundMetric
from llada.process import Process
from llada.samplers import Sampler


class SamplerLikelihood(BoundMetric):
    """Nats per token, perplexity and bits per byte of texts under a sampler, with standard errors; see `BoundMetric`.

    Exact where the sampler's positions follow from the canvas, else a bound (`llada.samplers.TextLikelihood`).

    Args:
        sampler: whose likelihood is asked.
        bytes_per_token: average number of bytes that a token of the scored text stands for; None if unknown.
        kwargs: further arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: if a text has no likelihood under the sampler, saying why.

    Reference:
        Turok et al., arXiv 2603.01367.
    """

    calls: Tensor

    def __init__(self, sampler: Sampler, bytes_per_token: float | None = None, **kwargs: Any) -> None:
        super().__init__(bytes_per_token, **kwargs)
        if sampler.likelihood_gap is not None:
            raise ValueError(f"a text has no likelihood under {sampler}: {sampler.likelihood_gap}")
        self.sampler = sampler
        self._add_sums(("calls",))

    def update(  # type: ignore[override]
        self,
        model: Any,
        process: Process,
        tokens: Tensor,
        given: Tensor | None = None,
        *,
        seed: int | Tensor = 0,
        **model_kwargs: Any,
    ) -> None:
        """Add texts.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
            process: owner of the mask token.
            tokens: (B, L) int64, finished texts.
            given: (B, L) bool, tokens that aren't scored; None: all are.
            seed: of positions that are drawn at random; an int, from which row i gets ``seed + i``, or (B,) integers.
            model_kwargs: for the model; ``attention_mask`` (B, L) bool marks the real tokens of padded rows.
        """
        result = self.sampler.likelihood(model, tokens, process, given=given, seed=seed, **model_kwargs)
        super().update(-result.log_likelihood, result.generated)
        self.calls += result.calls.sum()

    @property
    def tokens_per_call(self) -> float:
        """Tokens that a model call writes, in the mean over all texts that were added."""
        return float(self.tokens / self.calls)

"""What decoding costs in likelihood: held-out text under the very sampler, against model calls per token.

The plain bound and an autoregressive likelihood say what a *model* knows. Writing several tokens per call loses some of
it; how much is the difference of this number to that of the same order with one token per call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.built import check_built, check_fields
from llada.metrics.likelihood import ConditionalLikelihood, LikelihoodEstimate
from llada.metrics.nelbo import BoundMetric
from llada.metrics.pairs import Tokens, pack
from llada.process import Process
from llada.samplers import Sampler, first_hitting


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

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.metrics import SamplerLikelihood
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import left_to_right
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> metric = SamplerLikelihood(left_to_right(temperature=1.0))
        >>> metric.update(language.oracle, MaskingProcess(2), torch.tensor([[0, 0]]))
        >>> metric.compute().perplexity  # 0.75 ** (-1 / 2)
        tensor(1.1547, dtype=torch.float64)
    """

    calls: Tensor

    def __init__(self, sampler: Sampler, bytes_per_token: float | None = None, **kwargs: Any) -> None:
        super().__init__(bytes_per_token, **kwargs)
        check_built("sampler", sampler, Sampler)
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


@dataclass(frozen=True)
class UnderSampler(ConditionalLikelihood):
    """Log-likelihoods of answers given prompts under a sampler, in the place of an estimate of the bound.

    Called as `ConditionalLikelihood` is, also on autoregressive models; of its arguments only ``sampler`` counts. Pairs
    are scored one by one, since a sampler's windows depend on the length of the canvas.

        llada score model.ckpt --prompt "2 + 2 =" --answer " 4" --sampler comb

    Args:
        sampler: whose likelihood is asked.

    Raises:
        ValueError: if an answer has no likelihood under the sampler, saying why.

    Examples:
        >>> import torch
        >>> from llada.metrics import UnderSampler
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import left_to_right
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> estimator = UnderSampler(sampler=left_to_right(temperature=1.0))
        >>> estimator(uniform, MaskingProcess(3), prompts=[[0, 1]], answers=[[2, 1]]).log_likelihood
        tensor([-2.1972], dtype=torch.float64)
    """

    for_every_model: ClassVar[bool] = True
    sampler: Sampler = field(default_factory=first_hitting)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sampler.likelihood_gap is not None:
            raise ValueError(f"a text has no likelihood under {self.sampler}: {self.sampler.likelihood_gap}")

    @override
    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        process: Process,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens],
        *,
        seed: int | Tensor = 0,
        device: torch.device | str | None = None,
    ) -> LikelihoodEstimate:
        pairs = pack(prompts, answers)
        seeds = seed + torch.arange(len(prompts)) if isinstance(seed, int) else seed
        values = torch.zeros(len(prompts), dtype=torch.float64)
        calls = torch.zeros(len(prompts), dtype=torch.int64)
        for row, pair in enumerate(pairs.order.tolist()):
            tokens, answer, _ = pairs.padded(torch.tensor([row]), device)
            result = self.sampler.likelihood(model, tokens, process, given=~answer, seed=seeds[pair : pair + 1])
            values[pair], calls[pair] = result.log_likelihood[0], result.calls[0]
        # A seed draws the positions of a sampler that isn't exact: one draw tells nothing of their spread.
        error = torch.zeros_like(values) if result.is_exact else torch.full_like(values, torch.nan)
        return LikelihoodEstimate(values, error, calls)

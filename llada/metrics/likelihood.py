"""Log-likelihood of an answer given a prompt, by Monte Carlo, for many pairs at once.

For an answer of n tokens the model's bound on log p(answer | prompt) is

    E_{l ~ U{1..n}} E_{|M| = l} [ (n / l) sum_{i in M} log p_theta(x_0^i | prompt, answer without M) ],

estimated from batches of copies of the pair with different masks. The prompt is never masked, and logits are computed
at masked tokens only. Answers so short that all of their masks cost no more than the estimate get the exact bound.

Shapes: R pairs, n tokens of an answer, N rows of a model call, L longest prompt and answer together.

Reference: Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, equation 6 and appendix A.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.metrics.masks import AllMasks, BalancedMasks, MaskDesign
from llada.metrics.pairs import Pairs, Tokens, mask_of, pack
from llada.process import Process
from llada.random import RowRandom
from llada.samplers.guidance import Guidance


class LikelihoodEstimate(NamedTuple):
    """Log-likelihoods of R answers.

    Attributes:
        log_likelihood: (R,) float64, nats, summed over the answer; an unbiased estimate of a lower bound on log p.
        standard_error: (R,) float64: deviation of the batches' estimates / sqrt(number of batches). Copies in a batch
            depend on one another, batches don't. Few batches make it a rough number (t distribution with one degree of
            freedom less than batches); 0 where the bound is exact, NaN if there was one batch only.
        num_samples: (R,) int64, how many masked copies the model has read; guidance runs the model twice on each.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    num_samples: Tensor


def masked_log_likelihood(
    model: Any,
    process: Process,
    tokens: Tensor,
    answer: Tensor,
    masked: Tensor,
    *,
    guidance: Guidance | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """f(M) = sum over the masked tokens of log p(token | all that isn't masked), for given masks.

    Args:
        model: whatever `llada.denoiser.as_denoiser` takes.
        process: the forward process, which names the mask token.
        tokens: (N, L) int64, prompts with their answers.
        answer: (N, L) bool, true where the tokens of the answers stand.
        masked: (N, L) bool, a part of ``answer``.
        guidance: classifier-free guidance; its unconditional input masks what is neither answer nor padding. The result
            is no bound on anything then.
        model_kwargs: further arguments of the model; ``attention_mask`` (N, L) bool marks padding.

    Returns:
        (N,) float64, nats.
    """
    denoiser, mask = as_denoiser(model), mask_of(process)
    if guidance is not None:
        denoiser = guidance(denoiser, ~answer, mask, model_kwargs.get("attention_mask"))
    share = masked.sum(1).double() / answer.sum(1)
    conditioning = process.conditioning(process.schedule.time_at(share)) if process.time_conditioned else {}
    noised = tokens.masked_fill(masked, mask)
    terms = denoiser.token_nll(noised, tokens, masked, suppressed=process.suppressed, **conditioning, **model_kwargs)
    nll = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    nll[masked] = terms.double()
    return -nll.sum(1)


@dataclass(frozen=True)
class ConditionalLikelihood:
    """Estimates the log-likelihood of answers given prompts.

    A pair's estimate depends on its own tokens and seed only, up to the rounding of the model. Pairs with the same seed
    and answers of the same length get the same masks.

    Args:
        num_samples: masked copies per pair, at most; LLaDA's protocol has 128.
        batch_size: copies whose masks are drawn jointly, a divisor of ``num_samples``. Larger is more precise, but the
            standard error needs at least two batches, and is better with more.
        masks: how they are drawn; `StratifiedCounts` is LLaDA's design, the default usually needs fewer copies.
        guidance: classifier-free guidance.
        target_se: stop with a pair when its standard error, in nats, is this small. Errors of pairs that stopped early
            are, if anything, reported too small. None: use all samples.
        min_samples: copies before the first look at ``target_se``; at least two batches.
        rows_per_call: rows of one model call; changes speed and memory, not the result.

    Raises:
        ValueError: if the numbers don't fit together.

    Examples:
        >>> import torch
        >>> from llada.metrics import ConditionalLikelihood
        >>> from llada.process import MaskingProcess
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> ConditionalLikelihood()(uniform, MaskingProcess(3), prompts=[[0, 1]], answers=[[2]]).log_likelihood
        tensor([-1.3863], dtype=torch.float64)
    """

    for_every_model: ClassVar[bool] = False
    """Whether autoregressive models are asked in this way, too, instead of by their one exact pass."""
    num_samples: int = 128
    batch_size: int = 32
    masks: MaskDesign = field(default_factory=BalancedMasks)
    guidance: Guidance = field(default_factory=Guidance)
    target_se: float | None = None
    min_samples: int = 64
    rows_per_call: int = 32

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_samples < 1 or self.num_samples % self.batch_size:
            raise ValueError(
                f"num_samples must be a positive multiple of batch_size; got num_samples={self.num_samples} and "
                f"batch_size={self.batch_size}"
            )
        if self.rows_per_call < 1:
            raise ValueError(f"rows_per_call must be 1 or more; got {self.rows_per_call}")
        if self.target_se is None:
            return
        if self.target_se <= 0.0:
            raise ValueError(f"target_se must be above 0, in nats, or None to use all samples; got {self.target_se}")
        if not 2 * self.batch_size <= self.min_samples <= self.num_samples:
            raise ValueError(
                f"with target_se, min_samples must be at least two batches, {2 * self.batch_size}, and at most "
                f"num_samples={self.num_samples}; got {self.min_samples}"
            )

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
        """Estimate.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes. It gets ``attention_mask`` where pairs of different
                lengths meet in a call; they are padded on the right.
            process: the forward process, which names the mask token.
            prompts: R sequences of token ids; may be empty ones.
            answers: R sequences of token ids, not empty.
            seed: an int, from which pair i gets ``seed + i``, or (R,) integers.
            device: where the model is.

        Raises:
            ValueError: if there are no pairs, an answer is empty or their numbers differ.
        """
        pairs = pack(prompts, answers)
        random = RowRandom.from_seed(seed, len(pairs.size)).select(pairs.order)
        least = self.num_samples if self.target_se is None else self.min_samples
        exact = pairs.size < (least + 1).bit_length()  # 2^n - 1 <= least
        values = torch.zeros(len(pairs.size), self.num_samples // self.batch_size, dtype=torch.float64)
        batches = torch.where(exact, 1, values.shape[1])

        scorer = _Scorer(as_denoiser(model), process, pairs, self.guidance, self.rows_per_call, device)
        values[exact, 0] = scorer(exact.nonzero()[:, 0], AllMasks(), 0, random)
        active = (~exact).nonzero()[:, 0]
        for batch in range(values.shape[1]):
            values[active, batch] = scorer(active, self.masks, self.batch_size, random.fold_in(batch))
            if self.target_se is not None and (batch + 1) * self.batch_size >= self.min_samples:
                reached = _mean_and_error(values[active], torch.full_like(active, batch + 1))[1] <= self.target_se
                batches[active[reached]] = batch + 1
                active = active[~reached]
        mean, error = _mean_and_error(values, batches)
        error[exact] = 0.0
        used = torch.where(exact, 2**pairs.size - 1, batches * self.batch_size)
        back = pairs.order.argsort()
        return LikelihoodEstimate(mean[back], error[back], used[back])


@dataclass(frozen=True)
class _Scorer:
    """Runs the copies of many pairs through the model, longest pairs first."""

    denoiser: Denoiser
    process: Process
    pairs: Pairs
    guidance: Guidance
    rows_per_call: int
    device: torch.device | str | None

    def __call__(self, which: Tensor, design: MaskDesign, batch_size: int, random: RowRandom) -> Tensor:
        """The estimate of one batch of each pair of ``which``, (len(which),) float64."""
        if not len(which):
            return torch.zeros(0, dtype=torch.float64)
        copies = design.copies(self.pairs.size[which], batch_size)
        pair = which.repeat_interleave(copies)
        copy = torch.arange(len(pair)) - (copies.cumsum(0) - copies).repeat_interleave(copies)
        terms = []
        for rows, index in zip(pair.split(self.rows_per_call), copy.split(self.rows_per_call), strict=True):
            masks = design(index, self.pairs.size[rows], batch_size, random=random.select(rows))
            terms.append(self._run(rows, masks.masked) * masks.weight.to(self.device))
        total = torch.zeros(len(self.pairs.size), dtype=torch.float64)
        return total.index_add_(0, pair, torch.cat(terms).cpu())[which]

    def _run(self, rows: Tensor, masked: Tensor) -> Tensor:
        """f(M) for given masks: (N, A) bool over the tokens of the answers -> (N,) float64, nats."""
        tokens, answer, arguments = self.pairs.padded(rows, self.device)
        place = (answer.cumsum(1) - 1).clamp(min=0)
        chosen = masked.to(answer.device).gather(1, place) & answer
        return masked_log_likelihood(
            self.denoiser, self.process, tokens, answer, chosen, guidance=self.guidance, **arguments
        )


def _mean_and_error(values: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the first ``count`` of each row's values, and its standard error: (R, batches), (R,) -> (R,), (R,)."""
    seen = torch.arange(values.shape[1]) < count[:, None]
    mean = torch.where(seen, values, 0.0).sum(1) / count
    spread = torch.where(seen, values - mean[:, None], 0.0).square().sum(1)
    return mean, (spread / ((count - 1) * count)).sqrt()

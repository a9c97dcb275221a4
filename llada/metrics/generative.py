"""How good samples look to another model, and how varied they are: generative perplexity beside unigram entropy.

For samples x of n tokens, scored by an autoregressive judge, and with c(v) counting token v in a sample,

    perplexity = exp( - sum log p_judge(x_i | x_1, ..., x_{i-1}) / sum n ),
    H(x)       = - sum_v (c(v) / n) log (c(v) / n).

Neither means much alone. A sampler that repeats itself pleases every judge and has little entropy, and low-precision
noise lowers both; the goal is to be near real text in both.

Reference: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
Categorical Sampling", arXiv 2409.02908.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.metrics.next_token import NextTokenLikelihood
from llada.metrics.pairs import Tokens
from llada.process import MaskingProcess
from llada.rows import count_before


class GenerativeQuality(NamedTuple):
    """What a judge says of R samples, and their variety.

    Attributes:
        nll: nats per scored token, over all samples.
        nll_se: its standard error over samples (delta method for a ratio); NaN for a single sample.
        perplexity: exp(nll).
        entropy: entropy of the tokens of a sample, in nats; mean over samples.
        entropy_se: its standard error over samples; NaN for a single sample.
        num_tokens: how many tokens were scored.
    """

    nll: float
    nll_se: float
    perplexity: float
    entropy: float
    entropy_se: float
    num_tokens: int


@dataclass(frozen=True)
class GenerativePerplexity:
    """Scores samples by an autoregressive judge.

    The judge must have been trained on the same tokens. If it has others, give it the samples as text, encoded anew:
    ``[judge_tokenizer.encode(tokenizer.decode(row)) for row in rows]``.

    Args:
        eos_token_id: what follows the first one behind the prompt isn't scored, the token itself is; None: score all.
        prompt_length: tokens in front of each sample that were given: BOS, or a prompt. At least 1, because the judge
            says nothing of a first token.
        rows_per_call: rows of one call of the judge; changes speed and memory only.

    Raises:
        ValueError: if a number isn't positive.

    Examples:
        >>> import torch
        >>> from llada.metrics import GenerativePerplexity
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> quality = GenerativePerplexity()(uniform, [[0, 1, 2, 1, 2]])
        >>> round(quality.perplexity, 6), round(quality.entropy, 6)
        (4.0, 0.693147)
    """

    eos_token_id: int | None = None
    prompt_length: int = 1
    rows_per_call: int = 32

    def __post_init__(self) -> None:
        for name, value in (("prompt_length", self.prompt_length), ("rows_per_call", self.rows_per_call)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")

    def __call__(
        self, judge: Any, samples: Sequence[Tokens] | Tensor, *, device: torch.device | str | None = None
    ) -> GenerativeQuality:
        """Score.

        Args:
            judge: causal and shifted: the backbone of an `llada.AutoregressiveLM`, or `shifted_logits` of a causal
                model of ``transformers``. It gets ``attention_mask`` where samples of different lengths meet.
            samples: R sequences of token ids, prompts included, or (R, L) int64.
            device: where the judge is.

        Raises:
            ValueError: if there are no samples, or one has nothing behind its prompt.
        """
        rows = [torch.as_tensor(row, dtype=torch.int64, device="cpu") for row in samples]
        prompts = [row[: self.prompt_length] for row in rows]
        ends = () if self.eos_token_id is None else (self.eos_token_id,)
        written = [row[self.prompt_length :] for row in rows]
        written = [row[: count_before(row.tolist(), ends) + 1] for row in written]  # EOS is scored as well
        # The process names the token of unfilled positions; finished samples have none.
        scored = NextTokenLikelihood(self.rows_per_call)(judge, MaskingProcess(0), prompts, written, device=device)
        sizes = torch.tensor([len(row) for row in written], dtype=torch.float64)
        nll = float(-scored.log_likelihood.sum() / sizes.sum())
        residual = -scored.log_likelihood - nll * sizes
        entropies = torch.stack([unigram_entropy(row) for row in written])
        count = len(rows)
        spread = math.sqrt(count / (count - 1)) if count > 1 else math.nan
        return GenerativeQuality(
            nll=nll,
            nll_se=spread * float(residual.square().sum().sqrt() / sizes.sum()),
            perplexity=math.exp(nll),
            entropy=float(entropies.mean()),
            entropy_se=spread * float((entropies - entropies.mean()).square().sum().sqrt() / count),
            num_tokens=int(sizes.sum()),
        )


def unigram_entropy(tokens: Tensor) -> Tensor:
    """Entropy of the tokens of one sample: 0 if they are all alike, log n if no two are.

    Args:
        tokens: (n,) integers, at least one.

    Returns:
        () float64, nats.
    """
    share = tokens.unique(return_counts=True)[1].double() / len(tokens)
    return -(share * share.log()).sum()


def shifted_logits(network: Any) -> Callable[..., Tensor]:
    """A causal language model of ``transformers`` as a judge: what it says of position i is read at i - 1.

    Args:
        network: called with ``input_ids`` and ``attention_mask``, both (B, L) int64; returns an object with ``logits``
            (B, L, V).
    """

    def judge(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        logits: Tensor = network(input_ids=tokens, attention_mask=real).logits
        return torch.cat((logits[:, :1], logits[:, :-1]), dim=1)

    return judge

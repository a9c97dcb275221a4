"""The divergence of a token under noise that also draws random tokens: a path divergence of two jump processes.

At a position with the token z, of which the clean one is x, the forward process and the model say

    q(y) = kept [y = x] + scattered / K,       p(y) = kept xhat(y) + scattered / K,

where xhat are the model's probabilities of the K data tokens, and the divergence is

    KL(q || p) + q(z) / p(z) - log(q(z) / p(z)) - 1.

Its weight in the bound is the rate of jumps into z over q(z). The sum over y needs one special term only, so

    KL = (a + u) log(a + u) + (K - 1) u log u - a log p(x) - u sum_y log p(y),      a = kept, u = scattered / K.

Reference: derived from the path measures of the two processes; it equals the losses of UDLM (arXiv 2412.10193) and Duo
(arXiv 2506.10892).
"""

import torch
from torch import Tensor


def interpolated_divergence(logits: Tensor, targets: Tensor, tokens: Tensor, kept: Tensor, scattered: Tensor) -> Tensor:
    """The divergence of N tokens, in nats.

    Args:
        logits: (N, K), of the data tokens.
        targets: (N,) int64, the clean tokens x.
        tokens: (N,) int64, the noised tokens z; one that isn't among the K is the mask.
        kept: (N,) float64, a.
        scattered: (N,) float64, u, above 0.

    Returns:
        (N,) float64, differentiable; 0 or more.
    """
    num_tokens = logits.shape[-1]
    log_p = torch.log(kept[:, None] * logits.double().softmax(-1) + scattered[:, None])
    is_data = tokens < num_tokens
    at_target, at_token = (log_p.gather(1, index[:, None])[:, 0] for index in (targets, tokens * is_data))
    peak = kept + scattered
    negative_entropy = peak * peak.log() + (num_tokens - 1) * scattered * scattered.log()
    divergence = negative_entropy - kept * at_target - scattered * log_p.sum(-1)
    log_ratio = torch.where(tokens == targets, peak, scattered).log() - at_token
    log_ratio = log_ratio.where(is_data, 0.0)  # q and p agree on the mask
    return divergence + log_ratio.expm1() - log_ratio

"""The divergence of a token under noise that also draws random tokens: a path divergence of two jump processes.

At a position with the token z, of which the clean one is x, the forward process and the model say

    q(y) = a [y = x] + u,       p(y) = a xhat(y) + u       for each of the K data tokens y,

with a the kept share, u = scattered / K, and xhat the model's probabilities; a mask is as likely under both. The
divergence is

    KL(q || p) + R - log R - 1,      R = q(z) / p(z), and 1 where z is the mask,

and its weight in the bound is the rate of jumps into z over q(z). With v_y = (a / u) xhat(y) all of it follows from
three numbers, v_x, v_z and one sum over the vocabulary:

    KL = (a + u) log(1 + a / u) - a log(1 + v_x) - u sum_y log(1 + v_y).

Its gradient with respect to the logits l, with rho = v / (1 + v), is

    d / d l_y = -u rho_y - a rho_x [y = x] + (1 - R) rho_z [y = z] - xhat(y) G,      G = the sum over y of the rest.

So a chunk of logits becomes its own gradient as soon as it is there. The best xhat is the leave-one-out posterior,
p(x | all noised tokens but z). A network that learns by plain cross-entropy gives the full posterior instead, which by
Bayes' rule is proportional to xhat(x) q(z | x): the logit of z is then too high by log(1 + a / u), and nothing else.

Reference: derived from the path measures of the two processes. It equals the losses of UDLM (arXiv 2412.10193), Duo
(arXiv 2506.10892), GIDD (arXiv 2503.04482) and, with p(y) / p(z) for the score, SEDD (arXiv 2310.16834).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.heads.gradients import with_gradients
from llada.heads.noise_law import NoisedTokens

BLOCK_ELEMENTS = 1 << 17
"""Logits that a CPU goes through at a time, for they are read often: half a megabyte, which its cache holds."""


def divergence(
    logits: Tensor, noised: NoisedTokens, weights: Tensor, *, cross_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """The weighted sum of the divergences of logits that are there already.

    Args:
        logits: (N, V), V at least K.
        noised: the N positions.
        weights: (N,), constants.
        cross_entropy: whether the sum to be minimised is that of cross-entropies -log softmax(l)_x instead.

    Returns:
        The sum, () differentiable once, and the divergences without their weights, (N,) float64 detached; nats.
    """
    number, wanted = noised.noise_law.num_tokens, torch.is_grad_enabled() and logits.requires_grad
    with torch.no_grad():
        z = logits[:, :number].to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        loss, terms = judge(z, noised, weights.detach(), cross_entropy=cross_entropy, gradient=wanted)
        made = F.pad(z, (0, logits.shape[1] - number)).to(logits.dtype) if wanted else None
    return with_gradients(loss, (logits,), (made,)), terms


def judge(
    z: Tensor, noised: NoisedTokens, weights: Tensor, *, cross_entropy: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Loss and divergences of a chunk of logits, which is overwritten: by the gradient, if it is wanted.

    Args:
        z: (n, K), float32 or float64.
        noised: the n positions.
        weights: (n,).
        cross_entropy: as in `divergence`.
        gradient: whether the gradient is wanted.

    Returns:
        The weighted sum, (), and the divergences, (n,) float64.
    """
    rows = max(1, BLOCK_ELEMENTS // z.shape[1]) if z.device.type == "cpu" else max(1, len(z))
    losses, found = [torch.zeros((), dtype=torch.float64, device=z.device)], []
    for start in range(0, len(z), rows):
        span = slice(start, start + rows)
        loss, terms = _judge_block(z[span], noised.at(span), weights[span, None].double(), cross_entropy, gradient)
        losses.append(loss)
        found.append(terms)
    return torch.stack(losses).sum().to(z.dtype), torch.cat(found)


def _judge_block(
    z: Tensor, noised: NoisedTokens, weight: Tensor, cross_entropy: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Columns (n, 1) are float64; the names are those of the equations above."""
    law, x = noised.noise_law, noised.targets[:, None]
    a, u, odds = law.kept[:, None], law.scattered[:, None], law.odds[:, None]
    is_data = law.is_data(noised.tokens[:, None])
    if law.hole is not None:
        z[:, law.hole] = -torch.inf  # and so nothing in all that follows
    at, own = noised.tokens[:, None] * is_data, torch.where(is_data, noised.tokens[:, None] == x, False)
    logit, top = z.gather(1, x), z.amax(1, keepdim=True)
    e = z.sub_(top).exp_()
    plain, of_token = e.sum(1, keepdim=True), e.gather(1, at)
    nll = (plain.log() + top - logit).double()
    mass = plain
    if noised.posterior:
        e.scatter_(1, at, of_token / (1.0 + odds * is_data).to(e))
        mass = e.sum(1, keepdim=True)
    v = e * (odds / mass).to(e)
    v_x, v_z = v.gather(1, x).double(), v.gather(1, at).double()
    buffer = v.log1p()
    log_ratio = torch.where(is_data, torch.log1p(odds) * own - v_z.log1p(), 0.0)
    kl = (a + u) * torch.log1p(odds) - a * v_x.log1p() - u * buffer.sum(1, keepdim=True).double()
    term = kl + log_ratio.expm1() - log_ratio
    if gradient and cross_entropy:
        e.scatter_(1, at, of_token).mul_((weight / plain).to(e)).scatter_add_(1, x, -weight.to(e))
    elif gradient:
        rho, rho_x, rho_z = v.div_(torch.add(v, 1.0, out=buffer)), v_x / (1.0 + v_x), v_z / (1.0 + v_z)
        of_x, of_z = -a * rho_x, -log_ratio.expm1() * rho_z
        rest = -u * rho.sum(1, keepdim=True).double() + of_x + of_z
        e.mul_((-weight * rest / mass).to(e)).addcmul_(rho, (-weight * u).to(e))
        e.scatter_add_(1, x, (weight * of_x).to(e)).scatter_add_(1, at, (weight * of_z).to(e))
    return (weight * (nll if cross_entropy else term)).sum(), term[:, 0]

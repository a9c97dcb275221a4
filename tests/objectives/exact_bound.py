"""The bound as an exact integral: every noised row of a small language, at the nodes of a quadrature."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llada.denoiser import Denoiser
from llada.objectives import NELBO, Design, Draw
from llada.objectives.objective import Batch
from llada.process import Process
from llada.random import RowRandom

K = 3
JOINT = torch.rand(K, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
JOINT /= JOINT.sum()
"""Law of two tokens."""
ENTROPY = float(-(JOINT * JOINT.log()).sum())


def laws(process: Process, t: Tensor) -> Tensor:
    """q(z | x) at times (...), (..., K, K + 1) with the mask last."""
    share = process.shares(t)
    kept, masked, scattered = (part[..., None, None] for part in share)
    data = kept * torch.eye(K, dtype=torch.float64) + scattered / K
    return torch.cat((data, masked.expand(*data.shape[:-1], 1)), -1)


def leave_one_out(process: Process, tokens: Tensor, t: Tensor) -> Tensor:
    """p(x_i | the other of two noised tokens), (B, 2, K); tokens (B, 2), t (B,)."""
    law = laws(process, t)
    first, second = (law.gather(2, tokens[:, i, None, None].expand(-1, K, 1))[..., 0] for i in (0, 1))
    clean = torch.stack((second @ JOINT.T, first @ JOINT), 1)
    return clean / clean.sum(-1, keepdim=True)


def full_posterior(process: Process, tokens: Tensor, t: Tensor) -> Tensor:
    """p(x_i | both noised tokens), (B, 2, K)."""
    law = laws(process, t)
    own = torch.stack([law.gather(2, tokens[:, i, None, None].expand(-1, K, 1))[..., 0] for i in (0, 1)], 1)
    return torch.nn.functional.normalize(leave_one_out(process, tokens, t) * own, p=1, dim=-1)


def nodes(process: Process, number: int = 64) -> tuple[Tensor, Tensor]:
    """Times and weights of a quadrature over (0, 1): in the masked share m, with m or 1 - m = s^4 / 2 at the ends."""
    places, weights = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(number))
    s = places + 0.5
    share, size = torch.cat((0.5 * s**4, 1.0 - 0.5 * s**4)), torch.cat((2.0 * s**3 * weights,) * 2)
    low, high = process.schedule.mask_probability(torch.tensor([0.0, 1.0], dtype=torch.float64))
    t = process.schedule.time_at(low + (high - low) * share)
    return t, (high - low) * size / -process.schedule.alpha_prime(t)


@dataclass(frozen=True)
class EveryRow(Design):
    """All clean rows, all noised rows and all times of the quadrature; ``num_states`` is K, or K + 1 with a mask."""

    num_states: int

    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        t, _ = nodes(process)
        clean = list(itertools.product(range(K), repeat=2))
        noised = list(itertools.product(range(self.num_states), repeat=2))
        rows = torch.tensor([(*x, *z) for x, z in itertools.product(clean, noised)])
        x_0, tokens = (part.repeat(len(t), 1) for part in rows.split(2, 1))
        t = t.repeat_interleave(len(rows))[:, None]
        scored = torch.ones_like(tokens).bool() if process.scatters else process.is_masked(tokens)
        weight = process.bound_weight(t, tokens, x_0)
        return Draw(x_0, torch.ones_like(scored), tokens, scored, t, weight, t[:, 0])


def bound(process: Process, predict: Any = leave_one_out, wrap: Any = lambda model: model) -> float:
    """The integral of the bound in nats, for the network ``predict(process, tokens, t)`` of probabilities.

    Args:
        process: with the mask behind K data tokens, if it has one.
        predict: (process, (B, 2), (B,)) -> (B, 2, K).
        wrap: what becomes of the network before the objective sees it.
    """
    design = EveryRow(K if process.mask_token_id is None else K + 1)
    model: Any = lambda tokens: None  # noqa: E731
    draw = design(model, process, {}, random=RowRandom.from_seed(0, 1))
    t, weights = nodes(process)

    def network(tokens: Tensor) -> Tensor:
        logits = predict(process, tokens, draw.t[:, 0]).log()
        return torch.nn.functional.pad(logits, (0, 1), value=-torch.inf)

    found = NELBO(design)(wrap(network), process, draw.x_0, random=RowRandom.from_seed(0, 1)).nelbo
    law = laws(process, draw.t[:, 0])
    chance = JOINT[draw.x_0[:, 0], draw.x_0[:, 1]].clone()
    for i in (0, 1):
        chance *= law[torch.arange(len(law)), draw.x_0[:, i], draw.tokens[:, i]]
    each = torch.where(chance > 0.0, found * chance, 0.0).view(len(t), -1).sum(1)
    return float((weights * each).sum())


def seen(process: Process) -> float:
    """H(x | the noised row at t = 1) - H(x | that at t = 0): the entropy, where noise goes from none to all."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    both = torch.einsum("ab,tay,tbz->tabyz", JOINT, *(laws(process, ends),) * 2)
    of_noised = both.sum((1, 2), keepdim=True)
    entropy = -torch.special.xlogy(both, both / of_noised.clamp(min=1e-300)).sum((1, 2, 3, 4))
    return float(entropy[1] - entropy[0])

"""Duo's curriculum: uniform noise drawn by way of Gaussian noise, of which the network may see more than the token.

At the signal-to-noise ratio r that belongs to a token's time (`llada.noise.gaussian`),

    g_y ~ N(r [y = x_0], 1),     x_t = arg max_y g_y,     the network reads  sum_y softmax(g / (sqrt(1 + r^2) T))_y e_y

with e the embeddings and T a temperature. The token x_t, and the loss, are those of uniform diffusion. As T falls to 0
the network sees x_t alone. Only the k largest of the K numbers are ever drawn, by their order statistics; what the
others would weigh is left out, which is nothing at a low temperature, and exactly nothing with k = K.

Reference: Sahoo et al., "The Diffusion Duality", arXiv 2506.10892, section 4; "Chapter II: Psi-Samplers and Efficient
Curriculum", arXiv 2602.21185 (the k largest).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.noise.gaussian import ratio_at
from llada.objectives.design import MASKS, Draw
from llada.objectives.independent import IndependentMasks
from llada.objectives.objective import Batch
from llada.process import Process
from llada.random import RowRandom


@dataclass(frozen=True)
class TemperedTokens(IndependentMasks):
    """Independent noise whose tokens the network sees softened; for uniform noise with any schedule.

    Args:
        times: how noise levels are drawn.
        per_segment: whether every segment of a packed row has a noise level of its own.
        temperature: T, above 0; Duo: 1e-3.
        top_k: k, how many tokens are mixed at a position, 2 or more.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> from llada.objectives import PlainCrossEntropy, TemperedTokens
        >>> from llada.process import UniformProcess
        >>> duo_curriculum = PlainCrossEntropy(TemperedTokens(temperature=1e-3, top_k=8), any_process=True)
        >>> duo_curriculum.bound_gap(UniformProcess(4))  # why its loss is no bound
        'the network sees more of the noise than its tokens'
    """

    temperature: float = 1e-3
    top_k: int = 8

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(
                f"temperature must be above 0; got {self.temperature}. IndependentMasks shows tokens alone"
            )
        if self.top_k < 2:
            raise ValueError(f"top_k must be 2 or more; got {self.top_k}")

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        if process.num_tokens is None or process.mask_token_id is not None:
            raise ValueError(
                f"TemperedTokens are those of uniform noise, and {process} has masks; use IndependentMasks"
            )
        draw = super().__call__(model, process, batch, random=random)
        ratio = ratio_at(process.shares(draw.t).kept, process.num_tokens)
        ids, values = largest(draw.x_0, ratio, process.num_tokens, self.top_k, random.fold_in(MASKS, 1))
        scale = self.temperature * (1.0 + ratio.square()).sqrt()
        weights = (values / scale[..., None]).softmax(-1)
        tokens = torch.where(draw.maskable, ids[..., 0], draw.x_0)
        ids = torch.where(draw.maskable[..., None], ids, draw.x_0[..., None])
        return replace(
            draw,
            tokens=tokens,
            bound_weight=self.weight(process, draw.t, tokens, draw.x_0),
            inputs={**draw.inputs, "soft_ids": ids, "soft_weights": weights.float()},
        )

    @override
    def bound_gap(self, process: Process) -> str | None:
        return "the network sees more of the noise than its tokens"


def largest(x_0: Tensor, ratio: Tensor, num_tokens: int, top_k: int, random: RowRandom) -> tuple[Tensor, Tensor]:
    """The k largest of K Gaussian numbers at each position, and whose they are.

    Args:
        x_0: clean tokens, (B, L) int64, whose number has the mean ``ratio``; all others have 0.
        ratio: (B, 1) or (B, L) float64.
        num_tokens: K.
        top_k: k; no more than K are given.
        random: the rows' random streams.

    Returns:
        Ids (B, L, k) int64, all different, and their numbers (B, L, k) float64, the largest first.
    """
    others, count = num_tokens - 1, min(top_k, num_tokens - 1)
    u = random.uniform(x_0.shape[1], 2 * count + 1)
    # The largest of n uniform numbers is U^(1/n); the next one is the largest of n - 1 below it.
    left = torch.arange(others, others - count, -1, dtype=torch.float64, device=u.device)
    below = (u[..., :count].log() / left).cumsum(-1)
    values = -torch.special.ndtri(-torch.expm1(below))
    # Which ones they are: the j-th of the n - j that are left, counted past those that were taken.
    picked = torch.empty(*x_0.shape, 0, dtype=torch.int64, device=u.device)
    ids = []
    for j in range(count):
        chosen = (u[..., count + j] * (others - j)).long().clamp(max=others - j - 1)
        for taken in picked.unbind(-1):
            chosen = chosen + (chosen >= taken)
        ids.append(chosen)
        picked = torch.cat((picked, chosen[..., None]), -1).sort(-1).values
    names = torch.stack(ids, -1)
    names = names + (names >= x_0[..., None])  # the clean token isn't one of the others
    own = ratio + torch.special.ndtri(u[..., -1])
    both = torch.cat((values, own[..., None]), -1)
    ordered, index = both.sort(dim=-1, descending=True, stable=True)
    names = torch.cat((names, x_0[..., None]), -1).gather(-1, index)
    return names[..., :top_k], ordered[..., :top_k]

"""A mixture of experts as feed-forward layer: each token is computed by the few experts that a router chooses for it.

    y = sum_{e chosen} w_e expert_e(x) [+ shared(x)]

How experts are chosen and weighted is in `llada.backbones.router`.

Reference: Shazeer et al., "Outrageously Large Neural Networks", arXiv 1701.06538.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.backbones import grouped
from llada.backbones.router import Router, SoftmaxRouter


class Scores(nn.Linear):
    """The scores of all experts, (N, D) to (N, E), computed in float32 at least, whatever the model's dtype is."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.promote_types(input.dtype, torch.float32)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(dtype), self.weight.to(dtype))


class MixtureOfExperts(nn.Module):
    """Sends each token to its experts, and adds up their results.

    Args:
        width: D.
        experts: feed-forward layers (..., D) -> (..., D).
        experts_per_token: number of experts that compute a token, k.
        shared: an additional expert that computes every token, with weight 1; None for none.
        choice: how experts are chosen and weighted; None for OLMoE's softmax.

    Raises:
        ValueError: if ``experts_per_token`` isn't between 1 and the number of experts, or the router can't choose so
            many among them.
    """

    expert_bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        experts: list[nn.Module],
        experts_per_token: int,
        shared: nn.Module | None = None,
        choice: Router | None = None,
    ) -> None:
        super().__init__()
        self.choice = choice or SoftmaxRouter()
        self.choice.check(len(experts), experts_per_token)
        self.experts_per_token = experts_per_token
        self.router = (Scores if self.choice.in_float32 else nn.Linear)(width, len(experts), bias=False)
        self.experts = nn.ModuleList(experts)
        self.shared = shared
        # It only decides who is chosen, so no gradient reaches it.
        bias = nn.Parameter(torch.zeros(len(experts)), requires_grad=False) if self.choice.biased else None
        self.register_parameter("expert_bias", bias)

    def reset_parameters(self) -> None:
        """Set the bias of the choice to 0; the matrices are drawn by the network."""
        if self.expert_bias is not None:
            nn.init.zeros_(self.expert_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        rows = x.reshape(-1, x.shape[-1])
        scores = self.router(rows)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        chosen = self.choice.choose(scores, self.experts_per_token, self.expert_bias)
        order = chosen.experts.flatten().argsort(stable=True)  # expert by expert
        token = order // self.experts_per_token
        counts = torch.zeros(len(self.experts), dtype=torch.int64, device=x.device)
        counts = counts.scatter_add(0, chosen.experts.flatten(), torch.ones_like(order))
        computed = self._computed(rows.index_select(0, token), counts)
        weight = chosen.weights.flatten().index_select(0, order)[:, None].to(rows.dtype)
        result = torch.zeros_like(rows) if self.shared is None else self.shared(rows)
        return result.index_add(0, token, (weight * computed).to(result.dtype)).view_as(x)

    def _computed(self, rows: Tensor, counts: Tensor) -> Tensor:
        """What the experts make of their rows (N, D): the first ``counts[0]`` are the first one's, and so on."""
        if grouped.fits(rows, self.experts):
            return grouped.swiglu(rows, counts, self.experts)
        parts = rows.split(counts.tolist())  # the only question to the device
        return torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])

"""A mixture of experts as feed-forward layer: each token is computed by the few experts that score highest for it.

    y = sum_{e in top k} p_e expert_e(x) [+ shared(x)],   p = softmax(W x) over all experts, not renormalised over the k

Reference: Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models", arXiv 2409.02060;
LLaDA-MoE (arXiv 2509.24389) uses the same router.
"""

import torch
from torch import Tensor, nn


class MixtureOfExperts(nn.Module):
    """Sends each token to its experts, and adds up their results.

    Args:
        width: D.
        experts: feed-forward layers (..., D) -> (..., D).
        experts_per_token: number of experts that compute a token, k.
        shared: an additional expert that computes every token, with weight 1; None for none.

    Raises:
        ValueError: if ``experts_per_token`` isn't between 1 and the number of experts.
    """

    def __init__(
        self, width: int, experts: list[nn.Module], experts_per_token: int, shared: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= len(experts):
            raise ValueError(f"experts_per_token must be in 1 .. {len(experts)}; got {experts_per_token}")
        self.experts_per_token = experts_per_token
        self.router = nn.Linear(width, len(experts), bias=False)
        self.experts = nn.ModuleList(experts)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        rows = x.reshape(-1, x.shape[-1])
        probability = self.router(rows).softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32))
        best, chosen = probability.topk(self.experts_per_token, dim=-1)
        result = torch.zeros_like(rows) if self.shared is None else self.shared(rows)
        for index, expert in enumerate(self.experts):
            token, rank = (chosen == index).nonzero(as_tuple=True)
            weight = best[token, rank, None].to(rows.dtype)
            result = result.index_add(0, token, weight * expert(rows[token]))
        return result.view_as(x)

"""How many floating-point operations a training step needs, so that its speed can be compared with the hardware's.

A matrix of n numbers costs 2 n operations per token, attention 4 D' per pair of tokens that see one another (D' = heads
times head width) and layer; a backward pass costs twice its forward pass:

    3 (tokens 2 N + pairs 4 D' layers + scored 2 V D)

N counts the body's matrices, of a mixture's experts only those that a token goes through. The head counts for the
positions that are scored, since this library runs it on no others. Recomputed activations count once: what is done
twice isn't progress.

Reference: Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B, where every position is scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llada.backbones.mixture import MixtureOfExperts

ONCE_PER_ROW = {"modulation", "final_modulation", "noise_embedding"}
"""Modules that see a row's noise level, not its tokens."""


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass.

    Args:
        per_token: of the body's matrices.
        per_pair: of attention, for each pair of tokens of which one sees the other.
        per_scored: of the head.
    """

    per_token: float
    per_pair: float
    per_scored: float

    def training(self, tokens: float, pairs: float, scored: float) -> float:
        """Operations of a forward and a backward pass.

        Args:
            tokens: without padding.
            pairs: as from `count_pairs`.
            scored: positions whose logits the loss needs.
        """
        return 3 * (tokens * self.per_token + pairs * self.per_pair + scored * self.per_scored)


def forward_flops(backbone: nn.Module) -> ForwardFlops:
    """Count a backbone's operations from the shapes of its parameters, which may be on the meta device or sharded.

    Args:
        backbone: with ``width`` and ``num_layers``, and an embedding and a head that are named so.
    """
    mixtures = {name: module for name, module in backbone.named_modules() if isinstance(module, MixtureOfExperts)}
    active = {f"{name}.experts": m.experts_per_token / len(m.experts) for name, m in mixtures.items()}
    body = head = 0.0
    for name, parameter in backbone.named_parameters(remove_duplicate=False):  # a tied head is work all the same
        parts = name.split(".")
        if parameter.ndim < 2 or parts[0] == "embedding" or ONCE_PER_ROW & set(parts):
            continue
        if parts[0] == "head":
            head += 2.0 * parameter.numel()
        else:
            share = next((share for part, share in active.items() if name.startswith(f"{part}.")), 1.0)
            body += 2.0 * parameter.numel() * share
    width = getattr(backbone, "num_heads", 1) * getattr(backbone, "head_dim", 0) or backbone.width
    return ForwardFlops(body, 4.0 * float(width) * backbone.num_layers, head)  # type: ignore[arg-type, operator]


def count_pairs(tokens: Tensor, attention_mask: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
    """How many pairs of tokens see one another: sum over documents of their squared lengths.

    Args:
        tokens: (B, L).
        attention_mask: (B, L) bool, true for real tokens; None: all.
        segment_ids: (B, L) integers in 0 .. L-1, the document of each token; None: one per row.

    Returns:
        () float64, without waiting for the device.
    """
    real = torch.ones(tokens.shape, dtype=torch.float64, device=tokens.device)
    if attention_mask is not None:
        real = attention_mask.to(real)
    if segment_ids is None:
        return real.sum(1).square().sum()
    return torch.zeros_like(real).scatter_add_(1, segment_ids, real).square().sum()

"""Muon for the hidden matrices and AdamW for everything else, as one optimiser.

Muon turns the momentum of a matrix M into the nearest orthogonal one, U V^T where M = U S V^T, by a few Newton-Schulz
iterations, so that every direction of a layer moves at the same speed. It is meant for layers between vectors of
activations; embedding, head, norms and biases go to AdamW. Scaled to the size that AdamW's updates have, it works with
AdamW's learning rate and weight decay.

Reference: Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer


class MuonAdamW(Optimizer):
    """PyTorch's `Muon` and `AdamW`, with one learning rate, one state and one schedule.

    Args:
        params: parameter groups as from `llada.training.groups.parameter_groups`: those with ``is_hidden`` go to Muon.
        lr: of both.
        weight_decay: of both; vectors have none.
        momentum: of Muon.
        ns_steps: Newton-Schulz iterations.
        betas: of AdamW.
        eps: of AdamW.
        fused: AdamW in one kernel, None for PyTorch's choice.

    Raises:
        ImportError: if this PyTorch has no `torch.optim.Muon`.
        ValueError: if no group is marked as hidden, or these aren't groups.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool | None = None,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"MuonAdamW needs torch.optim.Muon, which torch {torch.__version__} hasn't; update torch")
        groups = list(params)
        hidden = [group for group in groups if _is_hidden(group)]
        others = [group for group in groups if not _is_hidden(group)]
        if not hidden:
            raise ValueError(
                "no parameter group is marked by is_hidden; take those of llada.training.groups.parameter_groups"
            )
        muon_options = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        muon = torch.optim.Muon(hidden, lr, weight_decay, **muon_options)  # type: ignore[arg-type]
        self._parts: list[tuple[Optimizer, int]] = [(muon, len(hidden))]
        if others:
            adamw = AdamW(others, lr, tuple(betas), eps, weight_decay, fused=fused)  # type: ignore[arg-type]
            self._parts.append((adamw, len(others)))
        filled = [group for optimizer, _ in self._parts for group in optimizer.param_groups]
        super().__init__(filled, {"lr": lr, "weight_decay": weight_decay})
        self._share()

    def _share(self) -> None:
        """Both parts work on this optimiser's groups and state."""
        start = 0
        for optimizer, count in self._parts:
            optimizer.param_groups = self.param_groups[start : start + count]
            optimizer.state = self.state
            start += count

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both.

        Args:
            closure: computes the loss and its gradients; its result is returned.
        """
        loss: Tensor | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer, _ in self._parts:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a stored state."""
        super().load_state_dict(state_dict)
        self._share()


def _is_hidden(group: Any) -> bool:
    return isinstance(group, dict) and bool(group.get("is_hidden"))

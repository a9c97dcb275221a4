"""alpha(t) = 1 - (1 - eps) t: LLaDA's schedule, and MDLM's "log-linear" one, which is the same curve."""

from dataclasses import dataclass

from torch import Tensor

from llada.noise.schedule import NoiseSchedule, check_residue


@dataclass(frozen=True)
class LinearSchedule(NoiseSchedule):
    """The share of masked tokens is the time; w(t) = 1/t for any eps.

    Args:
        eps: share of clean tokens at t = 1. LLaDA: 0. MDLM: 1e-3.

    Reference:
        Nie et al., arXiv 2502.09992, section 2.1; Sahoo et al., arXiv 2406.07524, appendix E ("log-linear").

    Examples:
        >>> import torch
        >>> from llada.noise import LinearSchedule
        >>> schedule = LinearSchedule()
        >>> schedule.mask_probability(torch.tensor([0.25, 0.5]))
        tensor([0.2500, 0.5000])
        >>> schedule.loss_weight(torch.tensor([0.25, 0.5]))
        tensor([4., 2.])
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        check_residue(self.eps)

    def mask_probability(self, t: Tensor) -> Tensor:
        """(1 - eps) t."""
        return (1.0 - self.eps) * t

    def loss_weight(self, t: Tensor) -> Tensor:
        """1/t."""
        return 1.0 / t

    def time_at(self, mask_probability: Tensor) -> Tensor:
        """Closed form p / (1 - eps)."""
        return mask_probability / (1.0 - self.eps)

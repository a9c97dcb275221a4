"""The head's loss by other people's kernels, which take the head's matrix.

    total = sum_n weight_n nll_n,   nll_n = log sum_v exp z_nv - z_n,target(n),   z = W h + b

Every row has a weight of its own, so losses that can only be summed or averaged (Liger's, and PyTorch's own with
``reduction="sum"``) don't serve.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.heads.cross_entropy import chunk_rows
from llada.heads.gradients import matmul_dtype
from llada.heads.head_loss import Chunked, HeadLoss


class _OfMatrix(HeadLoss):
    """A loss that takes the head's matrix."""

    @abstractmethod
    def nll(self, hidden: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Negative log-likelihoods.

        Args:
            hidden: (N, D), N > 0.
            matrix: (V, D), of the dtype of ``hidden``.
            bias: (V,) of that dtype, or None.
            targets: (N,) int64.

        Returns:
            (N,) float32 or better, nats.
        """

    def __call__(
        self, head: Any, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of a head that is one matrix, with or without a bias.

        Raises:
            ValueError: if the head is anything else, or its matrix isn't whole on this process.
        """
        matrix, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if type(matrix) not in (Tensor, nn.Parameter):  # a DTensor is a part of one
            raise ValueError(f"{type(self).__name__} needs a head with one whole matrix; use head_loss=Chunked()")
        assert isinstance(matrix, Tensor)
        if len(hidden) == 0:
            return Chunked()(head, hidden, targets, weights, suppressed)
        dtype = matmul_dtype(hidden)
        if suppressed is not None:
            bias = matrix.new_zeros(len(matrix)) if bias is None else bias
            bias = bias.masked_fill(torch.arange(len(bias), device=bias.device) == suppressed, -torch.inf)
        terms = self.nll(hidden.to(dtype), matrix.to(dtype), None if bias is None else bias.to(dtype), targets)
        return (terms * weights.detach().to(terms)).sum(), terms.detach()


@dataclass(frozen=True)
class TorchLinear(_OfMatrix):
    """PyTorch's `linear_cross_entropy`, in chunks; the backward pass computes each chunk's logits again.

    Args:
        chunk_elements: logits that may live at once; None for what suits the device.

    Raises:
        ImportError: if this PyTorch has none.

    Examples:
        >>> import torch
        >>> from llada.heads import Chunked, TorchLinear
        >>> head, hidden, targets = torch.nn.Linear(4, 10), torch.ones(6, 4), torch.arange(6)
        >>> ways = (TorchLinear(), Chunked())
        >>> first, second = (way(head, hidden, targets, weights=torch.ones(6))[0] for way in ways)
        >>> torch.allclose(first, second)
        True
    """

    chunk_elements: int | None = None

    def __post_init__(self) -> None:
        if not hasattr(nn, "LinearCrossEntropyOptions"):
            raise ImportError(f"TorchLinear needs PyTorch 2.13 or newer; this is {torch.__version__}")

    @override
    def nll(self, hidden: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        rows = chunk_rows(hidden, len(matrix), self.chunk_elements)
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
        terms = F.linear_cross_entropy(hidden, matrix, targets, linear_bias=bias, reduction="none", options=options)
        return terms if terms.dtype == torch.float64 else terms.float()


@dataclass(frozen=True)
class CutCrossEntropy(_OfMatrix):
    """Apple's Triton kernels, which keep logits in a GPU's registers; in bfloat16 or float16, without bias.

    Args:
        filter_eps: gradients of probabilities below this are left out; None for none, "auto" for what the dtype can't
            hold anyway.

    Raises:
        ImportError: if the package isn't installed.

    Reference:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009.
    """

    filter_eps: float | str | None = "auto"

    def __post_init__(self) -> None:
        _cut_cross_entropy()

    def nll(self, hidden: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Negative log-likelihoods, by the package's kernel.

        Raises:
            ValueError: if there is a bias, or a token that is left out.
        """
        if bias is not None:
            raise ValueError("CutCrossEntropy knows no bias and leaves no token out; use head_loss=Chunked()")
        terms: Tensor = _cut_cross_entropy()(
            hidden, matrix, targets, reduction="none", filter_eps=self.filter_eps, impl="cce"
        )
        return terms.float()


def _cut_cross_entropy() -> Any:
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise ImportError(
            "CutCrossEntropy needs the package cut-cross-entropy: pip install 'llada[kernels]'"
        ) from error
    return linear_cross_entropy

"""Every head loss has the value and the gradients of the plain formula."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.heads import Chunked, CutCrossEntropy, HeadLoss, TorchLinear

N, D, V = 11, 4, 7
needs_torch_linear = pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs PyTorch 2.13")
LOSSES = [
    pytest.param(lambda: Chunked(3 * V), id="chunked"),
    pytest.param(lambda: TorchLinear(3 * V), id="torch", marks=needs_torch_linear),
    pytest.param(TorchLinear, id="torch in one chunk", marks=needs_torch_linear),
]


def gradients(loss: HeadLoss, head: nn.Module, hidden: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    hidden = hidden.detach().requires_grad_()
    total, terms = loss(head, hidden, *arguments)
    assert not terms.requires_grad
    return total.detach(), terms, *torch.autograd.grad(3.0 * total, [hidden, *head.parameters()])


class Plain(HeadLoss):
    def __call__(
        self, head: Any, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None = None
    ) -> Any:
        kept = [v for v in range(V) if v != suppressed]
        logits = head(hidden)
        terms = logits[:, kept].logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
        return (weights * terms).sum(), terms.detach()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("suppressed", [None, V - 1])
@pytest.mark.parametrize("make", LOSSES)
def test_values_and_gradients(make: Any, suppressed: int | None, bias: bool) -> None:
    head = nn.Linear(D, V, bias, dtype=torch.float64)
    arguments = (head, torch.randn(N, D).double(), torch.randint(V - 1, (N,)), torch.rand(N).double(), suppressed)
    torch.testing.assert_close(gradients(make(), *arguments), gradients(Plain(), *arguments))


@pytest.mark.parametrize("make", LOSSES)
def test_no_rows_keep_the_parameters_in_the_graph(make: Any) -> None:
    head = nn.Linear(D, V)
    total, _, *found = gradients(make(), head, torch.randn(0, D), torch.empty(0, dtype=torch.int64), torch.empty(0))
    assert total == 0
    assert all(not gradient.any() for gradient in found)


@pytest.mark.parametrize("make", LOSSES)
def test_bfloat16_autocast_gives_float32_terms(make: Any) -> None:
    head, hidden, targets = nn.Linear(D, V), torch.randn(N, D), torch.randint(V, (N,))
    with torch.autocast("cpu", torch.bfloat16):
        total, terms, *_ = gradients(make(), head, hidden, targets, torch.ones(N))
    assert terms.dtype == total.dtype == torch.float32
    torch.testing.assert_close(terms, F.cross_entropy(head(hidden), targets, reduction="none"), rtol=0.03, atol=0.03)


@needs_torch_linear
def test_a_denoiser_computes_its_loss_by_it() -> None:
    backbone = BidirectionalTransformer(V, width=8, num_layers=1, num_heads=2)
    tokens, where = torch.randint(V, (2, 5)), torch.rand(2, 5) < 0.5
    losses = [as_denoiser(backbone, loss) for loss in (Chunked(), TorchLinear())]
    weights = torch.rand(int(where.sum()))
    values = [loss.weighted_nll(tokens, tokens, where, weights)[0] for loss in losses]
    torch.testing.assert_close(*values)
    assert losses[1].head_loss == TorchLinear()  # type: ignore[attr-defined]


@needs_torch_linear
def test_a_head_without_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="TorchLinear needs a head with one whole matrix; use head_loss=Chunked"):
        TorchLinear()(nn.Sequential(nn.Linear(D, V)), torch.randn(N, D), torch.zeros(N), torch.ones(N))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
    with pytest.raises(ImportError, match=r"pip install 'llada\[kernels\]'"):
        CutCrossEntropy()


def test_cut_cross_entropy_is_called_as_its_package_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels need a GPU; what is handed to them doesn't."""

    def kernel(e: Tensor, c: Tensor, targets: Tensor, *, reduction: str, filter_eps: Any, impl: str) -> Tensor:
        assert (reduction, filter_eps, impl) == ("none", "auto", "cce")
        return F.cross_entropy(e @ c.T, targets, reduction="none")

    package = ModuleType("cut_cross_entropy")
    package.linear_cross_entropy = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", package)
    head = nn.Linear(D, V, bias=False)
    arguments = (head, torch.randn(N, D), torch.randint(V, (N,)), torch.rand(N))
    torch.testing.assert_close(gradients(CutCrossEntropy(), *arguments), gradients(Plain(), *arguments))
    with pytest.raises(ValueError, match="knows no bias and leaves no token out"):
        CutCrossEntropy()(*arguments, 3)


@pytest.mark.gpu
def test_cut_cross_entropy_on_a_gpu() -> None:
    pytest.importorskip("cut_cross_entropy")
    head = nn.Linear(128, 1000, bias=False, device="cuda", dtype=torch.bfloat16)
    hidden = torch.randn(300, 128, device="cuda", dtype=torch.bfloat16)
    targets, weights = torch.randint(1000, (300,), device="cuda"), torch.rand(300, device="cuda")
    ours = gradients(CutCrossEntropy(None), head, hidden, targets, weights)
    torch.testing.assert_close(ours, gradients(Chunked(), head, hidden, targets, weights), rtol=0.05, atol=0.05)

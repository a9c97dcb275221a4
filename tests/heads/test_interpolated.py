"""The head's divergence: value and gradients of the plain formula, whatever the chunks, the head and the noise."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.heads import Chunked, CutCrossEntropy, HeadLoss, interpolated
from llada.heads.noise_law import NoisedTokens, NoiseLaw, leave_one_out
from llada.objectives import NELBO
from llada.process import HybridProcess
from llada.random import RowRandom

N, D, K, V = 13, 5, 6, 9  # of V tokens the last three, the mask among them, are never data


def plain(logits: Tensor, noised: NoisedTokens) -> Tensor:
    """KL(q || p) + R - log R - 1, by the laws themselves, (N,)."""
    a, u = (part[:, None] for part in noised.noise_law[:2])
    q = a * torch.eye(K, dtype=torch.float64)[noised.targets] + u
    shown = logits[:, :K].double()
    if noised.posterior:
        own = a * torch.eye(V, dtype=torch.float64)[noised.tokens][:, :K] + u
        shown = shown - torch.where((noised.tokens < K)[:, None], own.log(), 0.0)
    p = a * shown.softmax(-1) + u
    ratio = (q / p).gather(1, noised.tokens.clamp(max=K - 1)[:, None])[:, 0].where(noised.tokens < K, 1.0)
    return (q * (q / p).log()).sum(1) + ratio - ratio.log() - 1.0


def some_tokens(posterior: bool = False) -> NoisedTokens:
    """Kept, random and masked tokens, at every noise level."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(K, (N,), generator=generator)
    tokens = torch.where(torch.arange(N) % 3 == 0, targets, torch.randint(K, (N,), generator=generator))
    tokens[torch.arange(N) % 4 == 1] = V - 1
    kept = torch.linspace(1e-4, 0.999, N, dtype=torch.float64)
    return NoisedTokens(targets, tokens, NoiseLaw(kept, (1.0 - kept) / K, K), posterior)


class Softcapped(nn.Linear):
    """A head that does more than multiply."""

    def forward(self, hidden: Tensor) -> Tensor:
        return 3.0 * torch.tanh(super().forward(hidden) / 3.0)


HEADS: dict[str, Any] = {
    "matrix": lambda: nn.Linear(D, V, bias=False),
    "matrix with bias": lambda: nn.Linear(D, V),
    "softcap": lambda: Softcapped(D, V),
}


@pytest.mark.parametrize("cross_entropy", [False, True])
@pytest.mark.parametrize("posterior", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [2, N])
def test_values_and_gradients(
    head: str, rows: int, posterior: bool, cross_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpolated, "BLOCK_ELEMENTS", 3 * K)
    torch.manual_seed(0)
    made, noised = HEADS[head]().double(), some_tokens(posterior)
    hidden = (3.0 * torch.randn(N, D).double()).requires_grad_()
    weights = torch.rand(N).double() * 5.0
    expected = plain(made(hidden), noised)
    nll = -made(hidden)[:, :K].log_softmax(-1).gather(1, noised.targets[:, None])[:, 0]
    total = (weights * (nll if cross_entropy else expected)).sum()
    wanted = torch.autograd.grad(3.0 * total, [hidden, *made.parameters()])
    found, terms = Chunked(rows * V).interpolated(made, hidden, noised, weights, cross_entropy=cross_entropy)
    close: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(terms, expected.detach(), **close)
    torch.testing.assert_close(found, total, **close)
    got = torch.autograd.grad(3.0 * found, [hidden, *made.parameters()])
    torch.testing.assert_close(got, wanted, **close)


def test_the_cube_of_logits_never_exists() -> None:
    """Of a batch with 13 positions no call of the head sees more than two."""
    seen = []

    class Head(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            seen.append(len(hidden))
            return super().forward(hidden) * 1.0

    made = Head(D, V)
    loss, _ = Chunked(2 * V).interpolated(made, torch.randn(N, D), some_tokens(), torch.ones(N))
    loss.backward()
    assert max(seen) == 2
    assert sum(seen) == N + 1  # one row tells the size of the vocabulary


def test_half_precision_and_rare_noise_keep_their_digits() -> None:
    """In float32 at 100 tokens, from pure noise to hardly any; in bfloat16 the terms are still float32 or better."""
    torch.manual_seed(0)
    number, rows = 100, 200
    kept = torch.cat((torch.logspace(-6, -1, rows // 2), 1.0 - torch.logspace(-6, -1, rows // 2))).double()
    targets, logits = torch.randint(number, (rows,)), 4.0 * torch.randn(rows, number)
    noised = NoisedTokens(targets, torch.randint(number, (rows,)), NoiseLaw(kept, (1.0 - kept) / number, number))
    weights = 1.0 / kept
    exact, single = (interpolated.divergence(z, noised, weights) for z in (logits.double(), logits))
    torch.testing.assert_close(single[1] * weights, exact[1] * weights, rtol=1e-4, atol=1e-4)
    head, hidden = nn.Linear(D, V), torch.randn(N, D)
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = Chunked().interpolated(head, hidden, some_tokens(), torch.ones(N))
    assert (loss.dtype, terms.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(terms, plain(head(hidden), some_tokens()).detach(), rtol=0.05, atol=0.05)


def test_no_rows_keep_the_parameters_in_the_graph() -> None:
    head, nothing = nn.Linear(D, V), torch.empty(0, dtype=torch.int64)
    noise_law = NoiseLaw(torch.empty(0).double(), torch.empty(0).double(), K)
    hidden = torch.randn(0, D, requires_grad=True)
    total, terms = Chunked().interpolated(head, hidden, NoisedTokens(nothing, nothing, noise_law), torch.empty(0))
    total.backward()
    assert len(terms) == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_ways_that_know_cross_entropies_only_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CutCrossEntropy, "__post_init__", lambda self: None)
    loss: HeadLoss = CutCrossEntropy()
    with pytest.raises(ValueError, match=r"CutCrossEntropy computes cross-entropies.*use head_loss=Chunked"):
        loss.interpolated(nn.Linear(D, V), torch.randn(N, D), some_tokens(), torch.ones(N))


def test_a_backbone_and_its_logits_give_one_loss() -> None:
    """The chunked way through `hidden` and `head`, and that of a callable with all logits."""
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(V, width=8, num_layers=1, num_heads=2).double()
    process, x_0 = HybridProcess(V - 1, K, 0.3), torch.randint(K, (3, 7))
    losses = [
        NELBO()(as_denoiser(model, Chunked(3 * V)), process, x_0, random=RowRandom.from_seed(1, 3))
        for model in (backbone, lambda tokens: backbone(tokens))
    ]
    torch.testing.assert_close(losses[0].loss, losses[1].loss)
    torch.testing.assert_close(losses[0].nelbo, losses[1].nelbo)
    grads = [torch.autograd.grad(loss.loss, list(backbone.parameters())) for loss in losses]
    torch.testing.assert_close(*grads)


def test_leave_one_out_takes_the_evidence_of_the_noised_token_away() -> None:
    """By Bayes' rule, for logits with any shift; a mask is no evidence."""
    noised = some_tokens()
    xhat = torch.rand(N, K, dtype=torch.float64).softmax(-1)
    a, u = (part[:, None] for part in noised.noise_law[:2])
    own = a * torch.eye(V, dtype=torch.float64)[noised.tokens][:, :K] + u
    posterior = (xhat * torch.where((noised.tokens < K)[:, None], own, 1.0)).log() + 7.0
    found = leave_one_out(posterior, noised.tokens, noised.noise_law)
    torch.testing.assert_close(found.softmax(-1), xhat)

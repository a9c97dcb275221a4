"""MDLM's own loss and sampling, as its file ``diffusion.py`` has them, on this library's network.

The class is loaded from its file and its methods are called unchanged, on an instance that is put together by hand.
What that file imports and these methods don't use (its networks, which need flash-attn; its data; hydra) is replaced by
empty modules.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from benchmarks.peers_loading import Pair, loaded
from benchmarks.results import must_equal
from benchmarks.train_step import Problem
from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.process import MaskingProcess
from llada.samplers import ancestral

STEPS, ROWS, LENGTH = 128, 2, 128
WORDS, SHORT, DRAWS = 3, 3, 2000
"""Of the law that is compared before sampling is timed: 27 texts."""


class _OfNoise(nn.Module):
    """A network as MDLM calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Logits of all positions, in memory of their own: MDLM writes into them."""
        logits: Tensor = self.network(tokens)
        return logits


@contextmanager
def _stand_ins(checkout: Path) -> Iterator[None]:
    """The modules that ``diffusion.py`` imports: its own noise, and nothing in the place of the others."""
    names = ("hydra", "hydra.utils", "dataloader", "models", "utils")
    stands = {name: ModuleType(name) for name in names}
    stands["hydra"].utils = stands["hydra.utils"]  # type: ignore[attr-defined]
    stands["utils"].print_nans = lambda tensor, name: None  # type: ignore[attr-defined]
    stands["noise_schedule"] = loaded(checkout / "noise_schedule.py")
    before = {name: sys.modules.get(name) for name in stands}
    sys.modules.update(stands)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def diffusion(checkout: Path, network: nn.Module, vocab_size: int, rows: int, length: int) -> Any:
    """An instance of MDLM's class around a network whose last token is the mask, with its published settings."""
    with _stand_ins(checkout):
        module = loaded(checkout / "diffusion.py")
        made = object.__new__(module.Diffusion)
        LightningModule.__init__(made)
        noise = sys.modules["noise_schedule"].LogLinearNoise()
    config = SimpleNamespace(
        model=SimpleNamespace(length=length),
        noise=SimpleNamespace(type="loglinear"),
        loader=SimpleNamespace(eval_batch_size=rows),
        sampling=SimpleNamespace(steps=STEPS, noise_removal=True),
    )
    for name, value in {
        "config": config, "backbone": _OfNoise(network), "noise": noise, "vocab_size": vocab_size,
        "mask_index": vocab_size - 1, "parameterization": "subs", "time_conditioning": False, "T": 0,
        "sampler": "ddpm_cache", "antithetic_sampling": True, "importance_sampling": False,
        "change_of_variables": False, "sampling_eps": 1e-3, "neg_infinity": -1_000_000.0,
    }.items():  # fmt: skip
        setattr(made, name, value)
    return made


def loss(checkout: Path, problem: Problem) -> Pair:
    """The loss of MDLM's training step."""
    model, tokens = problem.model, problem.tokens
    made = diffusion(checkout, model, model.vocab_size, *tokens.shape)
    everywhere = torch.ones_like(tokens)

    def theirs() -> Tensor:
        total: Tensor = made._loss(tokens, everywhere).loss
        return total

    with torch.no_grad():
        torch.manual_seed(3)
        found = float(theirs())
        torch.manual_seed(3)
        t = made._sample_t(len(tokens), tokens.device)
        sigma, slope = made.noise(t)
        noisy = made.q_xt(tokens, 1 - torch.exp(-sigma[:, None]))
        masked = noisy == model.vocab_size - 1
        weights = (slope / torch.expm1(sigma))[:, None].expand_as(masked)[masked]
        ours, _ = as_denoiser(model).weighted_nll(noisy, tokens, masked, weights, suppressed=model.vocab_size - 1)
    difference = must_equal("MDLM's loss", abs(float(ours) / tokens.numel() - found) / found, 1e-5)
    return theirs, problem.ours, difference


def sampling(checkout: Path, problem: Problem) -> Pair:
    """MDLM's sampling with its cache, against ancestral sampling of as many steps."""
    model = problem.model.eval()
    made = diffusion(checkout, model, model.vocab_size, ROWS, LENGTH)
    canvas, process = torch.full((ROWS, LENGTH), model.vocab_size - 1), MaskingProcess(model.vocab_size - 1)
    sampler = ancestral(steps=STEPS)
    seeds = iter(range(10**9))
    return made._sample, lambda: sampler(model, canvas, process, seed=next(seeds)).tokens, law_gap(checkout)


def law_gap(checkout: Path) -> float:
    """How far both laws of a tiny model's texts are apart, in standard deviations of that number if they are equal.

    Raises:
        SystemExit: if it is more than 4.
    """
    torch.manual_seed(0)
    tiny = BidirectionalTransformer(WORDS + 1, width=8, num_layers=1, num_heads=2).eval()
    with torch.no_grad():
        tiny.head.weight.mul_(3.0)
    theirs = diffusion(checkout, tiny, WORDS + 1, DRAWS, SHORT)._sample()
    ours = ancestral(steps=STEPS)(tiny, torch.full((DRAWS, SHORT), WORDS), MaskingProcess(WORDS), seed=1).tokens
    places = WORDS ** torch.arange(SHORT)
    first, second = (torch.bincount(text @ places, minlength=WORDS**SHORT).double() for text in (theirs, ours))
    both = first + second
    seen = both > 0
    square = ((first - second).square()[seen] / both[seen]).sum()  # chi-square with one degree less than texts
    freedom = int(seen.sum()) - 1
    return must_equal("MDLM's law", max(0.0, float(square) - freedom) / math.sqrt(2 * freedom), 4.0)

"""The autoregressive twin of the demo's model: the same network, rows and optimiser, from left to right.

    python examples/demo_twin.py --folder demo        (after `make demo`; `make duel` does it where it hasn't been done)

It leaves ``twin.ckpt`` in the folder, which later runs read: the weights that were best on held-out text, at which it
looks four times. A next-token model of this size soon learns so little text by heart, which the diffusion model
doesn't, so its steps are few (docs/duel.md has other numbers of them), and its rate falls to 0 over these. Rows are cut
from a stream of text, so a row may begin anywhere and has no BOS in front: what the twin says nothing of is the first
token, whose law is that of the training text's frequencies.
"""

import argparse
from pathlib import Path

import torch
from demo import build_data, build_network, build_trainer, learning
from torch import Tensor

from llada.autoregressive import AutoregressiveLM
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import NextToken
from llada.text import load

STEPS = 400


def twin(folder: Path, steps: int = STEPS) -> DiffusionLM:
    """The twin from its checkpoint; trained first if there is none.

    Args:
        folder: of the demo.
        steps: of the optimiser, over which the rate falls.
    """
    path = folder / "twin.ckpt"
    if not path.exists():
        print(f"{path} isn't there yet: training the twin, about two minutes", flush=True)
        data = build_data(folder)
        data.prepare_data()
        data.setup("fit")
        torch.manual_seed(0)
        network = build_network(data.vocab_size, causal=True, shift=True)
        model = AutoregressiveLM(network, MaskingProcess(data.mask_token_id), **learning(steps))
        trainer = build_trainer(folder, steps, "twin-unfinished", "twin-logs", monitor="val/bits_per_byte", looks=4)
        trainer.fit(model, data)
        (folder / "twin-unfinished.ckpt").replace(path)
    return load(str(path), device="cpu").model


@torch.no_grad()
def exact_nats(model: DiffusionLM, rows: Tensor, first: Tensor) -> Tensor:
    """Negative log-likelihood of every row, (R,) float64 nats.

    Args:
        model: the twin.
        rows: (R, L) int64.
        first: (V,) float64, probabilities of a row's first token.
    """
    given = torch.zeros_like(rows, dtype=torch.bool)
    given[:, 0] = True
    found = NextToken(temperature=1.0).likelihood(model.backbone, rows, model.process, given=given)
    return -found.log_likelihood - first[rows[:, 0]].log()


def first_law(train_text: Tensor, vocab_size: int) -> Tensor:
    """Frequencies of the training text, each token counted once more than it stands there, (V,) float64."""
    counts = train_text.bincount(minlength=vocab_size).double() + 1.0
    return counts / counts.sum()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="of the demo")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    given = parser.parse_args()
    twin(given.folder, given.steps)
    print(given.folder / "twin.ckpt")

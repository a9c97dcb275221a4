"""The whole idea in one file: learn a language whose every probability is known, and check the model against it.

    python examples/toy_language.py

A Markov chain over rows of six tokens from an alphabet of four has 4^6 = 4096 possible rows, so its entropy and its
whole distribution can be written down. A tiny diffusion language model learns it from samples, in under a minute on one
core. Then two numbers say how good it is:

- the bound on -log p(row), whose expectation no model brings below the entropy;
- the total variation distance between the rows that it writes and the truth, next to that of as many rows drawn from
  the truth itself, which is the error of counting.
"""

import argparse
from functools import partial

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import NELBO, BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.cli.quiet import quiet
from llada.data import ToyLanguage
from llada.objectives import ExactCounts
from llada.samplers import low_confidence, random_remasking
from llada.training.lr_schedulers import WarmupCosine

ALPHABET, LENGTH, BATCH = 4, 6, 64
MASK, BEGIN = ALPHABET, ALPHABET + 1
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def train(language: ToyLanguage, steps: int) -> DiffusionLM:
    """Fit a small Transformer to fresh samples of the language."""
    model = DiffusionLM(
        BidirectionalTransformer(ALPHABET + 2, width=64, num_layers=2, num_heads=4),
        MaskingProcess(MASK),
        objective=NELBO(ExactCounts()),  # the bound with an exact number of masks, so with less noise
        # One token per step at temperature 1 samples from the model: every conditional is used as it is.
        sampler=random_remasking(steps=LENGTH, suppress_tokens=(BEGIN,)),
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        lr_scheduler=partial(WarmupCosine, warmup_steps=steps // 10, total_steps=steps, final_factor=0.0),
    )
    trainer = Trainer(accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(model, batches(language, steps * BATCH))
    return model


def begin(rows: Tensor) -> Tensor:
    """Put a token of its own in front: rotary attention sees distances only, and this tells it where a row begins."""
    return torch.nn.functional.pad(rows, (1, 0), value=BEGIN)


def batches(language: ToyLanguage, num_rows: int) -> DataLoader[dict[str, Tensor]]:
    """Fresh samples. Any loader of dictionaries with ``tokens`` will do; ``maskable`` spares the first one."""
    maskable = torch.arange(1 + LENGTH) > 0
    rows = begin(language.sample(num_rows))
    return DataLoader([{"tokens": row, "maskable": maskable} for row in rows], batch_size=BATCH)


def total_variation(language: ToyLanguage, rows: Tensor) -> float:
    """Half the sum of |frequency - probability| over all possible rows: 0 if equal, 1 if disjoint."""
    frequency = torch.bincount(language.index(rows), minlength=len(language.rows)) / len(rows)
    return float((frequency - language.probabilities.flatten()).abs().sum() / 2)


@quiet()
def main(steps: int, num_rows: int) -> None:
    """Train, then compare with the truth."""
    torch.manual_seed(0)
    language = ToyLanguage.markov(vocab_size=ALPHABET, length=LENGTH, concentration=0.3)
    model = train(language, steps)
    held_out = batches(language, num_rows)
    result = Trainer(accelerator="cpu", logger=False, **QUIET).validate(model, held_out, verbose=False)[0]
    nats, error = result["val/nll"] * LENGTH, result["val/nll_se"] * LENGTH
    print(f"entropy of the language     {language.entropy():.3f} nats per row")
    print(f"bound of the model          {nats:.3f} +- {error:.3f}")

    canvas = begin(torch.full((num_rows, LENGTH), MASK))
    print(f"\ndistance of {num_rows} rows from the truth (total variation)")
    print(f"the language itself         {total_variation(language, language.sample(num_rows)):.3f}")
    for title, sampler in (
        ("one token per step", None),
        ("three at once", random_remasking(steps=2, suppress_tokens=(BEGIN,))),
        ("most confident first", low_confidence(steps=LENGTH, temperature=1.0, suppress_tokens=(BEGIN,))),
    ):
        rows = model.generate(canvas, sampler=sampler).tokens[:, 1:]
        print(f"{title:<27} {total_variation(language, rows):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--num_rows", type=int, default=10_000, help="rows to score and to write")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.num_rows)

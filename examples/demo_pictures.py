"""The demo's two pictures: the loss curve, and how samples come out of the masks."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from llada.data import Tokenizer
from llada.module import DiffusionLM
from llada.samplers import random_remasking


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


def draw_denoising(model: DiffusionLM, tokenizer: Tokenizer, path: Path) -> None:
    """Two samples coming out of the masks: a text in any order, and one between fixed ends.

    A token keeps its place from the first canvas to the last; what the latest steps wrote is green.

    Args:
        model: to sample from, one token per step.
        tokenizer: of the model.
        path: of the PNG.
    """
    begin, mask = [tokenizer.special_id("bos")], [model.process.mask_token_id]
    strips = [
        ("In any order", begin + tokenizer.encode("Jesus said to") + mask * 44),
        (
            "Between fixed ends, which a model that writes from left to right can't do",
            begin + tokenizer.encode("Then Jesus came") + mask * 18 + tokenizer.encode(" into the house."),
        ),
    ]
    figure, all_axes = plt.subplots(2, 1, figsize=(9.4, 5), height_ratios=(3, 2), layout="constrained")
    for axes, (title, ids) in zip(all_axes, strips, strict=True):
        tokens = torch.tensor([ids])
        steps = model.iterate(tokens, seed=3, sampler=random_remasking(temperature=0.7))
        canvases = [tokens[0], *(step.tokens[0] for step in steps)]
        shown = [canvases[round(i * (len(canvases) - 1) / 4)].tolist() for i in range(5)]
        pieces = [tokenizer.decode([token]).replace("\n", " ") for token in shown[-1]]
        lines = _cells(pieces, width=114)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_axis_off()
        axes.set(xlim=(0, 115), ylim=(5 * (lines[-1][1] + 1.6), 0))
        for number, canvas in enumerate(shown):
            before = shown[max(0, number - 1)]
            _draw_canvas(axes, number * (lines[-1][1] + 1.6) + 0.5, canvas, before, pieces, lines, mask[0])
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _cells(pieces: list[str], width: int) -> list[tuple[int, int]]:
    """Column and line of each piece of a text."""
    cells, column, line = [], 0, 0
    for piece in pieces:
        if column + len(piece) > width:
            column, line = 0, line + 1
        cells.append((column, line))
        column += len(piece)
    return cells


def _draw_canvas(
    axes: plt.Axes,
    top: float,
    canvas: list[int],
    before: list[int],
    pieces: list[str],
    cells: list[tuple[int, int]],
    mask: int,
) -> None:
    """One canvas, each token in its cell and in its colour."""
    for token, old, piece, (column, line) in zip(canvas, before, pieces, cells, strict=True):
        text, colour = ("░" * len(piece), "0.75") if token == mask else (piece, "black")
        if token != mask and old == mask:
            colour = "tab:green"
        axes.text(column, top + line, text, color=colour, family="monospace", fontsize=9.5, va="center")

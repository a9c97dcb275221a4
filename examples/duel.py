"""What decoding costs in likelihood: held-out text under each order, against tokens per model call (docs/duel.md).

    make duel            (or: python examples/duel.py --checkpoint demo/model.ckpt, from what `make demo` wrote)

Beside the orders stands the autoregressive twin, which is trained once and then kept (demo_twin.py).

No judge model: every number is the log-probability of the text under the very sampler that would write it, in bits per
byte, and has no other error than that of the choice of rows. Differences to left to right with one token per call are
of the same rows, so their errors are smaller.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from demo import build_data
from demo_twin import exact_nats, first_law, twin
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from llada.module import DiffusionLM
from llada.samplers import (
    Blocks,
    Comb,
    EntropyBound,
    LeftToRight,
    Margin,
    NegativeEntropy,
    Order,
    PerStep,
    Proposal,
    RandomOrder,
    Spread,
    Tied,
    TopProb,
    UnmaskingSampler,
)
from llada.text import load

DRAWN = Proposal(temperature=1.0)
ORDERS: dict[str, Order] = {
    "left to right": LeftToRight(),
    "top probability": TopProb(),
    "margin": Margin(),
    "negative entropy": NegativeEntropy(),
    "random order": RandomOrder(),
    "spread": Spread(),
}

TWIN = "autoregressive twin"


class Line(NamedTuple):
    """A row of the table: bits per byte of held-out text, and the difference to the first line with its error."""

    name: str
    tokens_per_call: float
    bits: float
    error: float
    difference: float
    difference_error: float


def contestants(quick: bool) -> list[tuple[str, UnmaskingSampler]]:
    """Every order at 1, 2, 4 and 8 tokens per call, and what chooses its own amount."""
    counts = (1, 8) if quick else (1, 2, 4, 8)
    made = [
        (name, UnmaskingSampler(PerStep(count), order, proposal=DRAWN))
        for count in counts
        for name, order in ORDERS.items()
        if count == 1 or name != "top probability"
    ]
    made += [
        (f"comb of {stride}", UnmaskingSampler(Tied(), Comb(Margin(), stride), proposal=DRAWN))
        for stride in ((8,) if quick else (8, 16, 32))
    ]
    if not quick:
        made += [
            (f"entropy bound {gamma}", UnmaskingSampler(EntropyBound(gamma), NegativeEntropy(), proposal=DRAWN))
            for gamma in (0.5, 2.0)
        ]
        blocks = Blocks(8)
        made += [("blocks of 8, margin", UnmaskingSampler(PerStep(4), Margin(), proposal=DRAWN, window=blocks))]
    return made


class Text(NamedTuple):
    """Rows (R, 64) of held-out chapters, bytes per token, and the law of a row's first token, (V,)."""

    rows: Tensor
    bytes_per_token: float
    first: Tensor


def held_out(checkpoint: Path, num_rows: int, seed: int) -> Text:
    """Some rows, by chance."""
    data = build_data(checkpoint.parent)  # its tokens, or made again
    data.prepare_data()
    data.setup("fit")
    train = torch.as_tensor(data.rows("train").file.tokens[:].astype("int64"))
    file = data.rows("val").file
    tokens = torch.as_tensor(file.tokens[:].astype("int64"))
    rows = tokens[: len(tokens) // data.max_length * data.max_length].view(-1, data.max_length)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:num_rows]
    return Text(rows[chosen], float(file.bytes_per_token), first_law(train, data.vocab_size))


@torch.no_grad()
def run(model: DiffusionLM, rows: Tensor, sampler: UnmaskingSampler) -> tuple[Tensor, float]:
    """Nats of every row, (R,), and tokens per call."""
    parts = rows.split(32)
    results = [
        sampler.likelihood(model.backbone, part, model.process, seed=32 * index) for index, part in enumerate(parts)
    ]
    nats = torch.cat([-result.log_likelihood for result in results])
    return nats, rows.numel() / float(sum(result.calls.sum() for result in results))


def measure(model: DiffusionLM, other: DiffusionLM, text: Text, quick: bool, only: str | None = None) -> list[Line]:
    """The lines; the first is what the others are compared with.

    Args:
        model: the diffusion model.
        other: its autoregressive twin.
        text: what is scored.
        quick: one and eight tokens per call only.
        only: name of the lines to measure beside the first; all of them if None.
    """
    to_bits = 1.0 / (text.rows.shape[1] * text.bytes_per_token * math.log(2.0))
    lines: list[Line] = []
    first = torch.zeros(len(text.rows), dtype=torch.float64)

    def add(name: str, nats: Tensor, tokens_per_call: float) -> None:
        nonlocal first
        bits = nats * to_bits
        first = first if lines else bits
        values = [value for each in (bits, bits - first) for value in (float(each.mean()), _error(each))]
        lines.append(Line(name, tokens_per_call, *values))
        print(row_of(lines[-1]), flush=True)

    for name, sampler in contestants(quick):
        if not lines or only in (None, name):
            add(name, *run(model, text.rows, sampler))
    if only in (None, TWIN):
        add(TWIN, torch.cat([exact_nats(other, part, text.first) for part in text.rows.split(32)]), 1.0)
    return lines


def complete(lines: list[Line], path: Path) -> list[Line]:
    """The table of an earlier run, with these lines in the place of its own, and new ones behind.

    Args:
        lines: the first is the first of the table, too.
        path: of the earlier run's numbers.

    Raises:
        ValueError: if the first lines differ, which are the same for the same model and rows.
    """
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    earlier = [Line(name, *map(float, numbers)) for name, *numbers in rows]
    if not math.isclose(earlier[0].bits, lines[0].bits, rel_tol=1e-6):
        raise ValueError(
            f"{path} is of another model or of other rows: its first line has {earlier[0].bits:.6f} bits per byte, "
            f"and here it has {lines[0].bits:.6f}; measure all lines anew, without --only"
        )
    fresh = {(line.name, round(line.tokens_per_call, 3)): line for line in lines}
    return [*(fresh.pop((each.name, round(each.tokens_per_call, 3)), each) for each in earlier), *fresh.values()]


def _error(values: Tensor) -> float:
    """Standard error of the mean over rows."""
    return float(values.std()) / len(values) ** 0.5


def row_of(line: Line) -> str:
    """A line of the table."""
    difference = f"{line.difference:+.3f} ± {line.difference_error:.3f}"
    return f"| {line.name} | {line.tokens_per_call:.1f} | {line.bits:.3f} ± {line.error:.3f} | {difference} |"


def markdown(lines: list[Line]) -> str:
    """The table."""
    head = ["| order | tokens per call | bits per byte | difference to the first |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *map(row_of, lines)]) + "\n"


def draw(lines: list[Line], path: Path) -> None:
    """Bits per byte against tokens per call, a line per order."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in dict.fromkeys(line.name for line in lines):
        group = [line for line in lines if line.name == name]
        group = [each for each in lines if each.name.startswith("comb")] if name.startswith("comb") else group
        group.sort(key=lambda line: line.tokens_per_call)
        label = "comb" if name.startswith("comb") else name
        if label in axes.get_legend_handles_labels()[1]:
            continue
        x, y, e = (
            [getattr(line, field) for line in group] for field in ("tokens_per_call", "bits", "difference_error")
        )
        if name == TWIN:
            axes.axhline(y[0], color="0.4", linestyle="--", label=f"{TWIN}, one per call")
            continue
        axes.errorbar(x, y, yerr=e, marker="o", capsize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    title = "Tokens far apart are written together at next to no cost, neighbours aren't"
    axes.set(xlabel="tokens per model call", ylabel="bits per byte, exact", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=85)
    plt.close(figure)


def main(checkpoint: Path, out: Path, num_rows: int, seed: int, quick: bool, only: str | None = None) -> list[Line]:
    """Measure, write, draw."""
    out.mkdir(parents=True, exist_ok=True)
    model = load(str(checkpoint), device="cpu").model
    lines = measure(model, twin(checkpoint.parent), held_out(checkpoint, num_rows, seed), quick, only)
    if only is not None and (out / "duel.csv").exists():
        lines = complete(lines, out / "duel.csv")
    (out / "duel.md").write_text(markdown(lines), encoding="utf-8")
    with (out / "duel.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([Line._fields, *lines])
    draw(lines, out / "duel.png")
    print(f"{out / 'duel.md'}\n{out / 'duel.csv'}\n{out / 'duel.png'}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/model.ckpt"), help="of examples/demo.py")
    parser.add_argument("--out", type=Path, default=Path("duel"), help="where table, numbers and picture go")
    parser.add_argument("--num-rows", type=int, default=16, help="rows of held-out text")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows")
    parser.add_argument("--quick", action="store_true", help="one and eight tokens per call only")
    names = [*dict(contestants(quick=False)), TWIN]
    kept = "measure these lines and the first; others stay as duel.csv in --out has them"
    parser.add_argument("--only", metavar="NAME", choices=names, help=kept)
    given = parser.parse_args()
    main(given.checkpoint, given.out, given.num_rows, given.seed, given.quick, given.only)

"""The picture of rewards.py: questions solved in training against processor time, for the runs that were kept.

    python examples/rewards_picture.py runs/sudoku --out sudoku.png

A line is a run; its dots are the shares of held-out questions before and after, with three standard errors, its squares
those of cells that are filled one by one.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"trajectory": "C0", "diffu_grpo": "C1"}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Write the picture.

    Args:
        runs: as `rewards.run` keeps them.
        path: of the picture.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for run in runs:
        color = COLORS.get(run["method"], "C2")
        _, shares, seconds = zip(*run["curve"], strict=True)
        axes.plot([each / 60 for each in seconds], shares, color=color, alpha=0.7)
        for name, mark in (("", "o"), ("_one", "s")):
            for at, (share, error) in ((0.0, run[f"before{name}"]), (run["seconds"] / 60, run[f"after{name}"])):
                axes.errorbar(at, share, 3 * error, fmt=mark, color=color, capsize=3)
    axes.axhline(0.95, color="0.5", linestyle="--", linewidth=1)
    axes.set(xlabel="processor minutes of learning from rewards", ylabel="share of questions solved", ylim=(0, 1))
    axes.grid(alpha=0.3)
    for method, seeds in sorted(Counter(run["method"] for run in runs).items(), reverse=True):
        axes.plot([], [], color=COLORS.get(method, "C2"), label=f"{method}, {seeds} seed{'s' * (seeds > 1)}")
    axes.legend(loc="lower right")
    axes.set_title(
        f"From {_span(runs, 'before_one')} to {_span(runs, 'after_one')} solved, one by one, by reward alone"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _span(runs: list[dict[str, Any]], which: str) -> str:
    shares = [100 * run[which][0] for run in runs]
    least, most = round(min(shares)), round(max(shares))
    return f"{least} %" if least == most else f"{least}-{most} %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="--folder of rewards.py; one or several")
    parser.add_argument("--out", type=Path, default=Path("sudoku.png"), help="the picture")
    given = parser.parse_args()
    files = [file for folder in given.folders for file in sorted(folder.glob("*.json"))]
    if not files:
        raise SystemExit(f"no runs are kept in {', '.join(map(str, given.folders))}; begin with examples/rewards.py")
    kept = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    tasks = sorted({run["task"] for run in kept})
    if len(tasks) > 1:
        raise SystemExit(f"a picture is of one task; there are runs of {' and '.join(tasks)}")
    draw(kept, given.out)

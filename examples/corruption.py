"""What noise does to a text: a sentence at five times, and how fast three schedules mask it. Seconds.

    python examples/corruption.py --picture corruption.png

A row's random numbers belong to its places and not to the time, so a word that is masked at one time is masked at all
later ones: the process forgets, and never changes its mind.
"""

import argparse
from pathlib import Path

import torch

from llada import LinearSchedule, MaskingProcess, RowRandom
from llada.noise import CosineSchedule, PolynomialSchedule

SENTENCE = "the boat went down the river and nobody on the hill saw where it came to rest"
TEXT = SENTENCE.split()
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
SCHEDULES = {"linear (LLaDA)": LinearSchedule(), "cosine": CosineSchedule(), "1 - t^3": PolynomialSchedule(3.0)}


def lines(seed: int) -> list[str]:
    """The text at each of the times, under LLaDA's schedule."""
    words = torch.arange(len(TEXT)).expand(len(TIMES), -1)
    random = RowRandom.from_seed(torch.full((len(TIMES),), seed), num_rows=len(TIMES))  # the same row at each time
    noised = MaskingProcess(len(TEXT)).corrupt(words, torch.tensor(TIMES), random=random)
    return [" ".join([*TEXT, ""][i] or "_" * len(TEXT[j]) for j, i in enumerate(row)) for row in noised.tokens.tolist()]


def draw(shown: list[str], path: Path) -> None:
    """Curves on the left, the text on the right."""
    import matplotlib.pyplot as plt

    figure, (curves, text) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(2, 5), layout="constrained")
    times = torch.linspace(0, 1, 101)
    for name, schedule in SCHEDULES.items():
        curves.plot(times, schedule.alpha(times), label=name)
    curves.set(xlabel="t", ylabel="alpha(t)", title="Share of tokens kept")
    curves.legend(fontsize=8)
    text.set_axis_off()
    text.set_title("What is masked stays masked", loc="left")
    for number, (time, line) in enumerate(zip(TIMES, shown, strict=True)):
        height = 0.86 - 0.18 * number
        text.text(0.0, height, f"t = {time}   {line}", family="monospace", fontsize=8.5, transform=text.transAxes)
    figure.savefig(path, dpi=150)


def main(seed: int, picture: Path | None) -> None:
    """Print the text at each time, and how much of it each schedule has kept by then."""
    shown = lines(seed)
    for time, line in zip(TIMES, shown, strict=True):
        kept = "  ".join(f"{name} {float(s.alpha(torch.tensor(time))):.2f}" for name, s in SCHEDULES.items())
        print(f"t = {time}  {line}\n         kept: {kept}")
    if picture is not None:
        draw(shown, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--picture", type=Path, help="file for the picture (needs matplotlib)")
    arguments = parser.parse_args()
    main(arguments.seed, arguments.picture)

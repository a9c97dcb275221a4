"""Why backpropagation: the gradient of LLaDA's loss in four ways, their agreement, cost and memory, measured.

    python examples/why_backpropagation.py            # about ten minutes on one core
    python examples/why_backpropagation.py --quick    # under two minutes, smaller models

Writes the tables and the plot of docs/why-backpropagation.md, and fails if one of the claims at the end doesn't hold.
Times are processor time of one thread in single precision, medians of 20 runs where nothing else is said. Noise levels
and masks are drawn once. "Extrapolated" is the measured time of 64 entries of a gradient, times N / 64.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from gradient_costs import TARGET, Law, Memory, Size, crossings, laws, measure_size, memory, slope
from gradient_errors import Agreement, Descent, Valley, agreement, curves, one_direction, valleys

Shape = tuple[int, int]
"""Width and layers."""


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    exact: Shape = (16, 2)
    """The model whose whole gradient is computed in every way."""
    counts: tuple[int, ...] = (128, 512, 2048, 0)
    """Parameters that are differentiated in it; 0 for all."""
    sizes: tuple[Shape, ...] = ((16, 2), (32, 2), (64, 4), (128, 6), (256, 12))
    """The models whose cost is extrapolated."""
    deep: Shape = (64, 16)
    """The model whose memory is measured."""
    tiny: Shape = (8, 1)
    """The model that is trained."""
    steps: int = 10
    """Of training."""


QUICK = Plan((4, 1), (64, 256, 0), ((8, 1), (16, 2), (32, 2)), (16, 4), (4, 1), 3)


@dataclass(frozen=True)
class Results:
    """All that was measured."""

    plan: Plan
    agreement: Agreement
    laws: list[Law]
    counts: list[int]
    sizes: list[Size]
    valleys: list[Valley]
    memory: list[Memory]
    descent: Descent
    random_direction: tuple[float, float]


def measure(plan: Plan) -> Results:
    """Run everything."""
    return Results(
        plan,
        agreement(plan.exact),
        *laws(plan.exact, plan.counts),
        [measure_size(*shape) for shape in plan.sizes],
        valleys(plan.exact),
        memory(*plan.deep),
        curves(plan.tiny, plan.steps),
        one_direction(plan.exact),
    )


def markdown(r: Results) -> str:
    """The tables."""
    a = r.agreement
    parts = [
        f"## Agreement\n\nN = {a.count}, of which the batch touches {a.touched}. The loss differs from that of "
        f"`llada_pretraining` by {a.library:.0e}.\n",
        table(
            ["method", "float64", "float32"],
            [[name, f"{double:.0e}", f"{single:.0e}"] for name, (double, single) in a.errors.items()],
        ),
        f"\n{r.plan.steps} steps of gradient descent: the losses differ from those of reverse mode by at most "
        + ", ".join(f"{error:.0e} ({name})" for name, error in r.descent.deviation().items())
        + ".\n\n64 random directions instead of N: relative error of the gradient "
        f"{r.random_direction[0]:.1f}, expected {r.random_direction[1]:.1f}.\n\n## Whole gradients, measured\n",
        table(
            ["seconds", *(f"N = {count}" for count in r.counts), "slope"],
            [[law.method, *map(seconds, law.seconds), f"{law.slope:.2f}"] for law in r.laws],
        ),
        "\n## Larger models\n",
        sizes_table(r.sizes),
        "\n## Ten million\n",
        table(
            ["N at which the extrapolated ratio is 10,000,000", "by operations", "by the times of the largest model"],
            [[name, f"{ops:.1e}", f"{times:.1e}"] for name, (ops, times) in crossings(r.sizes[-1]).items()],
        ),
        "\n## Error of finite differences\n",
        table(
            ["", "best step", "predicted", "its error"],
            [
                [f"{kind}, {v.dtype}", f"{step:.1e}", f"{guess:.1e}", f"{error:.0e}"]
                for v in r.valleys
                for kind, (step, error), guess in zip(("one-sided", "central"), v.best(), v.predicted, strict=True)
            ],
        ),
        f"\n## Memory, {r.plan.deep[1]} layers of width {r.plan.deep[0]}\n",
        memory_table(r.memory),
    ]
    return "\n".join(parts) + "\n"


def sizes_table(sizes: list[Size]) -> str:
    """Costs of a model, and the ratio to reverse mode, which is extrapolated."""
    head = ["N", "value, ms", "with gradient", "with one JVP", "operations: gradient, JVP"]
    methods = list(sizes[0].entry)
    rows = [
        [
            f"{s.count:,}",
            *(
                f"{1e3 * t.median:.1f} ({1e3 * t.low:.1f} to {1e3 * t.high:.1f})"
                for t in (s.value, s.gradient, s.tangent)
            ),
            f"{s.reverse_flops:.2f}, {s.forward_flops:.2f}",
            *(f"{s.ratio(method):.1e}" for method in methods),
        ]
        for s in sizes
    ]
    return table([*head, *(f"{method} ÷ reverse (extrapolated)" for method in methods)], rows)


def memory_table(lines: list[Memory]) -> str:
    """Bytes against what is computed again."""
    plain = lines[0]
    return table(
        ["kept", "saved, MB", "with a segment, MB", "time ÷ everything kept", "operations ÷ value", "same bits"],
        [
            [
                m.name,
                f"{m.saved / 1e6:.2f}",
                f"{m.peak / 1e6:.2f}",
                f"{m.time.median / plain.time.median:.2f}",
                f"{m.flops:.2f}",
                "yes" if m.identical else "no",
            ]
            for m in lines
        ],
    )


def seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def claims(r: Results) -> dict[str, bool]:
    """What the page says, and whether it is so here."""
    perturbing = [law for law in r.laws if law.method != "reverse mode"]
    (back,) = (law for law in r.laws if law.method == "reverse mode")
    relative = slope([s.count for s in r.sizes], [s.gradient.median / s.value.median for s in r.sizes])
    double, single = r.valleys
    close = [
        abs(math.log10(step / guess)) < 1.0
        for v in (double, single)
        for (step, _), guess in zip(v.best(), v.predicted, strict=True)
    ]
    return {
        "the loss is that of the library to rounding": r.agreement.library < 1e-14,
        "forward mode gives reverse mode's gradient to rounding": r.agreement.errors["forward mode"][0] < 1e-12,
        "central differences give it to 1e-6": r.agreement.errors["central difference"][0] < 1e-6,
        "one entry at a time costs time in proportion to N": all(0.85 < law.slope < 1.15 for law in perturbing[:3]),
        "reverse mode costs the same for any number of entries": abs(back.slope) < 0.15,
        "its price in forward passes doesn't grow with N as theirs does": relative < 0.3,
        "value and gradient take three times the operations of the value": all(
            abs(s.reverse_flops - 3.0) < 0.1 for s in r.sizes
        ),
        "the best steps are within a factor of ten of the prediction": all(close),
        "checkpoints save memory and leave every bit of the gradient": all(
            m.identical and m.saved < r.memory[0].saved for m in r.memory[1:]
        ),
        "training curves coincide to 1e-6": max(r.descent.deviation().values()) < 1e-6,
    }


def main(out: Path, quick: bool) -> int:
    """Measure, write, draw; the exit status says whether the claims hold."""
    from gradient_pictures import draw

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    results = measure(QUICK if quick else Plan())
    text = markdown(results)
    (out / "tables.md").write_text(text, encoding="utf-8")
    draw(results, TARGET, out / "why-backpropagation.png")
    print(text)
    held = claims(results)
    for claim, holds in held.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/why_backpropagation"), help="where tables and plot go")
    parser.add_argument("--quick", action="store_true", help="smaller models, under two minutes")
    given = parser.parse_args()
    sys.exit(main(given.out, given.quick))

"""The same grid of learning rates and rows per step for every recipe whose price is told; one seed, apart from theirs.

python -m examples.claims.tuning            (about two minutes of one core)
"""

from dataclasses import replace

from examples.claims.levers import BLOCKS, TOGETHER, TWIN
from examples.claims.report import Report, command_line
from examples.claims.text import Text
from examples.claims.text_runs import COST, Runs, Size

RATES = (1e-2, 2e-2, 4e-2)
SIZE, COMPUTE = Size(64, 2), 7.5e10
SEED = 100


def main() -> None:
    """Measure the grid."""
    options = command_line(__doc__, seeds=1)
    report, runs = Report("tuning", [SEED], options.quick), Runs(Text(options.folder), options.folder)
    lines = []
    for arm, compute in ((TWIN, COMPUTE / 2), (TOGETHER, COMPUTE), (BLOCKS, COMPUTE)):
        for rows in (2 * arm.rows, arm.rows):
            losses = [runs.nats(replace(arm, rate=rate, rows=rows), SIZE, compute, [SEED]).mean() for rate in RATES]
            lines.append([arm.name, f"{compute:.2g}", rows, *(f"{loss:.3f}" for loss in losses)])
    report.table("Nats per token", ["recipe", "operations", "rows per step", *map(str, RATES)], lines)
    report.table("Cost", COST, [runs.cost()])
    report.finish(options.folder)


if __name__ == "__main__":
    main()

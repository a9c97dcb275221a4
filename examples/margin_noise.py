"""How much of a preference's margin is noise, on the demo's model: VRPO's estimator and exact counts, at equal calls.

    python examples/margin_noise.py --checkpoint demo/model.ckpt

A pair is a beginning of 16 held-out tokens with its own next 48 tokens, and with those of another row. The model is
the demo's after some steps of preferences on rows of its training text; the reference is the demo's. (Where both are
the same model, the margin is 0 for any noise.) The margin of every held-out pair is then estimated again and again,
with eight calls of each network per answer. What is compared is the variance over these estimates, pair by pair, to
that of VRPO's own way, one mask at each of eight independent times. Errors are over pairs.

VRPO's weight 1/t is so large at small t, and these are so rare, that a variance over estimates would say little. With
S_l the log-ratio summed over l masked tokens of n, and Bin(l; n, t) the chance of so many,

    Var = 1/8 [ sum_l E[S_l^2] integral of Bin(l; n, t) / t^2 dt - (sum_l E[S_l] integral of Bin(l; n, t) / t dt)^2 ]

for either answer, so only S_l is drawn, for every l alike, and the integrals are done exactly.
"""

import argparse
import math
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from demo import build_data
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from llada.cli.quiet import quiet
from llada.denoiser import Denoiser, as_denoiser
from llada.module import DiffusionLM
from llada.objectives import ComplementaryPairs, Design, Draw, ExactCounts, FrozenCopy, PreferenceObjective, Sigmoid
from llada.objectives.exact_counts import counted_draw, masked_exactly
from llada.objectives.objective import Batch
from llada.objectives.preference import sides_of
from llada.objectives.preference_reader import AnswerReader
from llada.process import Process
from llada.random import RowRandom
from llada.text import load
from llada.training.callbacks import Preferences

LENGTH, PROMPT, CALLS = 64, 16, 8
PUBLISHED, EARLIEST = "VRPO: independent times and masks", 1e-3
WAYS: dict[str, tuple[Design, int]] = {
    "exact counts, the default": (ExactCounts(), CALLS),
    "exact counts in complementary pairs": (ComplementaryPairs(), CALLS // 2),
}
Pairs = dict[str, Tensor]


def pairs(tokens: Tensor, count: int, seed: int) -> Pairs:
    """Beginnings with their own endings and with those of the next row, as columns of (count, 64)."""
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]]
    others = torch.cat((rows[:, :PROMPT], rows.roll(1, 0)[:, PROMPT:]), 1)
    answer = (torch.arange(LENGTH) >= PROMPT).expand(rows.shape)
    return {"tokens": rows, "maskable": answer, "rejected_tokens": others, "rejected_maskable": answer}


@quiet()
def aligned(reference: DiffusionLM, rows: Pairs, batch: int) -> DiffusionLM:
    """The model after one pass over pairs."""
    torch.manual_seed(0)
    model = DiffusionLM(
        deepcopy(reference.backbone),
        reference.process,
        PreferenceObjective(Sigmoid(beta=0.2), draws=2),
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
    )
    listed = [{name: column[row] for name, column in rows.items()} for row in range(len(rows["tokens"]))]
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, callbacks=[Preferences()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(listed, batch))
    return model.eval()


@torch.no_grad()
def margins(model: DiffusionLM, reference: DiffusionLM, rows: Pairs, design: Design, draws: int, times: int) -> Tensor:
    """Estimates of every pair's margin, (times, P) float64 nats."""
    held = FrozenCopy()
    held.hold(reference.backbone)
    objective = PreferenceObjective(Sigmoid(beta=0.2), held, design, draws)
    seeds = (RowRandom.from_seed(1000 + number, len(rows["tokens"])) for number in range(times))
    found = [objective(model.backbone, model.process, rows, random=random).margins for random in seeds]
    return torch.stack(found)


@dataclass(frozen=True)
class FixedCount(Design):
    """So many masks in each row, and the sum of the masked tokens' log-probabilities."""

    count: int

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        tokens, maskable = batch["tokens"], batch["maskable"]
        count = torch.full(tokens.shape, self.count, dtype=torch.float64)
        masks = masked_exactly(maskable, torch.zeros_like(tokens), count, random)
        return replace(counted_draw(process, batch, maskable, masks, None), bound_weight=torch.ones(len(tokens), 1))


def integrals(size: int, power: int, points: int = 200_001) -> Tensor:
    """Mean over t in [`EARLIEST`, 1] of Bin(l; size, t) / t^power, for l = 1 .. size; (size,) float64."""
    t = torch.logspace(math.log10(EARLIEST), 0.0, points, dtype=torch.float64)
    counts = torch.arange(1, size + 1, dtype=torch.float64)
    law = torch.distributions.Binomial(size, t)
    found = [torch.trapezoid(law.log_prob(count).exp() / t**power, t) for count in counts]
    return torch.stack(found) / (1.0 - EARLIEST)


@torch.no_grad()
def published_variance(model: DiffusionLM, reference: DiffusionLM, rows: Pairs, times: int) -> Tensor:
    """The variance of VRPO's margin, (P,) float64; from ``times`` draws of each count and answer."""
    size = LENGTH - PROMPT
    weights = {power: integrals(size, power)[:, None] for power in (1, 2)}
    total = torch.zeros(len(rows["tokens"]), dtype=torch.float64)
    for side, answer in enumerate(sides_of(rows)):
        sums = torch.empty(size, times, len(total), dtype=torch.float64)
        for place, number in product(range(size), range(times)):
            random = RowRandom.from_seed(2000 + number, len(total)).fold_in(2 * place + side)
            reader = AnswerReader(FixedCount(place + 1), model.process, answer, random, 1)
            found = (reader.bound(as_denoiser(network.backbone), 0)[:, 0] for network in (model, reference))
            sums[place, number] = next(found) - next(found)
        squares = (weights[2] * sums.square().mean(1)).sum(0)
        total += (squares - (weights[1] * sums.mean(1)).sum(0).square()) / CALLS
    return total


def compare(variances: dict[str, Tensor]) -> str:
    """The table, from variances by pair, (P,) each."""
    published = variances[PUBLISHED]
    lines = ["| estimator | variance of the margin, nats² | of VRPO's |", "|---|---:|---:|"]
    for name, each in variances.items():
        ratio = float(each.mean() / published.mean())
        error = float((each - ratio * published).std() / published.mean()) / len(each) ** 0.5
        spread = float(each.std()) / len(each) ** 0.5
        lines.append(f"| {name} | {float(each.mean()):.2f} ± {spread:.2f} | {ratio:.3f} ± {error:.3f} |")
    return "\n".join(lines)


def main(checkpoint: Path, num_pairs: int, times: int, steps: int, batch: int = 8) -> dict[str, Tensor]:
    """Align, estimate, compare.

    Args:
        checkpoint: of the demo.
        num_pairs: held-out pairs.
        times: estimates of each.
        steps: of preferences.
        batch: pairs per step.
    """
    begin = time.process_time()
    data = build_data(checkpoint.parent)
    data.prepare_data()
    data.setup("fit")
    train, held_out = (torch.as_tensor(data.rows(part).file.tokens[:].astype("int64")) for part in ("train", "val"))
    reference = load(str(checkpoint), device="cpu").model.eval()
    model = aligned(reference, pairs(train, steps * batch, 0), batch)
    print(f"{steps} steps in {time.process_time() - begin:.0f} s of processor time", flush=True)
    rows = pairs(held_out, num_pairs, 1)
    variances = {
        PUBLISHED: published_variance(model, reference, rows, max(1, times // 6))
    }  # as many calls as a way has
    for name, (design, draws) in WAYS.items():
        found = margins(model, reference, rows, design, draws, times)
        variances[name] = found.var(0)
        preferred = float((found.mean(0) > 0).double().mean())
        print(f"{name}: mean margin {float(found.mean()):.2f} nats, {100 * preferred:.0f} % above 0", flush=True)
    print(f"\n{compare(variances)}\n{time.process_time() - begin:.0f} s of processor time")
    return variances


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/model.ckpt"), help="of examples/demo.py")
    parser.add_argument("--num_pairs", type=int, default=32, help="held-out pairs")
    parser.add_argument("--times", type=int, default=24, help="estimates of each pair's margin")
    parser.add_argument("--steps", type=int, default=20, help="of preferences, 8 pairs each")
    main(**vars(parser.parse_args()))

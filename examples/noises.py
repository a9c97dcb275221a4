"""Noises side by side: what each costs in bits, and whether random tokens in training let a model mend its answers.

    python examples/noises.py bits         # held-out bits per byte: next token, masks, hybrid, uniform; three seeds
    python examples/noises.py correction   # the planning task: right answers at equal numbers of calls; three seeds

Seven to twelve minutes of processor time each. Every run is kept as a file, so that a study that was stopped goes on
where it was. All models of a seed have the same Transformer, start from the same weights and read the same rows in the
same order; they differ in noise and loss. Intervals are over seeds and items, see `examples/claims/statistics.py`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims.kept import study
from claims.statistics import difference_over_seeds, mean_over_seeds
from claims.text import Text, without_bos
from claims.twins import NEXT_TOKEN, TWINS, Recipe, Rows, Training, fit
from planning import QUICK, Plan, Stars
from torch import Tensor

from llada import DiffusionLM, HybridProcess, MaskingProcess, Process, RowRandom, UniformProcess
from llada.metrics import next_token_log_likelihood
from llada.objectives import NELBO, IndependentMasks, PlainCrossEntropy, UnitWeight
from llada.samplers import Confidence, GibbsSampler, PsiSampler, RemaskingKappa, Sampler, low_confidence
from llada.samplers.rates.remask import RescaledRemasking

BOOKS = ["Matt", "Mrk", "Luk", "John", "Acts"]
OUT = Path("runs/noises")


def processes(recipe: Recipe) -> dict[str, Process]:
    """The noises. Plain cross-entropy is what all of them learn fastest by; the bound is reported beside it."""
    data, mask = recipe.vocab_size, recipe.mask_token_id
    return {
        "masks": MaskingProcess(mask, predicts_mask=False),
        "hybrid": HybridProcess(mask, data, 0.2, posterior=True),
        "uniform": UniformProcess(data, posterior=True),
    }


def make(recipe: Recipe, noise: str, seed: int) -> DiffusionLM:
    """A fresh model; the twin is the next-token model."""
    if noise == "next token":
        return TWINS[NEXT_TOKEN](recipe, seed)
    torch.manual_seed(seed)
    process = processes(recipe)[noise]
    return DiffusionLM(recipe.backbone(), process, PlainCrossEntropy(weight=UnitWeight()), seed=seed)


@torch.no_grad()
def nats(model: DiffusionLM, rows: Tensor, draws: int) -> Tensor:
    """Of each row, behind its first token: exact for the twin, and else the mean of ``draws`` draws of the bound."""
    model.eval()
    maskable = without_bos(rows)
    if model.bound.left_to_right:
        return -next_token_log_likelihood(model.backbone, model.process, rows, maskable)
    batch = {"tokens": rows, "maskable": maskable}
    random = RowRandom.from_seed(0, len(rows))
    bounds = [NELBO(IndependentMasks())(model.backbone, model.process, batch, random=random.fold_in(draw)).nelbo
              for draw in range(draws)]  # fmt: skip
    return torch.stack(bounds).mean(0)


def bits(folder: Path, seeds: int, steps: int = 200, rows: int = 128) -> str:
    """Held-out bits per byte."""
    text = Text(folder, BOOKS)
    recipe = Recipe(text.vocab_size, text.mask_token_id, width=96, num_layers=3, num_heads=4, convolution=3)
    per_row = 63 * text.bytes_per_token * np.log(2.0)

    def run(noise: str, seed: int) -> dict[str, Any]:
        model = make(recipe, noise, seed)
        fit(model, Rows(text.train, without_bos(text.train)), Training(steps, 32), seed)
        return {"bits": (nats(model, text.held_out[:rows], 16) / per_row).tolist()}

    names = ["next token", "masks", "hybrid", "uniform"]
    found: dict[str, list[Any]] = {name: [] for name in names}
    seconds: dict[str, float] = dict.fromkeys(names, 0.0)
    for name, _, result in study(folder / "bits.jsonl", names, seeds, run):
        found[name].append(result.values["bits"])
        seconds[name] += result.seconds / seeds
    lines = ["| noise | bits per byte | more than masks | processor seconds |", "|---|---|---|---:|"]
    for name in names:
        more = str(difference_over_seeds(found[name], found["masks"])) if name != "masks" else ""
        lines.append(f"| {name} | {mean_over_seeds(found[name])} | {more} | {seconds[name]:.0f} |")
    return "\n".join(lines)


def ways(noise: str) -> dict[str, Sampler]:
    """Ways of decoding by the number of calls: at first 2 calls for all tokens, then more to think them over."""
    if noise == "masks":
        made: dict[str, Sampler] = {f"confidence, {calls}": low_confidence(steps=calls) for calls in (1, 2, 3)}
        kappa = RemaskingKappa(RescaledRemasking(0.5))
        return made | {
            f"remasking, {calls}": PsiSampler(calls, temperature=0.2, greedy_tail=True, kappa=kappa)
            for calls in (2, 3, 5, 8)
        }
    options: dict[str, Any] = {"power": 4.0, "temperature": 0.2, "greedy_tail": True, "order": Confidence()}
    passes = {
        f"2 steps, {count} passes": GibbsSampler(2, corrections=count, positions=1, **options) for count in (1, 3, 6)
    }
    plain = PsiSampler(2, power=4.0, temperature=0.2, greedy_tail=True, kappa=RemaskingKappa(RescaledRemasking(0.0)))
    return {"2 steps, 0 passes": plain, **passes}


def asked(model: DiffusionLM, plan: Plan, sampler: Sampler, seed: int) -> tuple[list[float], float]:
    """Whether each test question is answered, and the calls per question."""
    questions, answers = plan.stars.draw(plan.questions, 1000 + seed)
    canvas = torch.cat([questions, torch.full_like(answers, plan.stars.mask)], dim=1)
    given = (torch.arange(canvas.shape[1]) < questions.shape[1]).expand_as(canvas)
    sample = model.generate(canvas, given=given, sampler=sampler, seed=seed)
    right = (sample.tokens[:, questions.shape[1] :] == answers).all(1)
    return right.double().tolist(), float(sample.calls.double().mean())


def correction(folder: Path, seeds: int, steps: int = 600, questions: int = QUICK.questions) -> str:
    """Right answers on the planning task."""
    plan = Plan(Stars(3, 3, 10), Training(steps, 64, 4e-3), tuple(range(seeds)), questions)
    stars = plan.stars
    recipe = Recipe(stars.nodes + 1, stars.mask, width=64, num_layers=3, num_heads=4, convolution=3)

    def run(noise: str, seed: int) -> dict[str, Any]:
        rows = torch.cat(stars.draw(steps * plan.training.batch_size, seed), dim=1)
        maskable = (torch.arange(rows.shape[1]) >= rows.shape[1] - stars.length).expand_as(rows)
        model = fit(make(recipe, noise, seed), Rows(rows, maskable), plan.training, seed)
        return {name: asked(model, plan, sampler, seed) for name, sampler in ways(noise).items()}

    found: dict[str, list[Any]] = {}
    for noise, _, result in study(folder / "correction.jsonl", ["masks", "hybrid"], seeds, run):
        for name in ways(noise):
            found.setdefault(f"{noise}: {name}", []).append(result.values[name])
    lines = ["| model and decoding | calls | right answers, % |", "|---|---:|---|"]
    for name, runs in found.items():
        calls = sum(each[1] for each in runs) / len(runs)
        lines.append(f"| {name} | {calls:.1f} | {mean_over_seeds([each[0] for each in runs]).percent()} |")
    for claim, (better, than) in CLAIMS.items():
        more = difference_over_seeds(*([each[0] for each in found[name]] for name in (better, than)))
        lines.append(f"\n{'holds' if more.above(0.0) else 'does not hold'}: {claim}: {more}")
    return "\n".join(lines)


CLAIMS = {
    "6 passes raise the hybrid model's accuracy": ("hybrid: 2 steps, 6 passes", "hybrid: 2 steps, 0 passes"),
    "3 passes raise the hybrid model's accuracy": ("hybrid: 2 steps, 3 passes", "hybrid: 2 steps, 0 passes"),
    "8 calls of remasking raise the masked model's": ("masks: remasking, 8", "masks: remasking, 2"),
    "with 8 calls the hybrid model is better than remasking": ("hybrid: 2 steps, 6 passes", "masks: remasking, 8"),
    "with 3 calls it is better than masks by confidence": ("hybrid: 2 steps, 1 passes", "masks: confidence, 3"),
    "with 8 calls it is better than masks by confidence": ("hybrid: 2 steps, 6 passes", "masks: confidence, 3"),
}
STUDIES: dict[str, Callable[[Path, int], str]] = {"bits": bits, "correction": correction}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=OUT, help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(STUDIES[options.study](options.out, options.seeds))

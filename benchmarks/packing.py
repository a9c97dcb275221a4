"""Conversations of mixed length: padded, with the padding left out, and packed into full rows.

One pass forward and backward of a fine-tuning loss over the same conversations with the same masks. "Padded" computes
every position and hides padding from attention by a mask; "left out" is the same batch with `attention="auto"`, which
computes real tokens only; "packed" has the conversations in full rows, first fit decreasing, each with its own noise
level and its own share of the loss. The three losses are compared before anything is timed.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.results import Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from llada.backbones import BidirectionalTransformer
from llada.data.batch import AnswerRow, TokenBatch, pad_right
from llada.data.chat.packed_answers import FirstFitDecreasing, PackedAnswers
from llada.data.packing import AnswerRows
from llada.data.token_file import TokenFile, TokenFileWriter
from llada.denoiser import Denoiser
from llada.objectives import NELBO, Batch, Design, Draw, PerRow
from llada.objectives.design import segments_of
from llada.objectives.objective import model_inputs
from llada.process import MaskingProcess, Process
from llada.random import RowRandom


def padded(rows: Sequence[AnswerRow], tokenizer: Any) -> TokenBatch:
    """`llada.data.ExcludedPadding`, with 0 as the padding."""
    tokens, real = pad_right([row.tokens for row in rows], 0)
    starts = torch.tensor([row.answer_start for row in rows])
    maskable = real & (torch.arange(tokens.shape[1]) >= starts[:, None])
    return {"tokens": tokens, "maskable": maskable, "attention_mask": real}


def network(given: Any, attention: str) -> BidirectionalTransformer:
    """The same weights with another attention kernel."""
    torch.manual_seed(0)
    heads = max(1, given.width // 64)
    return BidirectionalTransformer(
        given.vocab, given.width, given.layers, heads, hidden_width=3 * given.width, attention=attention
    )


def conversations(folder: Path, given: Any) -> AnswerRows:
    """Prompts and answers whose lengths are log-normal, cut at the row's length; the longest fills a row."""
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.normal(np.log(given.length / 5), 0.8, given.conversations))
    lengths = lengths.clip(4, given.length).astype(int)
    lengths[0] = given.length
    with TokenFileWriter(folder / "benchmark.tokens", given.vocab, "benchmark") as writer:
        for length in lengths:
            prompt = int(length * generator.uniform(0.2, 0.6))
            for part in (prompt, int(length) - prompt):
                writer.add(generator.integers(1, given.vocab - 1, part))
    return AnswerRows(TokenFile(folder / "benchmark.tokens"), padded, None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Given(Design):
    """Masks and noise levels that were drawn before.

    Args:
        t: (B, L) float64.
        masked: (B, L) bool.
    """

    t: Tensor
    masked: Tensor

    @override
    def __call__(self, model: Denoiser, process: Process, batch: Batch, *, random: RowRandom) -> Draw:
        tokens = batch["tokens"].masked_fill(self.masked, process.mask_token_id)
        weight = process.bound_weight(self.t, tokens, batch["tokens"])
        return Draw(
            *(batch["tokens"], batch["maskable"], tokens, self.masked, self.t, weight, self.t.mean(1)),
            inputs=model_inputs(batch),
            segments=segments_of(batch),
        )


def loss(model: torch.nn.Module, batch: TokenBatch, t: Tensor, masked: Tensor, mask: int) -> Tensor:
    """LLaDA's fine-tuning loss at given noise levels (B, L) and masks."""
    objective = NELBO(Given(t, masked), normaliser=PerRow())
    return objective(model, MaskingProcess(mask), batch, random=RowRandom.from_seed(0, len(t))).loss


def moved(value: Tensor, source: TokenBatch, target: TokenBatch, fill: Any) -> Tensor:
    """A value per position of one batch at the same tokens of another: both list real tokens in the same order."""
    result = torch.full(target["tokens"].shape, fill, dtype=value.dtype)
    everything = torch.ones_like(target["maskable"])
    result[target.get("attention_mask", everything)] = value[source["attention_mask"]]
    return result


def sides(folder: Path, given: Any) -> dict[str, tuple[TokenBatch, Callable[[], Tensor]]]:
    """The batches and their losses."""
    alone = conversations(folder, given)
    packed = PackedAnswers(alone, given.length, FirstFitDecreasing())
    order = [member for row in range(len(packed)) for member in packed.members(row)]
    apart, together = alone.__getitems__(order), packed.__getitems__(list(range(len(packed))))
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(len(order), 1, generator=generator, dtype=torch.float64).clamp(min=0.05)
    t = t.expand(apart["tokens"].shape)
    masked = (torch.rand(t.shape, generator=generator) < t) & apart["maskable"]
    models = {name: network(given, name) for name in ("sdpa", "auto")}
    there = moved(t, apart, together, 1.0), moved(masked, apart, together, False)
    mask = given.vocab - 1
    return {
        "padded": (apart, lambda: loss(models["sdpa"], apart, t, masked, mask)),
        "padding left out": (apart, lambda: loss(models["auto"], apart, t, masked, mask)),
        "packed": (together, lambda: loss(models["auto"], together, *there, mask)),
    }


def step(run: Callable[[], Tensor]) -> None:
    """Forward and backward."""
    run().backward()


def measure(given: Any) -> list[Row]:
    """Lines of the table, one for each side."""
    with tempfile.TemporaryDirectory() as folder:
        found = sides(Path(folder), given)
        values = {name: float(run().detach()) for name, (_, run) in found.items()}
        for name, value in values.items():
            must_equal(f"the loss of what is {name}", abs(value / values["padded"] - 1), 1e-5)
        times = interleave({name: partial(step, run) for name, (_, run) in found.items()}, given.rounds)
    rows = []
    for name, (batch, _) in found.items():
        cpu, wall = times[name]
        positions = batch["tokens"].numel()
        real = int(batch["attention_mask"].sum()) if "attention_mask" in batch else positions
        rows.append({
            "rows are": name, "shape": " x ".join(map(str, batch["tokens"].shape)), "real tokens": real / positions,
            "cpu s": cpu, "wall s": wall, "ratio": times["padded"][0] / cpu,
        })  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, default=8_000)
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    given: Any = parse(parser, arguments)
    rows = measure(given)
    plot = Plot("rows are", "ratio", title="Fine-tuning on mixed lengths: padded / other", goal=1.0)
    return finish(Result("packing", __doc__ or "", rows, plot, [], given.note), given.out)


if __name__ == "__main__":
    main()

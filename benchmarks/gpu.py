"""One GPU: the card's own rates, training of a 1B model, decoding with an 8B-shaped one.

    python -m benchmarks.gpu                        # at most eight minutes on an H200
    python -m benchmarks.gpu --device cpu --tiny    # the whole program in seconds, to see that it runs

All weights are random. What doesn't fit the time or the card's memory, or fails, is left out, and said. Each row is a
line of JSON as soon as it is measured, on the screen and, with --out, in gpu.jsonl: a program that is killed has lost
nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import gpu_card, gpu_decode, gpu_train
from benchmarks.results import Goal, Plot, Result, Row, finish, options, parse


def decoding(machine: gpu_card.Machine, found: gpu_card.Rates, tiny: bool, repeats: int) -> tuple[list[Row], list[Row]]:
    """Tables of calls and of whole canvases; empty if the model doesn't fit."""
    if not machine.may("decoding with the 8B shape", 0.5, 22):
        return [], []
    decoder = machine.attempt("the decoder", lambda: gpu_decode.Decoder(machine, found, tiny))
    if decoder is None:
        return [], []
    calls = machine.collect("calls", gpu_decode.measure_calls(decoder, 3 * repeats))
    return calls, machine.collect("writing", gpu_decode.measure_writing(decoder, repeats))


def goals(training: Sequence[Row], calls: Sequence[Row]) -> list[Goal]:
    """What was to be reached, of what was measured on a card whose peak is known."""
    found = []
    rates = {next(iter(row.values())): row for row in training if row["MFU %"] != ""}
    dense, packed = rates.get("rows of one length, compiled"), rates.get("mixed lengths, packed, compiled")
    if dense:
        found.append(Goal("MFU of training, %", dense["MFU %"], 57.0))
    if dense and packed:
        found.append(Goal("packed mixed lengths, MFU / that", packed["MFU %"] / dense["MFU %"], 0.95))
    block = {row["batch"]: row for row in calls if row["a call"] == "dual cache, graph"}
    if 1 in block:
        found.append(Goal("cached block step / its floor", block[1]["of floor"], 1.2, most=True))
    if 1 in block and 5 in block:
        found.append(Goal("five requests / one", block[5]["ms"] / block[1]["ms"], 1.2, most=True))
    return found


def run(given: Any) -> Result:
    """Measure everything that there is time and memory for."""
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    machine = gpu_card.Machine(given.device, given.minutes, given.out and given.out / "gpu.jsonl")
    found = gpu_card.rates(machine, given.tiny)
    card = machine.collect("the card", gpu_card.table(found))
    steps = gpu_train.measure(machine, found, given.tiny, given.attention, given.rounds)
    training = machine.collect("training", steps)
    calls, writing = decoding(machine, found, given.tiny, given.rounds)
    extra = {"The card": card, "Training": training, "Calls": calls}
    if machine.left_out:
        extra["Left out"] = [{"what and why": line} for line in machine.left_out]
    note = f"{machine.name}{', at toy size: these figures say nothing' if given.tiny else ''}. {given.note}".strip()
    plot = Plot("tokens per step", "tokens/s", "batch", "Decoding with an 8B shape, dual cache and graphs")
    reached = [] if given.tiny else goals(training, calls)
    return Result("gpu", __doc__ or "", writing, plot, reached, note, extra)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the program runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new is begun")
    parser.add_argument("--attention", help="kernel for training; default: the backbone's own")
    given: Any = parse(parser, arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; `--device cpu --tiny` runs the program at toy size")
    if given.tiny and given.out is not None:
        raise SystemExit("figures of toy size aren't results; leave --out out")
    return finish(run(given), given.out)


if __name__ == "__main__":
    main()

"""``llada check mine.yaml``: every part is built, without storage and without data, and what would go wrong is said.

    llada check mine.yaml --model.backbone.num_layers 12

It takes the options of ``llada fit``. Nothing is trained, downloaded, tokenized or written.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from llada.checkpoints.copies import check_describable
from llada.cli.earlier_run import check_free
from llada.cli.quiet import quiet
from llada.cli.train import LLaDACLI, run, without_storage

ALIGNED = 8
"""Numbers of 16 bits that a GPU's matrix products read at once (NVIDIA, "Matrix Multiplication Background")."""
STATES = 64
"""Rows and columns of the parameter on which an optimiser is tried."""


class CheckingCLI(LLaDACLI):
    """Builds what a fit would build, on the meta device and for one CPU, and begins nothing."""

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        self.parser.add_instantiator(without_storage, nn.Module, subclasses=True)
        settings = self.config[self.config["subcommand"]]["trainer"]
        self.asked = {name: settings.get(name) for name in ("accelerator", "devices", "num_nodes", "precision")}
        here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False}
        for name, value in {**here, "precision": "32-true"}.items():
            settings[name] = value

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Look at what was built."""
        problems = []
        for name, lines in (("parts", _parts(self)), ("model", _model(self)), ("data", _data(self))):
            for line in lines:
                print(f"{name:<8} {line}")
        for look in (self._look_at_parts, self._look_at_files):
            try:
                look()
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        print("saving   every part comes back from a checkpoint, and no earlier model is replaced")

    def _look_at_parts(self) -> None:
        check_describable(self.model)

    def _look_at_files(self) -> None:
        if self._get(self.config_init, "ckpt_path") is None and not self._get(self.config_init, "overwrite"):
            check_free(self.trainer)


def _parts(cli: CheckingCLI) -> Iterator[str]:
    for name in ("backbone", "process", "objective", "bound", "sampler"):
        part = getattr(cli.model, name, None)
        if part is not None:
            text = f"{type(part).__name__}" if isinstance(part, nn.Module) else str(part)
            yield f"{name}: {text if len(text) <= 100 else text[:97] + '...'}"


def _model(cli: CheckingCLI) -> Iterator[str]:
    learning = [p for p in cli.model.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in cli.model.parameters())
    gradients = sum(p.numel() * p.element_size() for p in learning)
    states = sum(p.numel() for p in learning) * bytes_of_state(cli.model.optimizer)
    yield f"{sum(p.numel() for p in cli.model.parameters()):,} parameters"
    yield (
        f"memory: weights {size(weights)} + gradients {size(gradients)} + optimiser {size(states)} = "
        f"{size(weights + gradients + states)} before activations"
        f"{_shared(cli)}"
    )
    odd = sorted({each for p in cli.model.parameters() if p.dim() == 2 for each in p.shape if each % ALIGNED})
    if odd and str(cli.asked["accelerator"]) != "cpu":
        yield (
            f"on a GPU: matrices have {', '.join(map(str, odd))} rows or columns, no multiple of {ALIGNED}, and their "
            "products in bfloat16 take slower kernels; multiples of 64 are best for widths and vocabularies"
        )


def _shared(cli: CheckingCLI) -> str:
    devices, nodes = cli.asked["devices"], cli.asked["num_nodes"]
    many = isinstance(devices, int) and devices * int(nodes or 1) > 1
    return f", over {devices} x {nodes} devices if the strategy splits them" if many else ""


def _data(cli: CheckingCLI) -> Iterator[str]:
    data, trainer = cli.datamodule, cli.trainer
    rows, length = getattr(data, "batch_size", None), getattr(data, "max_length", None)
    devices = cli.asked["devices"] if isinstance(cli.asked["devices"], int) and cli.asked["devices"] > 0 else 1
    ranks = devices * int(cli.asked["num_nodes"] or 1)
    if not isinstance(rows, int) or not isinstance(length, int):
        yield f"{type(data).__name__}, which doesn't say how long its rows are"
        return
    step = rows * length * ranks * trainer.accumulate_grad_batches
    yield f"{type(data).__name__}: {rows} rows of up to {length} tokens, {step:,} tokens per optimiser step"
    if trainer.max_steps > 0:
        yield f"{trainer.max_steps:,} steps, up to {step * trainer.max_steps:,} tokens in all"


def bytes_of_state(optimizer: Any) -> float:
    """Bytes that an optimiser keeps per number of a matrix, found by a step on a small one.

    Args:
        optimizer: from parameters to the optimiser.
    """
    matrix = nn.Parameter(torch.zeros(STATES, STATES))
    matrix.grad = torch.ones_like(matrix)
    trial = optimizer([matrix])
    trial.step()
    kept = [value for value in trial.state[matrix].values() if isinstance(value, torch.Tensor) and value.dim() > 0]
    return sum(value.numel() * value.element_size() for value in kept) / matrix.numel()


def size(number: float) -> str:
    """Bytes for a reader: ``1500000 -> "1.5 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.1f} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:.1f} TB"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words[:1] = ["--config", words[0]]
    given, sys.argv[1:] = sys.argv[1:], ["fit", *words]
    try:
        with quiet():
            run("fit", None, CheckingCLI)
    finally:
        sys.argv[1:] = given

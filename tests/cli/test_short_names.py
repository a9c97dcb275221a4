"""A name without a dot means the same whatever else is imported: llada's, PyTorch's and Lightning's come first."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from lightning.pytorch.callbacks import Callback, Timer
from torch.optim import Optimizer

from llada.cli.boundary import Misunderstood
from llada.cli.mistakes import OneSentence
from llada.objectives import NELBO, Objective
from llada.samplers import Sampler, low_confidence
from llada.training.callbacks import LoRA

TAKEN = {"AdamW": torch.optim.AdamW, "NELBO": NELBO, "LoRA": Callback, "Timer": Callback}
WORDS = ["--optimizer=AdamW", "--optimizer.lr=0.5", "--objective=NELBO", "--sampler=low_confidence"]
WORDS += ["--callbacks+=LoRA", "--callbacks.rank=3", "--callbacks+=Timer"]
FILE = """
optimizer: {class_path: AdamW, init_args: {lr: 0.5}}
objective: NELBO
sampler: {class_path: low_confidence}
callbacks: [{class_path: LoRA, init_args: {rank: 3}}, Timer]
"""


@pytest.fixture(scope="module")
def parser() -> Iterable[OneSentence]:
    """A parser beside two packages that call their classes as others do."""
    parser = OneSentence()
    parser.add_argument("--config", action="config")
    parser.add_argument("--optimizer", type=Callable[[Iterable], Optimizer])
    parser.add_argument("--objective", type=Objective)
    parser.add_argument("--sampler", type=Sampler | None)
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None)
    with pytest.MonkeyPatch.context() as patch:
        for package in "first_of_others", "second_of_others":
            module = ModuleType(package)
            patch.setitem(sys.modules, package, module)
            for name, base in (TAKEN | {"Adam3bit": torch.optim.AdamW}).items():
                setattr(module, name, type(name, (base,), {"__module__": package}))
        yield parser


def test_a_name_that_packages_of_others_have_too(parser: OneSentence, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(FILE)
    for words in (WORDS, [f"--config={file}"]):
        built = parser.instantiate(parser.parse_args(words))
        optimizer = built.optimizer(torch.nn.Linear(1, 1).parameters())
        assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.AdamW, 0.5)
        assert (type(built.objective), built.sampler) == (NELBO, low_confidence())
        assert [type(callback) for callback in built.callbacks] == [LoRA, Timer]
        assert built.callbacks[0].rank == 3


def test_a_class_of_others_is_named_by_its_path(parser: OneSentence) -> None:
    assert parser.parse_args(["--optimizer=first_of_others.AdamW"]).optimizer.class_path == "first_of_others.AdamW"
    with pytest.raises(Misunderstood) as refused:
        parser.parse_args(["--optimizer=Adam3bit"])
    candidates = "first_of_others.Adam3bit, second_of_others.Adam3bit"
    assert str(refused.value) == f"optimizer: several classes are called Adam3bit; write one of {candidates}"

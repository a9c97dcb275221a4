"""The command that a finished run names can be typed as it stands."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess, NoiseSchedule
from llada.training.callbacks.next_command import next_command


@dataclass(frozen=True)
class Straight(NoiseSchedule):
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t) - t


def model(**parts: Any) -> DiffusionLM:
    return DiffusionLM(BidirectionalTransformer(8, 8, 1, 1), MaskingProcess(7, **parts))


@pytest.mark.parametrize(
    ("template", "source", "command"),
    [(None, "{{ x }}", "sample"), (object(), "{{ x }}", "chat"), (object(), None, "sample")],
)
def test_turns_are_tried_by_chat_where_the_checkpoint_has_their_template(
    template: object, source: str | None, command: str
) -> None:
    data = SimpleNamespace(template=template, tokenizer=SimpleNamespace(chat_template=source))
    assert next_command(Path("a run/model.ckpt"), model(), data) == f"llada {command} 'a run/model.ckpt'"


def test_parts_of_other_packages_are_trusted_by_name() -> None:
    assert next_command(Path("model.ckpt"), model(schedule=Straight())) == "llada sample model.ckpt --trust tests"

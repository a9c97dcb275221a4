"""Loading peaks at the model in its target dtype plus one shard."""

import sys
from pathlib import Path

import pytest

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from tests.processes import run_python

MEASURE = """
import resource, sys, torch
from llada.module import DiffusionLM  # everything is imported before the measurement
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
torch.zeros(1) + 1
before = peak()
model = DiffusionLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
size = sum(p.numel() * p.element_size() for p in model.backbone.parameters())
print(peak() - before, size)
"""


SHARD = 40_000_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder of 5 shards or more, and the number of its parameters."""
    folder = tmp_path_factory.mktemp("memory") / "m"
    backbone = BidirectionalTransformer(8000, width=1024, num_layers=3, num_heads=8, hidden_width=4096)
    DiffusionLM(backbone, MaskingProcess(0)).save_pretrained(folder, layout="llada", max_shard_size=SHARD)
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) > 200_000_000
    return folder, sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux reports it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory(stored: tuple[Path, int], dtype: str) -> None:
    folder, parameters = stored
    run = run_python("-c", MEASURE, folder, dtype)
    assert run.returncode == 0, run.output
    used, size = map(int, run.output.split())
    assert size == parameters * (4 if dtype == "float32" else 2)
    slack = 25_000_000  # the allocator's own
    assert used < size + SHARD + slack, f"{used / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB"

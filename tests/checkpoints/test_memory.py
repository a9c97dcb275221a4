"""Loading peaks at the model in its target dtype plus one shard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llada.backbones import BidirectionalTransformer
from llada.module import DiffusionLM
from llada.process import MaskingProcess

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


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux reports it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory(tmp_path: Path, dtype: str) -> None:
    shard = 40_000_000
    backbone = BidirectionalTransformer(8000, width=1024, num_layers=3, num_heads=8, hidden_width=4096)
    DiffusionLM(backbone, MaskingProcess(0)).save_pretrained(tmp_path / "m", layout="llada", max_shard_size=shard)
    stored = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    assert stored > 200_000_000
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m"), dtype],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    used, size = map(int, run.stdout.split())
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert size == parameters * (4 if dtype == "float32" else 2)
    slack = 25_000_000  # the allocator's own
    assert used < size + shard + slack, f"{used / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB"

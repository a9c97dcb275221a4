"""Ranks and accumulation steps change nothing: the same gradients and weights as one big batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts/train_distributed.py"


def train(folder: Path, devices: int, accumulate: int, batch: int, normaliser: str) -> dict[str, torch.Tensor]:
    out = folder / f"{devices}-{accumulate}-{batch}-{normaliser}.pt"
    if out.exists():
        return torch.load(out, weights_only=True)
    arguments = [str(out), str(devices), str(accumulate), str(batch), normaliser]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.mark.parametrize("normaliser", ["position", "token", "row", "masked"])
def test_accumulation_equals_one_big_batch(folder: Path, normaliser: str) -> None:
    big = train(folder, 1, 1, 8, normaliser)
    small = train(folder, 1, 4, 2, normaliser)
    torch.testing.assert_close(small["gradients"], big["gradients"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(small["weights"], big["weights"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("normaliser", ["token", "row"])
def test_two_ranks_with_accumulation_equal_one_big_batch(folder: Path, normaliser: str) -> None:
    big = train(folder, 1, 1, 8, normaliser)
    spread = train(folder, 2, 2, 2, normaliser)
    torch.testing.assert_close(spread["gradients"], big["gradients"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(spread["weights"], big["weights"], rtol=1e-8, atol=1e-8)


def test_the_comparison_would_notice_another_normaliser(folder: Path) -> None:
    assert not torch.allclose(train(folder, 1, 1, 8, "token")["gradients"], train(folder, 1, 1, 8, "row")["gradients"])

"""The study of noises: runs are kept and read again, every way of decoding is asked, and the table tells all of it."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("noises")


def test_a_stopped_study_goes_on_where_it_was(noises: ModuleType, tmp_path: Path) -> None:
    table = noises.correction(tmp_path, seeds=1, steps=2, questions=12)
    ways = [f"{noise}: {name}" for noise in ("masks", "hybrid") for name in noises.ways(noise)]
    assert all(f"| {name} | " in table for name in ways)
    assert table.count("holds:") + table.count("does not hold:") == len(noises.CLAIMS)
    path = tmp_path / "correction.jsonl"
    masks, hybrid = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    right, calls = hybrid["values"]["2 steps, 6 passes"]
    assert (len(right), calls) == (12, 8.0)
    hybrid["values"]["2 steps, 6 passes"] = [[1.0] * 12, calls]
    path.write_text(f"{json.dumps(masks)}\n{json.dumps(hybrid)}\n", encoding="utf-8")
    again = noises.correction(tmp_path, seeds=1, steps=2, questions=12)
    assert "\nholds: 6 passes raise the hybrid model's accuracy" in again

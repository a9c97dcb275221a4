"""Every benchmark has a page with its results, and the lists of benchmarks are whole."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [
    "train_step", "train_memory", "mask_scaling", "sampling", "ancestral", "likelihood", "loop_overhead", "attention",
    "data_rate", "startup", "peers", "gpu",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_a_page_and_is_listed(name):
    page = (ROOT / "docs" / "benchmarks" / f"{name}.md").read_text("utf-8")
    assert f"benchmarks.{name}" in page or f"benchmarks/{name}.py" in page  # the command
    assert f"benchmarks/{name}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert f"(benchmarks/{name}.md)" in (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert f"| `{name}` |" in (ROOT / "benchmarks" / "README.md").read_text("utf-8")


def test_what_was_not_measured_is_not_claimed():
    page = (ROOT / "docs" / "benchmarks" / "gpu.md").read_text("utf-8")
    assert "Not measured" in page or "NVIDIA" in page

"""What the documentation shows is run, and what the package has is documented."""

import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import llada
from llada.samplers import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> list[str]:
    return PYTHON_BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if python_blocks(p) and p not in NOTEBOOKS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_python_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(python_blocks(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_there_are_blocks_to_run() -> None:
    assert len(python_blocks(ROOT / "docs" / "extending.md")) >= 3


def hook(name: str) -> ModuleType:
    """A hook of mkdocs that lies beside the pages."""
    module = ModuleType(name)
    module.__file__ = str(ROOT / "docs" / f"{name}.py")
    exec(compile((ROOT / "docs" / f"{name}.py").read_text(encoding="utf-8"), f"{name}.py", "exec"), module.__dict__)
    return module


def share(line: str) -> float:
    """The last number of a line."""
    return float(re.findall(r"-?\d+(?:\.\d+)?", line)[-1])


def shares(printed: str, word: str) -> list[float]:
    return [share(line) for line in printed.splitlines() if word in line]


HOLDS = {
    "fine-tune": lambda text: shares(text, "exceptions alone")[1] + 40 < shares(text, "with others beside")[1],
    "own-schedule": lambda text: len(re.findall(r"^1 - t.*\+-", text, re.MULTILINE)) == 3,
    "score-a-decoder": lambda text: text.count("8 calls: -0.000") + text.count("8 calls: 0.000") == 3,
    "toy-language": lambda text: shares(text, "one token per")[0] < 0.2 < 0.4 < shares(text, "all five at once")[0],
    "watch-a-sample": lambda text: min(shares(text, "never saw")) > 50,
}
"""What each notebook says of what it printed."""


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_runs_and_shows_what_its_cells_give(page: Path) -> None:
    pytest.importorskip("matplotlib")
    notebooks = hook("notebooks")
    text = page.read_text(encoding="utf-8")
    cells = notebooks.run(text)
    assert [cell.source for cell in cells if cell.code] == [block.strip() for block in python_blocks(page)]
    printed = "".join(cell.printed for cell in cells)
    assert HOLDS[page.stem](printed), printed
    ((title, svg),) = [picture for cell in cells for picture in cell.pictures]
    assert title
    assert svg.startswith("<?xml")
    shown = notebooks.page_of(cells)
    assert f"![{title}](data:image/svg+xml;base64," in shown
    assert all(line in shown for line in (*text.splitlines(), *printed.splitlines()))
    made = json.loads(notebooks.notebook_of(cells))["cells"]
    assert [cell["source"] for cell in made] == [cell.source for cell in cells]
    outputs = [output for cell in made if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert "".join(output.get("text", "") for output in outputs) == printed
    assert [output["data"]["text/plain"] for output in outputs if "data" in output] == [title]


def test_every_notebook_is_judged() -> None:
    assert set(HOLDS) == {page.stem for page in NOTEBOOKS}


def test_the_table_of_presets_has_each_with_its_paper() -> None:
    lines = hook("presets").table().splitlines()[2:]
    assert [re.match(r"\| \[`(\w+)`\]", line)[1] for line in lines] == sorted(PRESETS)
    (fast,) = (line for line in lines if "[`fast_dllm`]" in line)
    assert "above a confidence" in fast
    assert "https://arxiv.org/abs/2505.22618" in fast
    assert all(line.count(" | ") == 2 for line in lines)


def test_names_of_files_become_links_where_they_are_none() -> None:
    sources = hook("sources")
    assert sources.NAMED.findall("`llada/rows.py`, `rows.py`, llada/rows.py, `examples/configs/demo.yaml`") == [
        "llada/rows.py",
        "examples/configs/demo.yaml",
    ]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts.md"))
    made = SimpleNamespace(url_relative_to=lambda file: "../source/llada/rows.py/")
    known = SimpleNamespace(get_file_from_path=lambda path: made if path == "source/llada/rows.py.md" else None)
    code, other = (
        "<code>llada/rows.py</code>",
        '<code>llada/nowhere.py</code> <a href="x"><code>llada/rows.py</code></a>',
    )
    linked = sources.on_page_content(f"{code} {other}", page=page, files=known)
    assert linked == f'<a href="../source/llada/rows.py/">{code}</a> {other}'


def test_formulas_have_whole_primes_and_a_space_behind_a_function() -> None:
    pytest.importorskip("latex2mathml")
    html = '<span class="arithmatex">\\(\\alpha\'(t) \\log p + \\log(2)\\)</span>'
    made = hook("mathematics").on_page_content(html)
    assert "<msup>" not in made
    assert "′</mo>" in made
    assert made.count("<mspace") == 1  # none in front of a parenthesis


def test_every_component_has_a_page_and_a_place_in_the_navigation() -> None:
    package = Path(llada.__file__).parent
    components = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    pages = {page.stem for page in (ROOT / "docs" / "api").glob("*.md")} - {"index"}
    assert pages == {name for name in components if not name.startswith("_")}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert pages == set(re.findall(r"api/(\w+)\.md", navigation)) - {"index"}


def test_pages_quote_the_price_of_decoding_as_its_own_page_has_it() -> None:
    table = (ROOT / "docs/duel.md").read_text(encoding="utf-8")
    price = dict(
        re.findall(r"^\| ([\w ]+?) \| 8\.0 \| [\d.]+ ± [\d.]+ \| \+([\d.]+ ± [\d.]+) \|$", table, re.MULTILINE)
    )
    comb, margin = price["comb of 8"], price["margin"].partition(" ")[0]
    for page in (ROOT / "README.md", ROOT / "docs/index.md"):
        text = page.read_text(encoding="utf-8")
        assert f"{comb} bits per byte**" in text, page
        assert margin in text, page
    for page in (ROOT / "README.md", ROOT / "docs/choosing-a-sampler.md"):
        assert f"{comb.partition(' ')[0]} bits per byte" in page.read_text(encoding="utf-8"), page

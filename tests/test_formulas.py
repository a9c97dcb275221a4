"""Formulas of the documentation on a phone: none is cut, and none makes the page wider than the screen."""

import html
import re
import shutil
from pathlib import Path

import pytest

from tests.test_docs import PAGES, ROOT, hook

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STYLE = ROOT / "docs" / "stylesheets" / "formulas.css"
OFF = """() => [...document.querySelectorAll("math")].flatMap(math => {
  const box = math.closest(".formula"), edge = document.querySelector("article").getBoundingClientRect();
  const parts = [math, ...math.querySelectorAll("*")].map(part => part.getBoundingClientRect());
  const drawn = parts.filter(part => part.width);
  const left = Math.min(...drawn.map(part => part.left)), right = Math.max(...drawn.map(part => part.right));
  const end = box ? edge.left + box.scrollWidth : edge.right;
  const below = box && getComputedStyle(box).overflowY === "hidden" ? box.scrollHeight - box.clientHeight : 0;
  return left < edge.left - 1 || right > end + 1 || below > 0 ? [[math.textContent, left, right, below]] : [];
})"""


def formulas() -> str:
    """All formulas of all pages, as the site has them."""
    found: list[str] = []
    for page in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL):
            quoted = html.escape(block or inline)
            found.append(
                rf'<div class="arithmatex">\[{quoted}\]</div>'
                if block
                else rf'<p><span class="arithmatex">\({quoted}\)</span></p>'
            )
    return str(hook("mathematics").on_page_content("\n".join(found)))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_formulas_fit_on_a_phone(tmp_path: Path) -> None:
    pytest.importorskip("latex2mathml")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    head = f"<!doctype html><meta charset=utf-8><style>{STYLE.read_text(encoding='utf-8')}</style>"
    article = f'<body style="margin: 0 16px; font-size: 16px"><article class="md-content">{formulas()}</article>'
    (tmp_path / "page.html").write_text(head + article, encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.goto((tmp_path / "page.html").as_uri())
        scroll = page.evaluate(
            "[...document.querySelectorAll('.formula')].map("
            "box => box.scrollWidth > box.clientWidth ? [box.textContent, box.scrollWidth] : 0)"
        )
        rows = page.evaluate(
            "[...document.querySelectorAll('.formula:has(> span)')].map(box => new Set("
            "[...box.children].map(part => Math.round(part.getBoundingClientRect().bottom / 60))).size > 1)"
        )
        width, wrong = page.evaluate("document.documentElement.scrollWidth"), page.evaluate(OFF)
        browser.close()
    assert len(scroll) > 20
    assert not any(scroll), [found for found in scroll if found]
    assert any(rows), "pieces that have no room beside one another stand below one another"
    assert not wrong
    assert width == 420

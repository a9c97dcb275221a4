"""The page in a real browser: watched, stopped, taken back, compared, recorded; by mouse, by keyboard, on a phone."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.process import Edit
from llada.samplers import Step
from llada.viewers import denoising_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
MASK = 9
DONE, WRITTEN = ".pane[data-state=done]", ".cell.written"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1100, "height": 800})
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "console",
        lambda message: wrong.append(message.text) if message.type == "error" and "400" not in message.text else None,
    )
    opened.set_default_timeout(20_000)
    opened.goto(server)
    opened.wait_for_selector(".pane")
    opened.fill("#length", "12")
    opened.evaluate("document.getElementById('pace').value = 0")
    yield opened
    opened.close()
    assert not wrong


def write(page: Any, text: str, panes: int = 1) -> None:
    page.fill("#text", text)
    page.click("#go")
    page.wait_for_selector(" ~ ".join([DONE] * panes))


def cells(page: Any) -> list[str]:
    return [str(cell) for cell in page.eval_on_selector_all(".cell", "all => all.map(cell => cell.textContent)")]


def picture(page: Any, tmp_path: Path, name: str) -> None:
    """Kept where LLADA_SCREENSHOTS says, to be looked at."""
    folder = Path(os.environ.get("LLADA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{name}.png"))
    assert (folder / f"{name}.png").stat().st_size > 10_000


def test_a_run_is_watched_stepped_and_taken_back(page: Any, tmp_path: Path) -> None:
    write(page, "The boat")
    whole = cells(page)
    assert page.locator(WRITTEN).count() == 12
    assert page.locator(".cell.open").count() == 0
    assert "calls" in page.inner_text(".state")
    page.click("[aria-label='step back']")
    assert 0 < page.locator(".cell.open").count() < 12
    page.locator("[aria-label=step]").fill("0")
    assert page.locator(".cell.open").count() == 12
    box = page.locator(".cell.open").first.bounding_box()
    page.locator("[aria-label=step]").fill("999")
    assert cells(page) == whole
    assert page.locator(WRITTEN).first.bounding_box() == box, "boxes don't jump"
    picture(page, tmp_path, "run")
    page.fill("#seed", "7")
    page.locator(WRITTEN).nth(3).click()
    page.wait_for_selector(DONE)
    after = cells(page)
    place = len(whole) - 12 + 3
    assert [a for i, a in enumerate(after) if i != place] == [a for i, a in enumerate(whole) if i != place]
    assert "step 1 of 1" in page.inner_text(".state")


def test_the_text_has_no_names_of_special_tokens_while_masks_stand(page: Any) -> None:
    page.check("input[value=chat]")
    write(page, "The boat")
    assert cells(page)[0] == "<|startoftext|>"
    page.locator("[aria-label=step]").fill("0")
    read = page.inner_text(".read")
    assert "<|" not in read
    assert "The boat" in read
    assert read.endswith(12 * "░")


def test_the_button_says_what_it_does(page: Any) -> None:
    write(page, "The boat")
    button = page.locator(".pane > .row > button").first
    assert button.inner_text() == "Play", "the run is at its end"
    page.locator("[aria-label=step]").fill("3")
    assert button.inner_text() == "Play", "the slider holds the run"
    button.click()
    page.wait_for_selector(DONE)
    page.evaluate("document.getElementById('pace').value = 1000")
    button.click()
    assert button.inner_text() == "Pause", "it plays from the start again"
    assert page.locator(".cell.open").count() > 0


def test_what_else_could_stand_there_goes_with_its_text(page: Any) -> None:
    write(page, "The boat")
    page.locator(WRITTEN).nth(5).hover()
    page.wait_for_selector("#others .row + .row button")
    page.locator(WRITTEN).nth(5).click()
    page.wait_for_selector(DONE)
    assert page.locator("#others button").count() > 0, "the same text, with one place written anew"
    write(page, "The river")
    assert page.locator("#others button").count() == 0


def test_alternatives_and_editing(page: Any, tmp_path: Path) -> None:
    write(page, "The boat")
    page.locator(WRITTEN).nth(5).hover()
    page.wait_for_selector("#others .row + .row button")
    offered = page.locator("#others .row + .row button")
    assert offered.count() == 5
    probabilities = [float(text.rsplit(" ", 1)[1]) for text in offered.all_inner_texts()]
    assert probabilities == sorted(probabilities, reverse=True)
    picture(page, tmp_path, "alternatives")
    wanted = json.loads(offered.nth(1).inner_text().rsplit(" ", 1)[0])
    offered.nth(1).click()
    page.wait_for_selector(DONE)
    shown = page.locator(".cell.written").nth(5).get_attribute("aria-label")
    assert shown.startswith(wanted + ", place"), "the chosen token stands, and what is around it is written anew"


def test_two_decoders_on_a_phone_by_keyboard(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.check("#two")
    page.focus("#text")
    page.keyboard.type("The river")
    page.focus("#go")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{DONE} ~ {DONE}")
    assert page.locator(".pane").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 420, "nothing is wider than the screen"
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("place 1")
    page.keyboard.press(",")
    assert page.locator(".cell.open").count() > 0
    picture(page, tmp_path, "phone")


def test_what_a_model_writes_is_never_read_as_html(page: Any, server: str) -> None:
    write(page, "<img src=x onerror=alert(1)><b>bold</b>")
    assert page.locator("main img, main b").count() == 0
    assert "<b>bold</b>" in page.inner_text(".read")


def test_a_run_is_shared_as_a_file_of_its_own(page: Any, browser: Any, tmp_path: Path) -> None:
    write(page, "The </script><script>alert(1)</script> boat")
    whole = cells(page)
    with page.expect_download() as waiting:
        page.click("#share")
    file = tmp_path / "run.html"
    waiting.value.save_as(file)
    alone = browser.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("dialog", lambda dialog: pytest.fail("the text was run as a script"))
    alone.goto(file.as_uri())
    alone.wait_for_selector(DONE)
    assert cells(alone) == whole
    assert asked == [file.as_uri()]
    assert not alone.locator("#form").is_visible()
    alone.close()


def test_an_error_is_shown_and_the_next_run_works(page: Any) -> None:
    page.fill(".option", "-3")
    page.fill("#text", "The")
    page.click("#go")
    page.wait_for_selector(".pane[data-state=wrong]")
    assert "temperature" in page.inner_text(".state")
    page.fill(".option", "0.5")
    page.click("#go")
    page.wait_for_selector(DONE)


def test_chat(page: Any) -> None:
    page.check("input[value=chat]")
    write(page, "Where is the boat?")
    page.wait_for_selector("#talk p:nth-child(2)")
    assert page.inner_text("#talk p:first-child") == "userWhere is the boat?"
    write(page, "And the boy?")
    page.wait_for_selector("#talk p:nth-child(4)")
    assert "boat" in page.inner_text(".read")
    assert page.input_value("#text") == ""


def test_a_recording_whose_tokens_move_is_played_both_ways(browser: Any, tmp_path: Path) -> None:
    tokens = torch.tensor([[0, 1, MASK, MASK]])
    insert, drop = torch.tensor([[0, 0, 0, 0, 1]]), torch.tensor([[False, True, False, False, False]])
    grown = Edit.of(torch.ones(1, 4).bool(), insert=insert)
    shrunk = Edit.of(grown.real, drop)
    made = [([0, 1, 2, MASK, MASK], grown), ([0, 2, 3, 1], shrunk)]
    steps = [
        Step(torch.tensor([ids]), torch.ones(1, len(ids)).bool(), torch.full((1, len(ids)), 0.5), torch.tensor([k]),
             torch.tensor([ids]) == MASK, edit=edit)
        for k, (ids, edit) in enumerate(made, start=1)
    ]  # fmt: skip
    words = ["a", "b", "c", "d"]
    file = tmp_path / "run.html"
    file.write_text(denoising_page(steps, tokens, tokens != MASK, words.__getitem__, interval=0.01))
    opened = browser.new_page()
    opened.goto(file.as_uri())
    opened.wait_for_selector(DONE)
    assert cells(opened) == ["a", "c", "d", "b"]
    opened.click("[aria-label='step back']")
    assert cells(opened) == ["a", "b", "c", "", ""]
    opened.click("[aria-label='step back']")
    assert cells(opened) == ["a", "b", "", ""]
    opened.locator("[aria-label=step]").fill("2")
    assert cells(opened) == ["a", "c", "d", "b"]
    opened.close()

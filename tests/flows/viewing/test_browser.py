"""The pages in headless Chromium: keyboard, layers, drawing, hostile texts, a console without a complaint.

`MHIM_VIEW_RUN=RUN MHIM_VIEW_PICTURES=docs/images pytest … -k documents` makes the pictures of docs/viewer.md.
"""

import contextlib
import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from PIL import Image

from flows.config.view import ViewConfig
from flows.viewing.app import Viewer, ViewerOptions, make_app
from flows.viewing.guard import LOCAL_NAMES
from flows.viewing.opening import open_source
from mhim_core.slides.annotations import read_annotation
from mhim_core.storage import LocalStorage

pytestmark = pytest.mark.thorough
Browser = Any
"""`webdriver.Browser`."""

FIRST = "document.querySelector('.strip button')"


class Served(NamedTuple):
    address: str
    annotations: Path


@contextlib.contextmanager
def served(config: ViewConfig, annotations: Path) -> Iterator[Served]:
    options = ViewerOptions(config.read_only, "", LOCAL_NAMES)
    app = make_app(Viewer(open_source(config), LocalStorage(annotations), options))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}/", annotations)
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def browser() -> Iterator[Browser]:
    path = Path(__file__).with_name("webdriver.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    webdriver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(webdriver)
    if missing := webdriver.missing_browser():
        pytest.skip(f"there is {missing}")
    window = webdriver.Browser()
    try:
        yield window
    finally:
        window.close()


@pytest.fixture
def pages(viewed: Any, tmp_path: Path) -> Iterator[Served]:
    with served(ViewConfig(run=str(viewed.run)), tmp_path / "annotations") as pages:
        yield pages


@pytest.fixture
def picture(browser: Browser, tmp_path: Path) -> Callable[[str], Path]:
    """picture("worklist") → a screenshot, of more than one colour."""

    def take(name: str) -> Path:
        path = tmp_path / f"viewer-{name}.png"
        browser.screenshot(path)
        assert path.stat().st_size > 10_000
        return path

    return take


def place_of(browser: Browser, selector: str) -> tuple[float, float]:
    script = (
        "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    box = browser.run(script, selector)
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def test_the_list_by_keyboard_and_hostile_texts_as_texts(
    browser: Browser, pages: Served, picture: Callable[[str], Path]
) -> None:
    browser.open(pages.address)
    browser.wait("document.querySelectorAll('tbody tr').length === 12")
    assert "<img src=x onerror=" in browser.text()
    assert browser.run("return document.title") != "hacked"
    assert browser.run("return document.querySelector('tr.current').dataset.slide") == "s00"
    browser.keys("j", "n", "p", "j")
    assert browser.run("return document.querySelector('tr.current').dataset.slide") == "s02"
    browser.keys("m")
    browser.wait("document.querySelectorAll('.star.on').length === 1")
    browser.keys("/", "s", "0", "7")
    browser.wait("document.querySelectorAll('tbody tr').length === 1")
    assert "text=s07" in browser.run("return location.hash")
    picture("list")
    browser.keys("Escape", "Enter")
    browser.wait(FIRST)
    assert browser.run("return location.hash") == "#/slide/s07"
    browser.keys("u")
    browser.wait("document.querySelectorAll('tbody tr').length === 1")
    assert browser.complaints() == []


def test_a_slide_with_heat_map_top_tiles_and_what_was_mined(
    browser: Browser, pages: Served, picture: Callable[[str], Path]
) -> None:
    browser.open(f"{pages.address}#/slide/s03")
    browser.wait(FIRST)
    browser.wait("document.querySelectorAll('.ticks span').length === 5")
    browser.keys("2")
    browser.wait("document.querySelectorAll('.near a').length === 8")
    assert "without" in browser.text()
    browser.keys("g", "o", "]", "c")
    browser.wait("document.querySelectorAll('.frame:not([hidden])').length === 2")
    browser.wait("[...document.querySelectorAll('.caption')][1].textContent.endsWith('teacher')")
    browser.run("const d = document.querySelectorAll('details')[2]; d.open = true; d.querySelector('input').click()")
    browser.wait("document.querySelectorAll('.fates label').length >= 2")
    picture("mined")
    browser.keys("c", "n")
    browser.wait("document.querySelector('h1')?.textContent === 's04'")
    browser.wait(FIRST)
    browser.keys("p", "m")
    browser.wait("document.querySelector('h1')?.textContent === 's03'")
    assert browser.complaints() == []


def test_a_polygon_is_drawn_saved_and_read_as_embed_reads_it(
    browser: Browser, pages: Served, picture: Callable[[str], Path]
) -> None:
    browser.open(f"{pages.address}#/slide/s05")
    browser.wait(FIRST)
    browser.run("localStorage.setItem('mhim-author', JSON.stringify('A. Path'))")
    browser.keys("a")
    x, y = place_of(browser, ".osd")
    for dx, dy in ((-80, -20), (80, -20), (60, 30)):
        browser.click(x + dx, y + dy)
    browser.keys("Enter")
    browser.wait("document.querySelectorAll('.shapes button').length === 1")
    browser.run("document.querySelector('button.strong').click()")
    browser.wait("document.body.innerText.includes('Saved as version 1')")
    picture("annotation")
    read = read_annotation((pages.annotations / "s05.geojson").read_bytes())
    assert read.classes == ("Tumor",)
    assert len(read.regions["Tumor"][0].rings[0]) == 3
    assert json.loads((pages.annotations / "s05.geojson").read_text())["mhim"]["author"] == "A. Path"
    assert browser.complaints() == []


def test_a_slide_whose_file_is_gone_and_one_that_never_was(browser: Browser, pages: Served) -> None:
    browser.open(f"{pages.address}#/slide/s11")
    browser.wait(FIRST)
    assert "lies on white" in browser.text()
    assert browser.complaints() == []
    browser.open(f"{pages.address}#/slide/..%2F..%2Fetc%2Fpasswd")
    browser.wait("document.querySelector('.problem')")
    assert "nothing at this address" in browser.text()
    browser.open(f"{pages.address}#/slide/s99")
    browser.wait("document.body.innerText.includes('no such slide')")


def test_a_server_that_has_ended_is_named(browser: Browser, viewed: Any, tmp_path: Path) -> None:
    with served(ViewConfig(run=str(viewed.run)), tmp_path / "annotations") as pages:
        browser.open(pages.address)
        browser.wait("document.querySelectorAll('tbody tr').length === 12")
    browser.keys("Enter")
    browser.wait("document.querySelector('.problem')")
    assert "does not answer" in browser.text()


@pytest.mark.skipif("MHIM_VIEW_RUN" not in os.environ, reason="MHIM_VIEW_RUN names no run to take pictures of")
def test_pictures_for_the_documents(browser: Browser, picture: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(os.environ.get("MHIM_VIEW_PICTURES", tmp_path))

    def keep(name: str) -> None:
        time.sleep(2)  # pictures of tiles that are still on their way
        with Image.open(picture(name)) as shot:
            shot.convert("RGB").resize((1200, round(1200 * shot.height / shot.width)), Image.Resampling.LANCZOS).save(
                folder / f"viewer-{name}.jpg", quality=82
            )

    run = os.environ["MHIM_VIEW_RUN"]
    with served(ViewConfig(run=run), tmp_path / "annotations") as pages:
        browser.open(f"{pages.address}#/?sort=error&descending=true")
        browser.wait("document.querySelectorAll('tbody tr').length > 3")
        keep("list")
        slide_id = os.environ.get("MHIM_VIEW_SLIDE") or browser.run("return document.querySelector('tr').dataset.slide")
        browser.open(f"{pages.address}#/slide/{slide_id}")
        browser.wait(FIRST)
        browser.keys("1")
        browser.wait("document.querySelectorAll('.near a').length === 8")
        browser.keys("0")
        keep("slide")
        browser.keys("Escape", "c")
        browser.wait("document.querySelectorAll('.frame:not([hidden])').length === 2")
        script = "const d = [...document.querySelectorAll('details')]; d[0].open = d[1].open = false; d[2].open = true;"
        browser.run(script + "d[2].querySelector('input').click()")
        browser.wait("document.querySelectorAll('.fates label').length >= 2")
        keep("mined")
    assert browser.complaints() == []

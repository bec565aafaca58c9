"""The page in a real browser, over a real swarm: an upload is watched from its first chunk to its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.browser import Chromium, Window, chromium
from support.crew import Crew, put, share, wait_stored
from support.files import MIB
from support.processes import Swarm, wait_until

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>.bin"
# 24 MiB over two uplinks of 2 MiB/s: six seconds, twenty-four chunks.
UPLINK = "16mbit"
SIZE = 24 * MIB


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Swarm() as swarm:
        crew = Crew.of(swarm, daemons=2, up_bytes_per_second=UPLINK)
        put(crew.daemons[0], crew.file("evil", 1000, seed=1), name=EVIL)
        put(crew.daemons[0], crew.file("plain", 3 * MIB, seed=2), name="plain.bin")
        yield crew


@pytest.fixture(scope="module")
def shared_browser(crew: Crew) -> Iterator[Chromium]:
    with chromium(f"http://{crew.tracker.ready['http']}") as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Chromium) -> Iterator[Chromium]:
    yield shared_browser
    shared_browser.close_windows()


def api(crew: Crew, path: str) -> Any:
    return httpx2.get(f"http://{crew.tracker.ready['http']}/api/v1{path}", timeout=20).json()


def tag_of(crew: Crew, name: str) -> str:
    (tag,) = [file["tag"] for file in api(crew, "/files")["files"] if name in file["names"]]
    return str(tag)


def paths_of(crew: Crew) -> list[str]:
    """Every kind of page there is."""
    tag = tag_of(crew, "plain.bin")
    nodes = [f"/nodes/{program.node}" for program in (crew.daemons[0], crew.storage)]
    return ["/", f"/jobs/{tag}", *nodes, f"/files/{tag}", f"/files/{tag_of(crew, EVIL)}", "/nodes", "/files", "/no"]


def states(window: Window) -> set[str]:
    """What the cells of a chunk map say: their first words."""
    return set(window.page.eval_on_selector_all("#cells i", "cells => cells.map(cell => cell.classList[0])"))


CELL_COLOURS = "() => [...document.querySelectorAll('#cells i')].map(i => getComputedStyle(i).backgroundColor)"
# The graph is a canvas: that something was drawn in the colour of the line is seen in its pixels.
DRAWN = """() => {
    const canvas = document.querySelector('#graph canvas');
    if (!canvas) return 0;
    // On a copy: Chromium mutters about reading the page's own.
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
    let drawn = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at + 1] > data[at] + 40 && data[at + 3] > 200) drawn += 1;
    return drawn;
}"""


def test_an_upload_is_watched_from_its_first_chunk_to_its_end(crew: Crew, browser: Chromium) -> None:
    one, other = crew.daemons
    film = crew.file("film.mkv", SIZE, seed=7)
    share(other, film)
    overview = browser.open("/")
    overview.wait_live()
    before = overview.page.evaluate(DRAWN)
    putting = threading.Thread(target=put, args=(one, film))
    putting.start()
    try:
        # It appears by itself, and leads to its own page.
        link = overview.page.wait_for_selector("article.job h3 a:has-text('film.mkv')", timeout=30_000)
        assert link is not None
        href = link.get_attribute("href")
        assert href is not None and href.startswith("/jobs/")
        job = browser.open(href, dark=True)
        job.wait_live()
        assert job.page.locator("#cells i").count() == 24
        first = job.page.evaluate(CELL_COLOURS)
        assert "m" in states(job)
        job.wait("() => document.querySelector('#cells i.w')")
        job.wait("() => document.querySelector('#cells i.s.c0') && document.querySelector('#cells i.s.c1')")
        job.wait(f"first => JSON.stringify(({CELL_COLOURS})()) !== JSON.stringify(first)", first)
        assert job.page.locator("[data-region=pushed] tr").count() == 2
        overview.wait(f"() => ({DRAWN})() > {before} + 50")
        assert overview.page.inner_text("#rate-now").split()[0] != "0"
        # The end.
        job.wait("() => [...document.querySelectorAll('#cells i')].every(cell => cell.classList[0] === 's')")
        job.wait("() => document.querySelector('#job-head .badge.stored')")
        overview.wait("() => !document.querySelector('article.job')")
    finally:
        putting.join(60)
    wait_stored(crew.storage, href.removeprefix("/jobs/"))
    assert "100 %" in job.page.inner_text("#job-head")
    assert "stored" in job.page.inner_text("[data-region=events]")
    overview.page.click("summary")
    overview.wait("() => document.querySelector('[data-region=ended]').innerText.includes('film.mkv')")
    for window in (overview, job):
        assert window.complaints == [] and window.asked_elsewhere == []


def test_a_map_is_read_with_the_keyboard(crew: Crew, browser: Chromium) -> None:
    window = browser.open(f"/jobs/{tag_of(crew, 'plain.bin')}")
    window.wait_live()
    slider = window.page.get_by_label("Look at a cell")
    slider.focus()
    for which in (2, 3):
        slider.press("ArrowRight")
        said = window.page.inner_text("#cell-says")
        assert said.startswith(f"chunk {which} of 3: stored, pushed by "), said
    assert window.page.locator("#cells i.looked").count() == 1


def test_the_first_thing_a_keyboard_reaches_skips_to_the_content(browser: Chromium) -> None:
    window = browser.open("/")
    window.page.keyboard.press("Tab")
    assert window.page.evaluate("() => document.activeElement.className") == "skip"
    window.page.keyboard.press("Enter")
    assert window.page.evaluate("() => document.activeElement.id") == "main"


def test_a_link_is_copied(crew: Crew, browser: Chromium) -> None:
    window = browser.open(f"/files/{tag_of(crew, 'plain.bin')}")
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    window.page.click("#copy")
    window.wait("() => document.getElementById('copied').textContent === 'Copied.'")
    copied = window.page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith("upswarm:") and "name=plain.bin" in copied


# Pictures of every view, for whoever wants to look at them after a change.
PICTURES = Path(__file__).parents[2] / "build" / "pages"
BRIGHTNESS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d');
    canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
    canvas.fillRect(0, 0, 1, 1);
    return Math.max(...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_is_light_or_dark_as_the_reader_likes(crew: Crew, browser: Chromium, dark: bool) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in paths_of(crew):
        window = browser.open(path, dark=dark)
        if path not in ("/nodes", "/files", "/no"):
            window.wait_live()
        brightness = window.page.evaluate(BRIGHTNESS)
        assert brightness < 64 if dark else brightness > 192, path
        name = "-".join(part[:8] for part in path.strip("/").split("/")) or "overview"
        picture = PICTURES / f"{name}-{'dark' if dark else 'light'}.png"
        window.page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 5000


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_and_no_page_asks_anybody_else(crew: Crew, browser: Chromium, dark: bool) -> None:
    for path in paths_of(crew):
        window = browser.open(path, dark=dark)
        if path not in ("/nodes", "/files", "/no"):
            window.wait_live()
        assert window.faults() == [], path
        assert window.asked_elsewhere == [], path
        assert [text for text in window.complaints if "404" not in text] == [], path


def test_a_phone_needs_no_sideways_scrolling(crew: Crew, browser: Chromium) -> None:
    for path in paths_of(crew):
        window = browser.open(path, width=390)
        assert window.page.evaluate("() => document.documentElement.scrollWidth") <= 390, path


def test_a_name_with_markup_runs_nothing_anywhere(crew: Crew, browser: Chromium) -> None:
    for path in ("/", "/files", f"/files/{tag_of(crew, EVIL)}", f"/jobs/{tag_of(crew, EVIL)}"):
        window = browser.open(path)
        if path != "/files":
            window.wait_live()
        assert window.page.locator("img[onerror]").count() == 0
        assert EVIL in window.page.inner_text("body"), "it is shown, as it is"
        assert window.complaints == [], path


def test_what_a_page_is_told_to_run_by_somebody_else_is_refused_by_the_browser(browser: Chromium) -> None:
    window = browser.open("/")
    window.wait_live()
    window.page.evaluate(
        """() => {
            const script = document.createElement("script");
            try { script.textContent = "window.ran = true"; document.body.append(script); } catch (refused) {}
            const image = new Image();
            image.src = "http://127.0.0.2:9/x.png";
            document.body.append(image);
        }"""
    )
    window.wait("() => window.ran === undefined")
    assert any("Content Security Policy" in text for text in window.complaints)


def test_without_scripts_everything_is_there_and_reloads_itself(crew: Crew, browser: Chromium) -> None:
    tag = tag_of(crew, "plain.bin")
    window = browser.open(f"/jobs/{tag}", scripts=False)
    assert window.page.locator("#cells i.s").count() == 3
    assert window.page.locator("meta[http-equiv=refresh]").count() == 1
    window.go("/")
    assert window.page.locator("#graph svg polyline").count() == 1
    assert "plain.bin" in window.page.inner_text("body")


def test_a_page_says_when_the_tracker_is_gone_and_goes_on_when_it_is_back(crew: Crew, browser: Chromium) -> None:
    window = browser.open("/")
    window.wait_live()
    crew.tracker.kill()
    window.page.wait_for_selector("text=The tracker does not answer", timeout=30_000)
    crew.tracker.start()
    window.wait_live()
    wait_until(lambda: api(crew, "/state")["node_count"] == 3, "all nodes are back")
    window.wait("() => document.querySelectorAll('[data-region=nodes] tr').length === 3")

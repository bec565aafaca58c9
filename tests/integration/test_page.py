"""The tracker's page, over real HTTP."""

from __future__ import annotations

import json

import httpx2
import pytest
from support.crew import Crew, put, share
from support.files import MIB, tag_by_hand
from support.processes import Swarm, wait_until


def state_of(crew: Crew) -> str:
    """What the page's programs see."""
    answer = httpx2.get(f"http://{crew.tracker.ready['http']}/api/v1/state", timeout=10)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    return json.dumps(answer.json())


def test_the_page_shows_nodes_tags_and_open_jobs(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="2M")
    uploader, other = crew.daemons
    stored, shared, open_ = (
        crew.file(f"{word}.bin", MIB * size, size) for word, size in (("a", 1), ("b", 2), ("c", 20))
    )
    put(uploader, stored)
    share(other, shared)
    put(uploader, open_, wait="no")
    for thing in (crew.storage.node, uploader.node, other.node, *map(tag_by_hand, (stored, shared, open_)), "open"):
        wait_until(lambda thing=thing: thing in state_of(crew), f"{thing} is shown")
    page = httpx2.get(f"http://{crew.tracker.ready['http']}/", timeout=10)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "Upswarm" in page.text


def test_the_page_is_read_only_and_strict(crew: Crew) -> None:
    base = f"http://{crew.tracker.ready['http']}"
    page = httpx2.get(f"{base}/", timeout=10)
    assert "default-src" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    for method in ("POST", "PUT", "DELETE"):
        assert httpx2.request(method, f"{base}/api/v1/state", timeout=10).status_code == 405
    assert httpx2.get(f"{base}/nowhere", timeout=10).status_code == 404
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert httpx2.get(base + path, timeout=10).status_code in (400, 404)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4180", ""])
def test_a_foreign_host_name_is_refused(crew: Crew, host: str) -> None:
    answer = httpx2.get(f"http://{crew.tracker.ready['http']}/api/v1/state", headers={"host": host}, timeout=10)
    assert answer.status_code in (400, 403, 421)


def test_a_name_with_markup_stays_text(crew: Crew) -> None:
    file = crew.file("markup.bin", 1000, seed=71)
    put(crew.daemons[0], file, name="<img src=x onerror=alert(1)>.bin")
    page = httpx2.get(f"http://{crew.tracker.ready['http']}/", timeout=10)
    assert "<img src=x" not in page.text

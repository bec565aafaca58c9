"""The site of docs/ builds without a complaint, and its pages are in its contents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_site_builds_without_a_complaint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(tmp_path / "site")],
        capture_output=True, text=True, timeout=110, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in ("index", "tutorial", "howto/film-crew", "commands", "configuration", "api", "architecture"):
        assert (tmp_path / "site" / f"{page}.html").exists()
    api = (tmp_path / "site" / "api.html").read_text("utf-8")
    assert "upswarm.client.Client.put" in api and "upswarm.trio_client.connect" in api


def test_every_page_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S) for line in block.splitlines()}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {"index"}
    assert {page for page in pages if not page.startswith("decisions/0")} <= listed

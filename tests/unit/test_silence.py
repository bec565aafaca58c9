"""Who silences a linter or the type checker says which rule, and why: behind it, or in a comment above."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    *("upswarm", "daemon", "tracker", "storage", "exchange", "runtime", "protocol"),
    "tests",
    "bench",
    "fuzz",
    "scripts",
)
SILENCED = re.compile(r"#\s*(?:type: ignore|noqa)\b")
WITH_REASON = re.compile(r"#\s*(?:type: ignore\[[\w, -]+\]|noqa: [\w, ]+?)\s+# \S")
WITH_RULE = re.compile(r"#\s*(?:type: ignore\[[\w, -]+\]|noqa: \w+)")


def unexplained(source: str) -> list[int]:
    """Return the lines that silence something and say not what, or not why."""
    found, explained = [], False
    for number, line in enumerate(source.splitlines(), start=1):
        if SILENCED.search(line):
            if not (WITH_REASON.search(line) or (explained and WITH_RULE.search(line))):
                found.append(number)
        else:
            explained = line.lstrip().startswith("#")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_silenced_line_says_why(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / room).rglob("*.py"))
        if path != Path(__file__)
        for number in unexplained(path.read_text("utf-8"))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = f()  # type: ignore[misc]  # fsspec has no types", []),
        (
            "# There is no other way in.\nx.y = z  # type: ignore[attr-defined]\nx.z = y  # type: ignore[attr-defined]",
            [],
        ),
        ("x = f()  # type: ignore[misc]", [1]),
        ("# Why.\nx = f()  # type: ignore", [2]),
        ("x = 1\ny = f()  # noqa: BLE001", [2]),
        ("y = f()  # noqa: BLE001, ASYNC103  # raised where it was called", []),
        ("y = f()  # noqa", [1]),
    ],
)
def test_the_reader_of_silence_sees_what_is_missing(source: str, lines: list[int]) -> None:
    assert unexplained(source) == lines

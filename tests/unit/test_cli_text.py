from __future__ import annotations

import io
from typing import Any

import pytest

from upswarm.progress import Bars, Lines, Silence, progress_on
from upswarm.text import duration_text, pushed_text, rate_text, report, size_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (48 << 20, "48.0 MiB"), (3 << 50, "3.0 PiB")]
)
def test_sizes_are_shown(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0 B/s"), (999, "999 B/s"), (2.5e6, "2.5 MB/s"), (3e9, "3.0 GB/s")])
def test_rates_are_shown(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (18600, "5 h 10 min"),
        (187200, "2 d 4 h"),
        (1e9, "11574 d 1 h"),
    ],
)
def test_durations_are_shown(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_who_pushed_most_stands_first_under_its_name() -> None:
    assert pushed_text({"a" * 52: 1, "b" * 52: 2, "c" * 52: 1}, {"c" * 52: "peer 3"}) == (
        "bbbbbbbb 2 B, aaaaaaaa 1 B, peer 3 1 B"
    )


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ([], ""),
        ({}, ""),
        ("x", "x"),
        (["a", "b"], "a\nb"),
        (
            {"up": None, "size": 1024, "ok": True, "pushed": {"a" * 52: 5}},
            "up: -\nsize: 1.0 KiB\nok: yes\npushed: aaaaaaaa 5 B",
        ),
        ([{"a": 1}, {"a": 22, "b": "x"}], "A   B\n1   -\n22  x"),
        ([{"node": "a" * 52, "holders": ["b" * 52]}], f"NODE          HOLDERS\n{'a' * 12}  {'b' * 12}"),
        ({"inner": {"seconds": 5}}, "inner:\n  seconds: 5.0 s"),
    ],
)
def test_any_answer_can_be_read(thing: Any, text: str) -> None:
    assert report(thing) == text


def progress(state: str, done: int, name: str = "a") -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "state": state,
        "bytes_total": 100,
        "bytes_stored": done,
        "pushed": {"a" * 52: done},
    }


def test_plain_lines_come_with_each_change_and_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = Lines(stream, {"a" * 52: "peer 1"}, lambda: now[0])
    for seconds, params in (
        (0.0, progress("sending", 0)),
        (0.1, progress("sending", 10)),
        (0.2, progress("sending", 5, "b")),
        (2.1, progress("sending", 50)),
        (2.2, progress("stored", 100)),
    ):
        now[0] = seconds
        lines.notice("progress", params)
    lines.notice("other", {})
    assert stream.getvalue().splitlines() == [
        "a: sending, 0 B of 100 B (0 %) | peer 1 0 B",
        "b: sending, 5 B of 100 B (5 %) | peer 1 5 B",
        "a: sending, 50 B of 100 B (50 %) | peer 1 50 B",
        "a: stored, 100 B of 100 B (100 %) | peer 1 100 B",
    ]


def test_why_a_file_waits_is_a_line_at_once() -> None:
    stream = io.StringIO()
    lines = Lines(stream, {}, lambda: 0.0)
    waiting = {"id": "p1", "name": "a", "state": "asking"}
    for params in (
        waiting,
        {**waiting, "note": "no room"},
        {**waiting, "note": "no room"},
        {**waiting, "paused": True},
    ):
        lines.notice("progress", params)
    assert stream.getvalue().splitlines() == ["a: asking", "a: asking (no room)", "a: asking (paused)"]


def test_bars_are_drawn_on_a_terminal_only_with_each_helpers_share() -> None:
    stream = Terminal()
    bars = progress_on(stream, names={"a" * 52: "peer 1"})
    assert isinstance(bars, Bars) and isinstance(progress_on(io.StringIO()), Lines)
    assert isinstance(progress_on(stream, quiet=True), Silence)
    with bars:
        bars.notice("progress", {**progress("sending", 40), "rate": 1e6, "eta_seconds": 3, "name": "[b]\x1b[2Jx"})
        bars.notice("progress", {**progress("hashing", 0, "c"), "bytes_total": None})
    text = stream.getvalue()
    assert "peer 1" in text and "40 B" in text and "[b]\\x1b[2Jx" in text and "\x1b[2J" not in text

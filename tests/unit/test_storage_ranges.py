"""The Range header, held to the plainest model: which bytes would somebody with the RFC in hand send?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.ranges import RANGES_MAX, Span, Unsatisfiable, wanted_spans


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=10-19", [(10, 20)]),
        ("bytes=90-1000", [(90, 100)]),
        ("bytes=-10", [(90, 100)]),
        ("bytes=-1000", [(0, 100)]),
        ("Bytes = 1-2", [(1, 3)]),
        ("bytes=0-0, 50-59 ,-1", [(0, 1), (50, 60), (99, 100)]),
        ("bytes=100-,5-5", [(5, 6)]),
        ("bytes=,5-5,,", [(5, 6)]),
    ],
)
def test_ranges_are_read_as_the_rfc_says(header: str, spans: list[tuple[int, int]]) -> None:
    assert wanted_spans(header, 100) == [Span(*span) for span in spans]


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=x", "bytes=5-4", "bytes=-", "lines=1-2", "bytes=1-2;3", "bytes=--1"),
        *("bytes=1-2-3", "bytes=0-,0-", "bytes=" + "9" * 30 + "-", "bytes=٣-٤"),
        "bytes=" + ",".join(["0-0"] * (RANGES_MAX + 1)),
    ],
)
def test_what_makes_no_sense_or_too_much_is_ignored(header: str) -> None:
    assert wanted_spans(header, 100) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)])
def test_nothing_of_it_is_told_as_such(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        wanted_spans(header, size)


@given(st.text(max_size=40) | st.from_regex(r"bytes=[0-9,\- ]{0,20}", fullmatch=True), st.integers(0, 10**15))
def test_whatever_is_asked_for_the_answer_is_within_the_file_and_no_longer_than_it(header: str, size: int) -> None:
    try:
        spans = wanted_spans(header, size)
    except Unsatisfiable:
        return
    if spans is not None:
        assert spans and all(0 <= span.start < span.end <= size for span in spans)
        assert sum(span.end - span.start for span in spans) <= size

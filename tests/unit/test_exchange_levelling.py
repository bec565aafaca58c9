"""Which chunks are copied to whom at the end of a lent upload."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from exchange.levelling import Load, copies, seconds_left

RATE = 1000.0


def line(*has: int, rate: float = RATE, owed: int = 0, copy_seconds: float | None = 0.1) -> Load:
    return Load(rate, owed, has, copy_seconds)


def test_lines_that_have_as_much_to_do_need_no_copies() -> None:
    assert copies({1: 1000, 2: 1000}, {1: line(1), 2: line(2)}, 10) == []


def test_who_has_nothing_to_do_gets_a_part_of_what_another_one_has() -> None:
    assert copies({1: 1000}, {1: line(1), 2: line()}, 10) == [(2, 1)]


def test_what_a_line_is_asked_for_already_counts() -> None:
    assert copies({1: 1000, 2: 1000}, {1: line(1, owed=2000), 2: line(2)}, 10) == [(2, 1)]


def test_a_slow_line_passes_on_what_it_would_be_late_with() -> None:
    assert copies({1: 1000, 2: 1000}, {1: line(1, rate=200.0), 2: line(2)}, 10) == [(2, 1)]


def test_who_has_everything_already_takes_what_others_have_over() -> None:
    uploader = line(1, 2, 3, copy_seconds=None)
    assert copies({1: 1000, 2: 1000, 3: 1000}, {1: uploader, 2: line(1, 2), 3: line(3)}, 10) == []


def test_nine_lines_need_eight_copies_of_what_one_has() -> None:
    rests = dict.fromkeys(range(9), 1000)
    found = copies(rests, {1: line(*rests), **{link: line() for link in range(2, 10)}}, 10)
    assert len(found) == 8 and {source for source, _ in found} == set(range(2, 10))


def test_a_part_that_is_not_worth_it_is_left_where_it_is() -> None:
    lines = {1: line(1), 2: line(2)}
    assert copies({1: 1100, 2: 1000}, lines, 51) == []
    assert copies({1: 1100, 2: 1000}, lines, 49) == [(2, 1)]


def test_a_copy_that_comes_when_all_is_done_is_of_no_use() -> None:
    assert copies({1: 1000}, {1: line(1), 2: line(copy_seconds=0.5)}, 10) == []
    assert copies({1: 1000}, {1: line(1), 2: line(copy_seconds=0.4)}, 10) == [(2, 1)]


def test_nobody_can_say_when_no_line_delivers() -> None:
    assert seconds_left({1: 1000}, {}) == math.inf
    assert copies({1: 1000}, {}, 10) == []


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, Load]]:
    chunks = draw(st.integers(1, 12))
    rests = {chunk: draw(st.integers(1, 1000)) for chunk in range(chunks)}
    loads = {
        source: Load(
            draw(st.floats(1.0, 1000.0)),
            draw(st.integers(0, 2000)),
            draw(st.sets(st.sampled_from(range(chunks)))),
            draw(st.none() | st.floats(0.0, 5.0)),
        )
        for source in range(draw(st.integers(1, 9)))
    }
    return rests, loads


@given(situations(), st.integers(1, 200))
def test_no_more_copies_than_lines_but_one_each_to_who_has_not_got_it_and_lacks_work(
    situation: tuple[dict[int, int], dict[int, Load]], bytes_min: int
) -> None:
    rests, loads = situation
    seconds = seconds_left(rests, loads)
    found = copies(rests, loads, bytes_min)
    held = [chunk for chunk in rests if any(chunk in load.has for load in loads.values())]
    receivers = {source for source, _ in found}
    assert len(found) == len(receivers) and (len(found) < len(loads) or len(held) < len(rests))
    for source, chunk in found:
        load = loads[source]
        assert chunk not in load.has and load.copy_seconds is not None and load.copy_seconds < seconds
        # It would have been idle before all are done.
        assert load.owed_bytes + bytes_min <= seconds * load.rate + 1e-6

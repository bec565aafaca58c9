"""The timetable against the plainest model: a list of all minutes of the week, painted entry by entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.timetable import DAYS, WEEK_MINUTES, WEEK_SECONDS, Caps, Timetable

RATES = st.sampled_from(["off", "512k", "1M", "20mbit", "1.5MiB"])
BYTES = {"off": None, "512k": 512e3, "1M": 1e6, "20mbit": 2.5e6, "1.5MiB": 1.5 * 1024**2}
BANDWIDTHS = st.lists(RATES, min_size=1, max_size=3)
TIMES = st.tuples(st.none() | st.integers(0, 6), st.integers(0, 23), st.integers(0, 59))
ENTRIES = st.dictionaries(TIMES, BANDWIDTHS, max_size=12)


def written(entries: dict[tuple[int | None, int, int], list[str]]) -> str:
    return " ".join(
        f"{'' if day is None else DAYS[day].title() + '-'}{hour:02}:{minute:02},{':'.join(rates)}"
        for (day, hour, minute), rates in entries.items()
    )


def caps_of(rates: list[str]) -> Caps:
    return Caps(*[BYTES[rate] for rate in (rates * 2 if len(rates) == 1 else rates)])


def painted(entries: dict[tuple[int | None, int, int], list[str]]) -> list[Caps]:
    """Two weeks are painted, so that the second begins with what the first ended with."""
    starts: dict[int, Caps] = {}
    for weekly in (False, True):
        for (day, hour, minute), rates in entries.items():
            if (day is not None) == weekly:
                for each in range(7) if day is None else [day]:
                    starts[(each * 24 + hour) * 60 + minute] = caps_of(rates)
    now, minutes = Caps(), []
    for minute in range(2 * WEEK_MINUTES):
        now = starts.get(minute % WEEK_MINUTES, now)
        minutes.append(now)
    return minutes[WEEK_MINUTES:]


@given(ENTRIES, st.lists(st.floats(0, 3 * WEEK_SECONDS), min_size=1, max_size=20))
def test_at_every_moment_it_says_what_the_painted_week_says(entries: dict, moments: list[float]) -> None:
    table, model = Timetable.parse(written(entries)), painted(entries)
    for second in moments:
        assert table.at(second) == model[int(second % WEEK_SECONDS // 60)]


@given(ENTRIES, st.floats(0, WEEK_SECONDS, exclude_max=True))
def test_nothing_changes_before_the_next_entry_and_there_is_one_then(entries: dict, second: float) -> None:
    table = Timetable.parse(written(entries))
    wait = table.seconds_to_next(second)
    if not entries:
        assert wait is None and not table
        return
    assert wait is not None and 0 < wait <= WEEK_SECONDS
    for part in (0.25, 0.5, 0.999):
        assert table.at(second + wait * part) == table.at(second)
    assert round((second + wait) / 60) % WEEK_MINUTES in table.minutes


@given(ENTRIES)
def test_what_it_keeps_as_text_reads_the_same(entries: dict) -> None:
    table = Timetable.parse(written(entries))
    assert Timetable.parse(table.text) == table
    assert Timetable.parse(f"  {written(entries)}\n") == table, "spaces mean nothing"


@given(st.text(max_size=60))
def test_any_text_is_a_timetable_or_refused_in_words(text: str) -> None:
    try:
        Timetable.parse(text)
    except ValueError as error:
        assert str(error)


@given(st.builds(Caps, *[st.none() | st.floats(1, 1e9)] * 3), st.builds(Caps, *[st.none() | st.floats(1, 1e9)] * 3))
def test_the_lower_cap_holds(one: Caps, other: Caps) -> None:
    both = one.within(other)
    assert both == other.within(one) and both.within(one) == both and one.within(Caps()) == one
    for key in ("up", "down", "help"):
        given_caps = [cap for cap in (getattr(one, key), getattr(other, key)) if cap is not None]
        assert getattr(both, key) == min(given_caps, default=None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10M", "no entry"),
        ("08:00,512", "no unit"),
        ("24:00,1M", "no time of the day"),
        ("08:60,1M", "no time of the day"),
        ("Sunny-08:00,1M", "no weekday"),
        ("08:00,1M 8:00,2M", "already"),
        ("08:00,0k", "pause instead"),
        ("08:00,1M:2M:3M:4M", "UP:DOWN:HELP"),
        ("08:00,1M,2M", "no.* a rate|is not a rate"),
        ("08:00,", "no entry"),
        ("08:00,1M:", "rate"),
        ("x" * 20_000, "at most"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Timetable.parse(text)


def test_examples_of_rclone() -> None:
    table = Timetable.parse("Mon-00:00,512k Fri-23:59,10M Sat-10:00,1M Sun-20:00,off")
    friday = 4 * 86400
    assert table.at(0).up == 512e3 == table.at(friday).down
    assert table.at(friday + 86400 - 60).up == 10e6
    assert table.at(6 * 86400 + 21 * 3600) == Caps()
    assert Timetable.parse("12:00,10M:100k").at(0) == Caps(10e6, 100e3)

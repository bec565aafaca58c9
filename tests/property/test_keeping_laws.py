"""Laws of keeping: what goes and what never does, quotas, and when files are read again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pairs import some_tag

from protocol.ids import NodeId, Tag
from storage.keeping.quotas import Quotas, excess
from storage.keeping.schedule import DAY_SECONDS, is_behind, next_file, next_scrub, pause_seconds
from storage.keeping.terms import Due, Terms, due, ends_at
from storage.ledger.base import Binding, Scrub

TAGS = [some_tag(str(number), 2) for number in range(6)]
NODE = NodeId("a" * 52)
seconds = st.one_of(st.none(), st.integers(0, 400).map(float))
terms_of = st.builds(Terms, seconds, seconds)
untils = st.one_of(st.none(), st.just(-1), st.integers(0, 1000))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Binding], dict[Tag, int]]:
    rows, at = [], 0
    for position in range(draw(st.integers(0, 12))):
        at += draw(st.integers(0, 60))
        rows.append(
            Binding(
                position=position,
                tag=draw(st.sampled_from(TAGS)),
                name=draw(st.sampled_from("abc")),
                node=NODE,
                stored_at=at,
                until=draw(untils),
            )
        )
    stored = {tag: draw(st.integers(0, 500)) for tag in draw(st.sets(st.sampled_from(TAGS)))}
    return rows, stored


def newest(rows: list[Binding]) -> dict[str, Binding]:
    return {row.name: row for row in rows}


@given(worlds(), terms_of, st.integers(0, 1500))
def test_no_file_goes_while_a_name_leads_to_it(
    world: tuple[list[Binding], dict[Tag, int]], terms: Terms, now: int
) -> None:
    rows, stored = world
    found = due(rows, stored, terms, float(now))
    left = [row for row in rows if row.position not in found.positions]
    assert not {row.tag for row in left} & set(found.tags)
    assert set(found.tags) <= set(stored)
    # What a name stands for never changes by time: it ends, or stays.
    for name, row in newest(left).items():
        assert row == newest(rows)[name] and ends_at(row, terms) > now


@given(worlds(), st.integers(0, 10**9))
def test_without_settings_only_what_its_put_said_goes(world: tuple[list[Binding], dict[Tag, int]], now: int) -> None:
    rows, stored = world
    found = due(rows, stored, Terms(), float(now))
    said = [row for row in rows if row.until not in (None, -1) and (row.until or 0) <= now]
    names = {row.name for row in said if newest(rows)[row.name] == row}
    assert set(found.positions) == {row.position for row in rows if row in said or row.name in names}
    if not said:
        assert found.positions == () and found.tags == ()


@given(worlds(), terms_of, st.integers(0, 800), st.integers(0, 800))
def test_what_is_due_stays_due_and_nothing_is_before_the_next_look(
    world: tuple[list[Binding], dict[Tag, int]], terms: Terms, now: int, more: int
) -> None:
    rows, stored = world
    first = due(rows, stored, terms, float(now))
    later = due(rows, stored, terms, float(now + more))
    assert set(first.positions) <= set(later.positions) and set(first.tags) <= set(later.tags)
    assert first.next_at > now
    if now + more < first.next_at:
        assert (later.positions, later.tags) == (first.positions, first.tags)


@given(worlds(), terms_of, st.integers(0, 1500))
def test_looking_again_after_it_was_done_finds_nothing(
    world: tuple[list[Binding], dict[Tag, int]], terms: Terms, now: int
) -> None:
    rows, stored = world
    found = due(rows, stored, terms, float(now))
    left = [row for row in rows if row.position not in found.positions]
    kept = {tag: since for tag, since in stored.items() if tag not in found.tags}
    again = due(left, kept, terms, float(now))
    assert (again.positions, again.tags) == ((), ())


def row(position: int, tag: Tag, name: str, at: int, until: int | None = None) -> Binding:
    return Binding(position=position, tag=tag, name=name, node=NODE, stored_at=at, until=until)


def test_an_earlier_version_goes_its_time_after_a_newer_one_came() -> None:
    one, two, *_ = TAGS
    rows, stored = [row(1, one, "a", 0), row(2, two, "a", 100)], {one: 0, two: 100}
    terms = Terms(None, 50.0)
    assert due(rows, stored, terms, 149.0) == Due((), (), 150.0)
    assert due(rows, stored, terms, 150.0) == Due((1,), (one,), math.inf)


def test_an_earlier_version_does_not_come_back_when_its_name_ends() -> None:
    one, two, *_ = TAGS
    rows, stored = [row(1, one, "a", 0), row(2, two, "a", 100, until=200)], {one: 0, two: 100}
    assert due(rows, stored, Terms(), 199.0) == Due((), (), 200.0)
    found = due(rows, stored, Terms(), 200.0)
    assert found.positions == (1, 2) and set(found.tags) == {one, two}


# --- quotas ---


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_quota_holds_to_the_byte(used: int, size: int, most: int) -> None:
    assert (excess("x", used, size, most) is None) == (used + size <= most)


def test_prefixes_bound_the_names_that_begin_with_them() -> None:
    quotas = Quotas.of_settings(None, ("renders/=500GiB", "=2TiB", "a=b=1kB"))
    assert quotas.prefix_bytes == {"renders/": 500 * 1024**3, "": 2 * 1024**4, "a=b": 1000}
    assert quotas.prefixes_of("renders/x") == ["renders/", ""]
    assert quotas.prefixes_of("render") == [""]
    for wrong in ("renders/", "x=much"):
        with pytest.raises(ValueError):
            Quotas.of_settings(None, (wrong,))


# --- scrubs ---


@given(st.integers(0, 10**10), st.floats(0, 1))
def test_every_file_is_due_within_25_to_35_days(now: int, draw: float) -> None:
    scrub = next_scrub(float(now), draw)
    assert scrub.chunk == 0 and 25 * DAY_SECONDS - 1 <= scrub.due_at - now <= 35 * DAY_SECONDS


@given(st.dictionaries(st.sampled_from(TAGS), st.integers(0, 100)))
def test_what_is_due_first_is_read_first(dates: dict[Tag, int]) -> None:
    scrubs = {tag: Scrub(chunk=0, due_at=at) for tag, at in dates.items()}
    first = next_file(scrubs)
    assert (first is None) == (not dates)
    assert first is None or dates[first] == min(dates.values())


@given(st.lists(st.tuples(st.integers(1, 10**8), st.floats(0, 100)), max_size=20), st.floats(1e3, 1e9))
def test_reading_never_goes_faster_than_it_may(reads: list[tuple[int, float]], rate: float) -> None:
    total = sum(size for size, _ in reads)
    took = sum(seconds + pause_seconds(size, rate, seconds) for size, seconds in reads)
    assert took * rate >= total * (1 - 1e-9)


def test_a_pace_that_is_too_slow_is_noticed() -> None:
    assert not is_behind(int(25 * DAY_SECONDS * 1000), 1000.0)
    assert is_behind(int(26 * DAY_SECONDS * 1000), 1000.0)

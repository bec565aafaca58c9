"""What happened, from what passed by: rates, the last hour, maps, events; bounded, and nothing of before is new."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from contract.index_contract import MIB, PEER, STORE, TAG, update
from hypothesis import given
from hypothesis import strategies as st
from support.pairs import node, some_tag

from protocol.errors import RemoteProtocolError
from protocol.ids import NodeId
from protocol.jobmap import ChunkState, code_of, encode_runs
from protocol.messages import JobMap, JobState, JobUpdate, Pushed
from tracker.flow import BIN_SECONDS, HOUR_BINS, Hour, Meter
from tracker.index.base import ENDED_JOBS_MAX
from tracker.journal import EVENT_WORDS, EVENTS_MAX, JOBS_MAX, Journal

WALL = 1_800_000_000.0
BERT = node("bert")


def told(*pushed: tuple[NodeId, int], state: JobState = JobState.OPEN, safe: bool = False) -> JobUpdate:
    shares = tuple(Pushed(node=who, bytes_pushed=count) for who, count in pushed)
    return replace(update(state=state), pushed=shares, safe=safe)


def journal() -> Journal:
    return Journal(100.0, WALL)


def words(journal: Journal) -> list[str]:
    return [event.what for event in reversed(journal.events(tag=TAG))]


# --- flow ---


def test_a_meter_shows_a_steady_flow_as_it_is_and_forgets_one_that_ended() -> None:
    meter = Meter(0.0)
    for tick in range(1, 101):
        meter.add(tick / 2, 500)
        if tick >= 4:
            assert meter.rate(tick / 2) == pytest.approx(1000, rel=0.2)
    assert meter.rate(50 + 30) < 5


def test_one_chunk_at_once_is_no_huge_rate() -> None:
    meter = Meter(0.0)
    meter.add(0.0, MIB)
    assert meter.rate(0.0) <= 1.2 * MIB


@given(st.lists(st.tuples(st.floats(0, 700), st.integers(0, 10**9)), max_size=40))
def test_an_hour_holds_at_most_an_hour_and_loses_nothing_of_it(steps: list[tuple[float, int]]) -> None:
    hour, now, came = Hour(50.0, WALL), 50.0, []
    for seconds, count in steps:
        now += seconds
        hour.add(now, count)
        came.append((int((now - 50.0 + WALL) // BIN_SECONDS), count))
    points = hour.points(now)
    assert len(points) <= HOUR_BINS
    assert {later.at - earlier.at for earlier, later in pairwise(points)} <= {5}
    last = int((now - 50.0 + WALL) // BIN_SECONDS)
    assert points[-1].at == last * BIN_SECONDS
    for point in points[:-1]:
        expected = sum(count for number, count in came if number * BIN_SECONDS == point.at)
        assert point.bytes_per_second == round(expected / BIN_SECONDS)


def test_the_bin_that_is_not_over_shows_what_flows_now() -> None:
    hour = Hour(0.0, WALL)
    hour.add(2.0, 2000)
    assert hour.points(2.0)[-1].bytes_per_second == 1000


# --- jobs ---


def test_what_was_pushed_before_we_looked_is_no_flow() -> None:
    log = journal()
    log.job(STORE, told((PEER, 50 * MIB)), 100.0, WALL)
    assert log.rate(100.0) == 0 and log.bytes_pushed == 0 and words(log) == ["seen"]
    log.job(STORE, told((PEER, 52 * MIB), (BERT, MIB)), 102.0, WALL)
    assert log.bytes_pushed == 3 * MIB
    assert log.share_rate(TAG, STORE, PEER, 102.0) == pytest.approx(2 * log.share_rate(TAG, STORE, BERT, 102.0))
    assert log.job_rate(TAG, STORE, 102.0) > log.node_rate(BERT, 102.0) > 0
    assert sum(point.bytes_per_second for point in log.history(102.0)) > 0


def test_a_storage_node_that_counts_backwards_breaks_nothing() -> None:
    log = journal()
    log.job(STORE, told((PEER, 5 * MIB)), 100.0, WALL)
    log.job(STORE, told((PEER, MIB)), 101.0, WALL)
    log.job(STORE, told((PEER, 2 * MIB)), 102.0, WALL)
    assert log.bytes_pushed == MIB


def test_events_tell_the_story_of_a_job_once_each() -> None:
    log = journal()
    story = [
        told(),
        told((PEER, MIB)),
        told((PEER, 2 * MIB), (BERT, MIB)),
        told((PEER, 2 * MIB), (BERT, 2 * MIB), safe=True),
        told((PEER, 2 * MIB), (BERT, 6 * MIB), safe=True, state=JobState.COMMITTING),
        told((PEER, 2 * MIB), (BERT, 6 * MIB), safe=True, state=JobState.COMMITTING),
        told((PEER, 2 * MIB), (BERT, 6 * MIB), safe=True),
        told((PEER, 2 * MIB), (BERT, 6 * MIB), safe=True, state=JobState.STORED),
    ]
    for second, step in enumerate(story):
        log.job(STORE, step, 100.0 + second, WALL + second)
        log.ordered(BERT, TAG, STORE, WALL + second)
    assert words(log) == [
        "opened",
        "ordered",
        "pushes",
        "pushes",
        "safe",
        "committing",
        "reopened",
        "stored",
    ]
    assert log.order_of(TAG, STORE) == (PEER, BERT), "also when it has ended, in the order in which they began"
    assert [event.what for event in log.events(node=BERT)] == ["pushes", "ordered"]
    assert all(event.what in EVENT_WORDS for event in log.events())


def test_connections_are_told_with_the_node_only() -> None:
    log = journal()
    log.node("connected", PEER, WALL)
    log.node("disconnected", PEER, WALL + 1, "bye")
    assert [event.what for event in log.events(node=PEER)] == ["disconnected", "connected"]
    assert log.events() == () == log.events(node=BERT)


def test_a_job_that_vanished_untold_is_forgotten_and_counted_anew() -> None:
    log = journal()
    log.job(STORE, told((PEER, MIB)), 100.0, WALL)
    log.keep([])
    assert log.order_of(TAG, STORE) == ()
    log.job(STORE, told((PEER, 4 * MIB)), 200.0, WALL)
    log.keep([(TAG, STORE)])
    assert log.bytes_pushed == 0 and log.order_of(TAG, STORE) == (PEER,)


# --- maps ---


def shown(*codes: int) -> JobMap:
    return JobMap(tag=TAG, senders=(PEER,), runs=encode_runs(codes))


def test_the_last_map_is_kept_also_of_a_job_that_ended() -> None:
    log = journal()
    whole = shown(*[code_of(ChunkState.STORED, 1)] * 8)
    log.map(STORE, whole)
    assert log.map_of(TAG, STORE) is None, "nobody told of such a job"
    log.job(STORE, told(), 100.0, WALL)
    log.map(STORE, shown(*[0] * 8))
    log.map(STORE, whole)
    log.job(STORE, told(state=JobState.STORED), 101.0, WALL)
    kept = log.map_of(TAG, STORE)
    assert kept is not None and list(kept.codes) == [code_of(ChunkState.STORED, 1)] * 8 and kept.senders == (PEER,)
    with pytest.raises(RemoteProtocolError):
        log.map(STORE, shown(0, 0))


# --- bounds ---


def test_nothing_grows_without_end() -> None:
    log = journal()
    for number in range(JOBS_MAX + 10):
        log.job(STORE, replace(told(), tag=some_tag(str(number), 8)), 100.0, WALL)
    assert log.order_of(some_tag(str(JOBS_MAX + 5), 8), STORE) == ()
    assert len(log.events(limit=10**6)) == EVENTS_MAX
    for number in range(ENDED_JOBS_MAX + 1):
        log.job(STORE, replace(told((PEER, 1), state=JobState.FAILED), tag=some_tag(str(number), 8)), 100.0, WALL)
    assert log.order_of(some_tag("0", 8), STORE) == ()
    assert log.order_of(some_tag("1", 8), STORE) == (PEER,)

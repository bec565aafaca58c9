"""Who is to put which chunk: all have something to do, the slow and silent are replaced, nobody earns twice."""

from __future__ import annotations

import hashlib

from protocol.bitmap import Bitmap
from protocol.ids import node_id_from_bytes
from storage.grants import AT_ONCE, FAILURES_MAX, SILENT_SECONDS_MAX, SLOW_SECONDS_MIN, SLOW_TIMES, Grants

ANNA, BEN, CLEO = (node_id_from_bytes(hashlib.sha256(name).digest()) for name in (b"anna", b"ben", b"cleo"))
CHUNKS = 12


class Job:
    """What is fresh, kept as the swarm would."""

    def __init__(self, *have: Bitmap) -> None:
        self.grants = Grants()
        self.have = dict(enumerate(have))
        self.fresh = Bitmap.full(CHUNKS)
        for number, node in zip(self.have, (ANNA, BEN, CLEO), strict=False):
            self.grants.join(number, node)

    def next(self, now: float) -> list[tuple[int, int]]:
        fresh = {number: have & self.fresh for number, have in self.have.items()}
        granted = self.grants.next(fresh, self.have, now)
        for _, chunk in granted:
            self.fresh.discard(chunk)
        return granted


def full() -> Bitmap:
    return Bitmap.full(CHUNKS)


def test_each_gets_one_at_first_and_more_once_it_has_shown_that_it_can() -> None:
    job = Job(full(), full())
    first = job.next(0.0)
    assert sorted(number for number, _ in first) == [0, 1]
    assert len({chunk for _, chunk in first}) == 2
    assert job.next(0.1) == []
    number, chunk = first[0]
    assert job.grants.came(number, chunk, 1.0) == (ANNA if number == 0 else BEN, [])
    assert [who for who, _ in job.next(1.0)] == [number] * AT_ONCE


def test_what_only_one_has_goes_first() -> None:
    job = Job(full(), full() - Bitmap.of(CHUNKS, [7]))
    assert (0, 7) in job.next(0.0)


def test_nobody_is_granted_what_it_has_not() -> None:
    job = Job(Bitmap.of(CHUNKS, [3]), Bitmap(CHUNKS))
    assert job.next(0.0) == [(0, 3)]


def test_who_leaves_gives_its_chunks_back() -> None:
    job = Job(full())
    ((_, chunk),) = job.next(0.0)
    assert job.grants.leave(0) == [chunk]
    assert job.grants.leave(0) == []


def test_an_idle_helper_doubles_what_is_late_and_then_nobody_is_credited() -> None:
    job = Job(full(), full())
    job.fresh = Bitmap.of(CHUNKS, [5])
    ((slow, _),) = job.next(0.0)
    fast = 1 - slow
    job.grants.helpers[fast].seconds = 1.0
    late = max(SLOW_SECONDS_MIN, SLOW_TIMES)
    assert job.next(late) == []
    assert job.next(late + 0.1) == [(fast, 5)]
    assert job.next(late + 100.0) == [], "a third one would not help"
    assert job.grants.came(fast, 5, late + 1.0) == (None, [slow])
    # The slow one hears that it is to leave it; what it says then counts for nothing.
    job.grants.dropped(slow, 5)
    assert not job.grants.helpers[slow].out and not job.grants.helpers[slow].failures


def test_a_chunk_that_one_of_two_fails_stays_the_others() -> None:
    job = Job(full(), full())
    job.fresh = Bitmap.of(CHUNKS, [5])
    ((slow, _),) = job.next(0.0)
    ((other, _),) = job.next(1000.0)
    assert not job.grants.failed(slow, 5)
    assert job.grants.failed(other, 5)


def test_who_fails_twice_in_a_row_is_served_the_normal_way() -> None:
    job = Job(full())
    for failure in range(FAILURES_MAX):
        assert not job.grants.helpers[0].normal
        ((_, chunk),) = job.next(float(failure))
        assert job.grants.failed(0, chunk)
    assert job.grants.helpers[0].normal and job.next(10.0) == []


def test_a_success_forgives_a_failure() -> None:
    job = Job(full())
    for _ in range(3):
        ((_, chunk), *_) = job.next(0.0)
        assert job.grants.failed(0, chunk)
        for _, another in job.next(0.0)[:1]:
            job.grants.came(0, another, 1.0)
    assert not job.grants.helpers[0].normal


def test_who_will_not_is_served_the_normal_way_at_once() -> None:
    job = Job(full())
    job.grants.refused(0)
    assert job.next(0.0) == []


def test_a_grant_that_is_not_answered_is_taken_back() -> None:
    job = Job(full())
    ((number, chunk),) = job.next(0.0)
    assert job.grants.silent(SILENT_SECONDS_MAX) == []
    assert job.grants.silent(SILENT_SECONDS_MAX + 1) == [(number, chunk)]


def test_a_claim_of_another_helper_earns_nothing() -> None:
    job = Job(full(), Bitmap(CHUNKS))
    ((_, chunk),) = job.next(0.0)
    assert not job.grants.failed(1, chunk)
    assert job.grants.helpers[0].out

"""Whom the tracker chooses to help, in which order, and who seems near: pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from support.pairs import node, some_tag

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.messages import JobState, JobUpdate, Pushed
from tracker.index.base import Holder, Job, NodeView, Standing
from tracker.matchmaking import Nearness, Repute, choose_helpers, choose_holders, fair_order, nearness
from tracker.trust import RETRY_SECONDS, TRIAL_CHUNKS, TRIAL_SECONDS, Trust

TAG = some_tag("film", 8)
STORE = node("store")
NAMES = [node(f"n{number}") for number in range(30)]
OPEN = Job(
    tag=TAG,
    storage=STORE,
    size_bytes=8,
    name="",
    state=JobState.OPEN,
    reason="",
    chunks_stored=0,
    safe=False,
    uploaders=(),
    pushed=(),
    opened_seconds_ago=0,
    updated_seconds_ago=0,
)


def seen(who: NodeId, *addresses: str, role: Role = Role.PEER) -> NodeView:
    return NodeView(
        node=who,
        role=role,
        name="",
        addresses=addresses or ("198.51.100.1:1",),
        standing=Standing.FRESH,
        seen_seconds_ago=0,
        tags=1,
        room_bytes=0,
        lend=False,
        paused=False,
    )


def holds(who: NodeId, chunks: Sequence[int] | None = None, *addresses: str) -> Holder:
    bitmap = None if chunks is None else Bitmap.of(8, chunks)
    return Holder(node=seen(who, *addresses), bitmap=bitmap, size_bytes=8, names=(), since=0)


def good(_who: NodeId) -> Repute:
    return Repute()


# --- helpers ---


def test_helpers_of_a_job_are_bounded_and_jobs_choose_different_ones() -> None:
    holders = [holds(name) for name in NAMES]
    chosen = choose_helpers(OPEN, holders, good, limit=10)
    assert len(chosen) == 10 == len(set(chosen))
    other = choose_helpers(replace(OPEN, tag=some_tag("other", 8)), holders, good, limit=10)
    assert set(other) != set(chosen)
    counts = dict.fromkeys(NAMES, 0)
    for number in range(300):
        for name in choose_helpers(replace(OPEN, tag=some_tag(f"t{number}", 8)), holders, good, limit=10):
            counts[name] += 1
    assert min(counts.values()) > 60 and max(counts.values()) < 140, "a hundred each, more or less"


def test_who_is_not_trusted_is_ordered_only_for_what_nobody_else_claims() -> None:
    fame = {NAMES[0]: Repute(0.2, due=False), NAMES[1]: Repute(0.3, due=False)}

    def repute(who: NodeId) -> Repute:
        return fame.get(who, Repute())

    doubtful, partly = holds(NAMES[0]), holds(NAMES[1], (0, 1))
    assert choose_helpers(OPEN, [doubtful, partly, holds(NAMES[2])], repute) == [NAMES[2]]
    half = holds(NAMES[2], (0, 1, 2))
    assert choose_helpers(OPEN, [doubtful, partly, half], repute) == [NAMES[2], NAMES[0]]
    assert choose_helpers(OPEN, [doubtful], repute) == [NAMES[0]]
    fame[NAMES[1]] = Repute(0.3, due=True)
    assert choose_helpers(OPEN, [doubtful, partly, holds(NAMES[2])], repute) == [NAMES[2], NAMES[1]], "tried again"


def test_jobs_with_the_fewest_helpers_come_first_then_the_oldest() -> None:
    jobs = [replace(OPEN, tag=some_tag(f"j{number}", 8), opened_seconds_ago=number) for number in range(4)]
    ordered = fair_order([(jobs[0], 1), (jobs[1], 0), (jobs[2], 1), (jobs[3], 0)])
    assert ordered == [jobs[3], jobs[1], jobs[2], jobs[0]]


# --- nearness ---


def test_one_private_network_behind_one_router_is_a_lan() -> None:
    one = seen(NAMES[0], "192.168.1.10:1", "8.8.4.4:1")
    assert nearness(one, seen(NAMES[1], "192.168.1.20:1", "8.8.4.4:1")) is Nearness.LAN
    assert nearness(one, seen(NAMES[1], "192.168.2.20:1", "8.8.4.4:1")) is Nearness.SITE
    assert nearness(one, seen(NAMES[1], "192.168.1.20:1", "9.9.9.9:1")) is Nearness.APART, "another home"
    assert nearness(one, seen(NAMES[1], "192.168.1.20:1")) is Nearness.LAN, "nothing tells them apart"
    assert nearness(one, seen(NAMES[1], "example.org:1")) is Nearness.APART
    assert nearness(seen(NAMES[0], "[fd00::1]:1"), seen(NAMES[1], "[fd00::2]:1")) is Nearness.LAN
    assert nearness(None, one) is Nearness.APART


def test_whoever_asks_for_a_file_is_told_of_near_holders_first() -> None:
    asker = seen(NAMES[0], "192.168.1.10:1", "8.8.4.4:1")
    far = [holds(name, None, f"9.9.9.{number}:1") for number, name in enumerate(NAMES[1:20])]
    same_site = holds(NAMES[20], (1,), "10.0.0.9:1", "8.8.4.4:1")
    same_lan = holds(NAMES[21], (1,), "192.168.1.11:1", "8.8.4.4:1")
    told = choose_holders(TAG, NAMES[0], [*far, same_site, same_lan], limit=4, seen=asker)
    assert [one.node for one in told[:2]] == [NAMES[21], NAMES[20]] and len(told) == 4


# --- trust ---


def told(tag: Tag, stored: int, pushed: dict[NodeId, int]) -> JobUpdate:
    return JobUpdate(
        tag=tag,
        size_bytes=8,
        name="",
        state=JobState.OPEN,
        reason="",
        chunks_stored=stored,
        safe=False,
        uploaders=(),
        pushed=tuple(Pushed(node=who, bytes_pushed=count) for who, count in pushed.items()),
    )


def test_only_a_job_that_moved_on_without_him_speaks_against_a_helper() -> None:
    trust, job, (ada, liar) = Trust(), (TAG, STORE), NAMES[:2]
    for who in (ada, liar):
        trust.ordered(who, job, 0, 0, 0)
    trust.reported(STORE, told(TAG, TRIAL_CHUNKS, {ada: 1}), TRIAL_SECONDS - 1, is_open=True)
    assert trust.of(liar, 10).trust == 1, "too soon"
    trust.reported(STORE, told(TAG, TRIAL_CHUNKS - 1, {ada: 1}), TRIAL_SECONDS, is_open=True)
    assert trust.of(liar, 10).trust == 1, "nothing much has moved"
    trust.reported(STORE, told(TAG, TRIAL_CHUNKS, {ada: 1}), TRIAL_SECONDS, is_open=True)
    assert trust.of(ada, 10).trust == 1 and 0.6 < trust.of(liar, 10).trust < 0.7
    trust.reported(STORE, told(TAG, 8, {ada: 1}), TRIAL_SECONDS + 1, is_open=True)
    assert trust.of(liar, 11).trust > 0.6, "one trial, one miss"
    assert not trust.of(liar, 11).due and trust.of(liar, 10 + RETRY_SECONDS).due


def test_a_list_that_was_cut_speaks_against_nobody() -> None:
    trust, liar = Trust(), node("liar")
    trust.ordered(liar, (TAG, STORE), 0, 0, 0)
    trust.reported(STORE, told(TAG, 8, {node(f"x{number}"): 1 for number in range(256)}), 60, is_open=True)
    assert trust.of(liar, 60).trust == 1


def test_what_is_kept_of_jobs_ends_with_them() -> None:
    trust = Trust()
    for number in range(100):
        tag = some_tag(f"j{number}", 8)
        trust.ordered(NAMES[0], (tag, STORE), 0, 0, 0)
        trust.reported(STORE, told(tag, 0, {}), 1, is_open=False)
    assert trust._count == 0 and not trust._trials

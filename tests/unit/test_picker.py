"""What the picker does in the situations that matter, one by one; the law for all of them is
tests/property/test_picker_machine.py, how fast it ends tests/unit/test_picker_world.py."""

from __future__ import annotations

import random
import time

import pytest

from exchange.assembly import CELL_BYTES, Assembly
from exchange.book import REST_SECONDS, REST_SECONDS_AGAIN
from exchange.picker import Pick, Picker
from exchange.source import STALL_SECONDS, Source
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import CHUNKS_MAX, MIB
from protocol.manifest import Layout

A, B, C = (NodeId(name) for name in "abc")


class Receiver:
    """A picker, and what its sources were asked for and have not answered."""

    def __init__(self, chunks: int, cells: int = 4) -> None:
        self.layout = Layout(chunks * cells * CELL_BYTES, cells * CELL_BYTES, chunks)
        self.picker = Picker(self.layout, Assembly(self.layout), Bitmap.full(chunks), random.Random(1))
        self.now = 10.0
        self.asked: dict[int, list[Pick]] = {}

    def join(self, source: int, node: NodeId, chunks: tuple[int, ...] | None = None) -> None:
        have = Bitmap.full(self.layout.chunks) if chunks is None else Bitmap.of(self.layout.chunks, chunks)
        self.picker.add_source(source, node, have, self.now)
        self.asked[source] = []

    def pick(self, source: int) -> list[Pick]:
        picks = self.picker.picks(source, self.now)
        self.asked[source] += picks
        return picks

    def deliver(self, source: int, count: int = 1, *, right: bool = True, judge: bool = True) -> None:
        """The source answers its oldest requests; whole chunks are judged."""
        for _ in range(count):
            pick = self.asked[source].pop(0)
            if not self.picker.accepts(source, pick.chunk, pick.offset, pick.length):
                self.picker.answered(source, pick.chunk, pick.offset, self.now, gone=False, came=True)
                continue
            whole, _ = self.picker.arrived(source, pick.chunk, pick.offset, self.now)
            if whole and judge:
                if right:
                    self.picker.verified(pick.chunk)
                else:
                    self.picker.wrong(pick.chunk)

    def reject(self, source: int, *, gone: bool = False) -> None:
        """The source rejects its oldest request."""
        pick = self.asked[source].pop(0)
        self.picker.answered(source, pick.chunk, pick.offset, self.now, gone=gone)

    def finish(self, source: int) -> None:
        """The source goes on alone, a cell in ten milliseconds, until all is there."""
        for _ in range(2000):
            if self.picker.complete:
                return
            self.picker.stalled(self.now)
            self.pick(source)
            self.now += 0.01
            if self.asked[source]:
                self.deliver(source)
        raise AssertionError(f"never completes: {self.picker.wanted}")


@pytest.mark.parametrize("others", [0, 1])
def test_at_the_end_something_is_held_back_only_from_who_could_share_it(others: int) -> None:
    receiver = Receiver(chunks=4, cells=32)
    sources = range(1, 2 + others)
    for source in sources:
        receiver.join(source, NodeId(f"node{source}"))

    def left_bytes() -> int:
        wanted = receiver.picker.wanted
        return sum(receiver.layout.bytes_of(chunk) - receiver.picker.came_bytes(chunk) for chunk in wanted)

    while left_bytes() > receiver.layout.size_bytes / 2:
        for source in sources:
            receiver.pick(source)
            receiver.now += 0.001
            receiver.deliver(source)
    receiver.pick(1)
    asked_bytes = sum(pick.length for pick in receiver.asked[1])
    assert asked_bytes == left_bytes() if not others else 0 < asked_bytes < left_bytes() / 2


def test_who_has_the_last_chunks_alone_is_asked_for_enough_however_many_others_there_are() -> None:
    """Storage in a crowd: what is left only the uploader has, and two hundred others have what storage has, too."""
    receiver = Receiver(20, cells=16)
    receiver.join(1, A)
    for source in range(2, 202):
        receiver.join(source, NodeId(f"n{source}"), (0,))
    receiver.picker.hurry(0)
    while receiver.picker.rate_of(1) is None or len(receiver.picker.wanted) > 8:
        receiver.pick(1)
        receiver.now += receiver.asked[1][0].length / 2.5e6
        receiver.deliver(1)
    receiver.pick(1)
    asked_bytes = sum(pick.length for pick in receiver.asked[1])
    assert asked_bytes >= 0.3 * 2.5e6, "a third of a second's worth; less is a round trip's, if none is longer"


def test_a_rejected_request_says_nothing_about_the_rate() -> None:
    receiver = Receiver(4)
    receiver.join(1, A)
    receiver.pick(1)
    receiver.now += 1.0
    receiver.deliver(1)
    rate = receiver.picker.rate_of(1)
    receiver.now += 0.001
    for _ in range(5):
        receiver.reject(1)
    assert receiver.picker.rate_of(1) == rate == pytest.approx(CELL_BYTES)


def test_who_rejects_what_was_not_cancelled_is_left_alone_for_a_while() -> None:
    receiver = Receiver(4)
    receiver.join(1, A)
    receiver.pick(1)
    while receiver.asked[1]:
        receiver.reject(1)
    assert receiver.pick(1) == []
    receiver.now += REST_SECONDS
    assert receiver.pick(1)


def test_a_chunk_that_a_source_lost_is_asked_for_elsewhere_only() -> None:
    receiver = Receiver(1)
    receiver.join(1, A)
    receiver.pick(1)
    receiver.reject(1, gone=True)
    assert 0 not in receiver.picker.have_of(1)
    while receiver.asked[1]:
        receiver.reject(1, gone=True)
    assert receiver.pick(1) == []
    receiver.join(2, B)
    receiver.finish(2)


def test_a_chunk_begun_by_who_left_is_finished_by_a_doubted_node_that_alone_has_it() -> None:
    receiver = Receiver(2)
    receiver.join(1, A, (0,))
    receiver.join(2, B, (1,))
    receiver.pick(1)
    receiver.pick(2)
    receiver.deliver(2, 2)
    receiver.picker.add_have(2, [0])
    receiver.deliver(1, 4, right=False)  # alone, and wrong: A is doubted
    receiver.picker.add_have(1, [0, 1])
    receiver.picker.remove_source(2)  # chunk 1 is half there, and A may not share it
    receiver.finish(1)


def test_a_source_that_never_delivered_takes_over_from_one_that_stalled() -> None:
    receiver = Receiver(1, cells=1)
    receiver.join(1, A)
    assert len(receiver.pick(1)) == 1
    receiver.now += 3 * STALL_SECONDS
    assert [one.source for one in receiver.picker.stalled(receiver.now)] == [1]
    receiver.reject(1)
    receiver.now += REST_SECONDS
    assert len(receiver.pick(1)) == 1  # once more, a cell
    receiver.join(2, B)
    for _ in range(30):
        receiver.now += 0.5
        receiver.picker.stalled(receiver.now)
        if receiver.pick(2):
            break
    receiver.now += 0.1
    receiver.deliver(2)
    assert receiver.picker.complete


def test_a_chunk_is_judged_although_its_only_maker_left_meanwhile() -> None:
    receiver = Receiver(1)
    receiver.join(1, A)
    receiver.pick(1)
    receiver.deliver(1, 4, right=False)
    receiver.picker.add_have(1, [0])
    receiver.pick(1)
    receiver.deliver(1, 4, judge=False)
    receiver.picker.remove_source(1)
    assert receiver.picker.verified(0) == {A: 4 * CELL_BYTES}
    assert receiver.picker.complete


def test_a_new_link_does_not_clear_a_doubted_node() -> None:
    receiver = Receiver(2, cells=16)
    receiver.join(1, A, (0,))
    receiver.pick(1)
    while 0 in receiver.picker.have_of(1):
        receiver.now += 0.1
        receiver.deliver(1, right=False)
        receiver.pick(1)
    receiver.picker.remove_source(1)
    receiver.join(2, B, (1,))
    receiver.pick(2)
    receiver.join(3, A, (1,))
    assert receiver.pick(3) == [], "chunk 1 is shared"


def test_what_a_doubted_node_still_owed_to_a_shared_chunk_is_refused() -> None:
    receiver = Receiver(2, cells=16)
    receiver.join(1, A, (0,))
    receiver.join(2, B, (1,))
    receiver.pick(1)
    receiver.pick(2)
    receiver.deliver(2)
    receiver.picker.add_have(1, [1])
    while 0 in receiver.picker.have_of(1):
        receiver.now += 0.01
        receiver.pick(1)
        receiver.deliver(1, right=False)
    owed = [pick for pick in receiver.asked[1] if pick.chunk == 1]
    assert owed, "it had joined chunk 1"
    assert not any(receiver.picker.accepts(1, pick.chunk, pick.offset) for pick in owed)
    told = {(one.chunk, one.offset) for one in receiver.picker.stalled(receiver.now)}
    assert told == {(pick.chunk, pick.offset) for pick in owed}
    receiver.picker.add_have(2, [0])
    receiver.finish(2)


def test_two_slow_sources_do_not_take_a_chunk_from_each_other_for_ever() -> None:
    receiver = Receiver(1, cells=4)
    receiver.join(1, A)
    receiver.pick(1)
    receiver.deliver(1, 4, right=False)
    receiver.picker.remove_source(1)
    due = {}
    for source in (2, 3):
        receiver.join(source, (B, C)[source - 2])
        due[source] = receiver.now + 6.0
    for _ in range(10_000):
        if receiver.picker.complete:
            break
        receiver.now += 0.1
        receiver.picker.stalled(receiver.now)
        for source in (2, 3):
            receiver.pick(source)
            if not receiver.asked[source]:
                due[source] = receiver.now + 6.0
            elif receiver.now >= due[source]:
                receiver.deliver(source)
                due[source] = receiver.now + 6.0
    assert receiver.picker.complete


def test_who_stalls_with_a_chunk_of_its_own_loses_it_to_who_is_busy_elsewhere() -> None:
    receiver = Receiver(2, cells=16)
    receiver.join(1, A, (0,))
    receiver.pick(1)
    while receiver.asked[1]:
        receiver.now += 0.01
        receiver.deliver(1, right=False)
        receiver.pick(1)
    receiver.picker.add_have(1, [0])
    assert receiver.pick(1)
    receiver.join(2, B)
    receiver.pick(2)
    for _ in range(100):
        receiver.now += 0.1
        if receiver.picker.stalled(receiver.now):
            break
        if len(receiver.asked[2]) > 1:
            receiver.deliver(2)
    while 0 not in {pick.chunk for pick in receiver.pick(2)}:
        assert receiver.asked[2], "it need not be idle to begin it"
        receiver.now += 0.01
        receiver.deliver(2)


def test_what_was_wrong_alone_is_not_asked_for_again_from_the_same_node() -> None:
    receiver = Receiver(2)
    receiver.join(1, A, (0,))
    receiver.join(2, A)
    receiver.pick(1)
    receiver.deliver(1, 4, right=False)
    assert not receiver.picker.have_of(1) and set(receiver.picker.have_of(2)) == {1}


def test_a_chunk_that_begins_anew_does_not_stop_who_still_owes_blocks_of_it() -> None:
    receiver = Receiver(8)
    receiver.join(1, A)
    begun = {pick.chunk for pick in receiver.pick(1)}
    receiver.picker.want_again(begun)
    assert len(receiver.picker.stalled(receiver.now)) == len(receiver.asked[1])
    while receiver.asked[1]:
        receiver.now += 0.05
        receiver.deliver(1)
        receiver.pick(1)
    assert receiver.picker.complete


def test_a_withdrawal_that_was_answered_meanwhile_is_not_told() -> None:
    receiver = Receiver(2)
    receiver.join(1, A)
    receiver.pick(1)
    receiver.picker.want_again(range(2))
    owed = len(receiver.asked[1])
    receiver.deliver(1)
    assert len(receiver.picker.stalled(receiver.now)) == owed - 1


def test_requests_of_a_link_that_is_gone_are_nobodys_to_double() -> None:
    receiver = Receiver(2, cells=1)
    receiver.join(1, A, (0,))
    receiver.join(2, B, (1,))
    receiver.pick(1)
    receiver.pick(2)
    receiver.now += 2.0
    receiver.join(3, C, (0,))
    assert [pick.chunk for pick in receiver.pick(3)] == [0]  # by an order of expectations that knows 1
    receiver.picker.remove_source(1)
    receiver.deliver(3)
    receiver.join(4, C, (0,))
    assert receiver.pick(4) == []


def test_a_chunk_that_one_source_must_make_alone_changes_hands_when_it_is_too_slow() -> None:
    receiver = Receiver(2, cells=64)
    receiver.join(1, A, (0,))
    receiver.pick(1)
    while receiver.asked[1]:
        receiver.now += 0.1
        receiver.deliver(1, right=False)
        receiver.pick(1)
    receiver.picker.add_have(1, [0])  # it has a better copy now, and is slow
    receiver.pick(1)
    receiver.join(2, B)
    receiver.pick(2)
    while not receiver.picker.complete:
        receiver.now += 0.001
        receiver.picker.stalled(receiver.now)
        assert receiver.asked[2], "2 idles, while 1 would need six seconds"
        receiver.deliver(2)
        receiver.pick(2)


def test_what_comes_last_is_doubled_by_who_idles_and_the_loser_is_told() -> None:
    receiver = Receiver(2, cells=4)
    receiver.join(1, A, (0, 1))
    receiver.join(2, B)
    receiver.pick(1)
    receiver.now += 10.0
    receiver.deliver(1)
    receiver.pick(2)
    while receiver.asked[2]:
        receiver.now += 0.01
        pick = receiver.asked[2].pop(0)
        whole, superfluous = receiver.picker.arrived(2, pick.chunk, pick.offset, receiver.now)
        assert all(one.source == 1 for one in superfluous)
        if whole:
            receiver.picker.verified(pick.chunk)
        receiver.pick(2)
    assert receiver.picker.complete


def test_expectations_are_made_once_for_all_who_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(4, cells=16)
    made = 0
    expectations = Source.expectations

    def counted(self: Source, now: float):
        nonlocal made
        made += 1
        return expectations(self, now)

    monkeypatch.setattr(Source, "expectations", counted)
    for source in range(1, 201):
        receiver.join(source, NodeId(f"n{source}"))
    for _ in range(3):
        for source in range(1, 201):
            receiver.pick(source)
    assert made <= 200


@pytest.mark.timing
def test_picks_are_cheap_with_as_many_chunks_as_there_can_be() -> None:
    layout = Layout.of_size(CHUNKS_MAX * 8 * MIB)
    picker = Picker(layout, Assembly(layout), Bitmap.full(layout.chunks), random.Random(1))
    for source in range(8):
        picker.add_source(source, NodeId(f"n{source}"), Bitmap.full(layout.chunks), 0.0)
    picks, spent_seconds, now = 0, 0.0, 0.0
    while picks < 20_000:
        now += 0.05
        for source in range(8):
            began = time.perf_counter()
            asked = picker.picks(source, now)
            spent_seconds += time.perf_counter() - began
            picks += len(asked)
            for pick in asked:
                if picker.arrived(source, pick.chunk, pick.offset, now + 0.04)[0]:
                    picker.verified(pick.chunk)
    assert picks / spent_seconds >= 20_000


def test_who_refuses_one_chunk_and_suggests_another_is_asked_for_that_one() -> None:
    receiver = Receiver(chunks=8)
    receiver.join(1, A)
    refused = {pick.chunk for pick in receiver.pick(1)}
    while receiver.asked[1]:
        receiver.reject(1)
    suggested = next(chunk for chunk in range(8) if chunk not in refused)
    receiver.picker.suggest(1, [suggested])
    assert receiver.pick(1) == [], "not at once"
    receiver.now += REST_SECONDS
    assert [pick.chunk for pick in receiver.pick(1)] == [suggested], "a single request tells whether it gives anything"
    receiver.reject(1)
    receiver.now += REST_SECONDS
    assert receiver.pick(1) == [], "twice in a row: it is left alone for longer"
    receiver.now += REST_SECONDS_AGAIN - REST_SECONDS
    assert len(receiver.pick(1)) == 1
    receiver.deliver(1)
    assert len(receiver.pick(1)) > 1

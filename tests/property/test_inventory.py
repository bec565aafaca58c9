"""The tracker's picture of a node equals the node's book, whatever is held, dropped, lost, repeated or reordered."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.codec import encode
from protocol.ids import Tag
from protocol.limits import CHUNKS_MAX, FRAME_BYTES_MAX, HOLDINGS_PER_FRAME_MAX, NAME_BYTES_MAX, NAMES_PER_TAG_MAX
from protocol.messages import Holding, Inventory
from runtime.inventory import InventoryBook


def tag(number: int, chunks: int = 8) -> Tag:
    return Tag(hashlib.sha256(b"%d" % number).digest(), chunks)


def holding(number: int, state: int = 0) -> Holding:
    return Holding(tag=tag(number), size_bytes=number, names=(), since=state, bitmap=bytes([state % 256]))


class Picture:
    """The plainest tracker: what docs/protocol.md#inventory tells the receiving side to do."""

    def __init__(self) -> None:
        self.epoch = -1
        self.sequence = -1
        self.held: dict[Tag, Holding] = {}
        self.trusted = False

    def receive(self, message: Inventory) -> None:
        if message.full:
            self.epoch, self.held, self.trusted = message.epoch, {}, True
        elif not self.trusted or (message.epoch, message.sequence) != (self.epoch, self.sequence + 1):
            self.trusted = False
            return
        self.sequence = message.sequence
        for item in message.held:
            self.held[item.tag] = item
        for dropped in message.dropped:
            self.held.pop(dropped, None)

    def wants_full(self, epoch: int, sequence: int) -> bool:
        return not self.trusted or (self.epoch, self.sequence) != (epoch, sequence)


class BookAndPicture(RuleBasedStateMachine):
    """A node, a tracker, and a wire that loses, repeats and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.book = InventoryBook(epoch=1)
        self.model: dict[Tag, Holding] = {}
        self.picture = Picture()
        self.wire: deque[Inventory] = deque()

    @rule(number=st.integers(0, 6), state=st.integers(0, 3))
    def hold(self, number: int, state: int) -> None:
        self.book.hold(holding(number, state))
        self.model[tag(number)] = holding(number, state)

    @rule(number=st.integers(0, 6))
    def drop(self, number: int) -> None:
        self.book.drop(tag(number))
        self.model.pop(tag(number), None)

    @rule()
    def say_changes(self) -> None:
        self.wire.extend(self.book.changes())

    @rule()
    def say_everything(self) -> None:
        self.wire.extend(self.book.full())

    @rule()
    def deliver(self) -> None:
        while self.wire:
            self.picture.receive(self.wire.popleft())

    @rule(index=st.integers(0, 5))
    def lose(self, index: int) -> None:
        if index < len(self.wire):
            del self.wire[index]

    @rule(index=st.integers(0, 5))
    def repeat(self, index: int) -> None:
        if index < len(self.wire):
            self.wire.insert(index, self.wire[index])

    @rule()
    def reorder(self) -> None:
        self.wire.rotate(1)

    @rule()
    def node_restarts(self) -> None:
        self.book = InventoryBook(epoch=self.book.epoch + 1)
        for item in self.model.values():
            self.book.hold(item)

    @rule()
    def tracker_restarts(self) -> None:
        self.picture = Picture()

    @rule()
    def heartbeat_heals(self) -> None:
        """After one beat and its answer everything said is known, whatever happened before."""
        self.deliver()
        self.wire.extend(self.book.changes())
        self.deliver()
        if self.picture.wants_full(self.book.epoch, self.book.sequence):
            self.wire.extend(self.book.full())
            self.deliver()
        assert self.picture.held == self.model
        assert not self.picture.wants_full(self.book.epoch, self.book.sequence)

    @invariant()
    def book_equals_model(self) -> None:
        assert {item.tag: item for item in self.book} == self.model

    @invariant()
    def a_picture_that_seems_right_is_right(self) -> None:
        """Epoch and sequence agree, nothing is under way or unsaid: then the picture is the book."""
        if self.picture.wants_full(self.book.epoch, self.book.sequence):
            return
        unsaid = self.book._unsaid
        said = {key: item for key, item in self.model.items() if key not in unsaid}
        assert {key: item for key, item in self.picture.held.items() if key not in unsaid} == said


TestBookAndPicture = BookAndPicture.TestCase
TestBookAndPicture.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 400), max_size=500), st.integers(0, 3))
@settings(max_examples=40)
def test_full_and_changes_in_order_always_equal_the_book(numbers: list[int], extra: int) -> None:
    book, picture = InventoryBook(epoch=7), Picture()
    for number in numbers:
        book.hold(holding(number))
    for message in book.full():
        picture.receive(message)
    for number in numbers[::2]:
        book.drop(tag(number))
    for number in range(500, 500 + extra * 100):
        book.hold(holding(number))
    for message in book.changes():
        assert len(message.held) <= HOLDINGS_PER_FRAME_MAX and len(message.dropped) <= HOLDINGS_PER_FRAME_MAX
        picture.receive(message)
    assert picture.held == {item.tag: item for item in book}
    assert (picture.epoch, picture.sequence) == (book.epoch, book.sequence)


def test_the_largest_possible_message_fits_a_frame() -> None:
    book = InventoryBook(epoch=2**53 - 1)
    name = "n" * NAME_BYTES_MAX
    for number in range(3 * HOLDINGS_PER_FRAME_MAX):
        largest = Holding(
            tag=tag(number, CHUNKS_MAX),
            size_bytes=2**50,
            names=(name,) * NAMES_PER_TAG_MAX,
            since=2**53,
            bitmap=bytes([255]) * (CHUNKS_MAX // 8),
        )
        book.hold(largest)
        book.full()
        if number < HOLDINGS_PER_FRAME_MAX:
            book.drop(largest.tag)
    for number in range(3 * HOLDINGS_PER_FRAME_MAX, 4 * HOLDINGS_PER_FRAME_MAX):
        book.hold(
            Holding(
                tag=tag(number, CHUNKS_MAX),
                size_bytes=2**50,
                names=(name,) * NAMES_PER_TAG_MAX,
                since=2**53,
                bitmap=bytes([255]) * (CHUNKS_MAX // 8),
            )
        )
    for number in range(HOLDINGS_PER_FRAME_MAX, 2 * HOLDINGS_PER_FRAME_MAX):
        book.drop(tag(number, CHUNKS_MAX))
    (both,) = book.changes()
    assert len(both.held) == len(both.dropped) == HOLDINGS_PER_FRAME_MAX
    assert len(encode(both)) <= FRAME_BYTES_MAX
    assert [message.full for message in book.full()] == [True, False]


def test_an_empty_book_still_says_so_in_full_and_has_no_changes() -> None:
    book = InventoryBook(epoch=3)
    assert book.changes() == []
    (message,) = book.full()
    assert message.full and message.held == () and message.sequence == book.sequence == 1


def test_what_changes_nothing_is_not_said() -> None:
    book = InventoryBook(epoch=3)
    notices: list[bool] = []
    book.on_change(notices.append)
    book.drop(tag(1))
    book.hold(holding(1))
    book.hold(holding(1, 1))
    assert len(notices) == 1, "one notice until it was said"
    (message,) = book.changes()
    assert message.held == (holding(1, 1),), "many changes of one tag are one"
    book.hold(holding(1, 1))
    assert book.changes() == [] and len(notices) == 1
    book.drop(tag(1))
    assert notices == [False, True], "that it is gone is urgent"
    (message,) = book.changes()
    assert message.dropped == (tag(1),)


def test_what_becomes_whole_is_urgent_once() -> None:
    book = InventoryBook(epoch=3)
    notices: list[bool] = []
    book.on_change(notices.append)
    part, other_part, whole = holding(1, 1), holding(1, 2), replace(holding(1), bitmap=b"")
    book.hold(part)
    book.hold(other_part)
    assert notices == [False]
    book.hold(whole)
    assert notices == [False, True], "urgent, though there was something to say already"
    book.hold(replace(holding(2), bitmap=b""))
    assert notices == [False, True], "said together"
    book.changes()
    book.hold(replace(whole, since=whole.since + 1))
    assert notices == [False, True, False], "it was whole before"
    book.changes()
    book.hold(replace(whole, names=("another name",)))
    assert notices == [False, True, False, True], "that is what it is asked for by"

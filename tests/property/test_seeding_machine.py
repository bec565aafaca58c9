"""Whatever receivers ask for, in whatever order, no chunk is suggested to two of them, nor after it has left."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exchange.seeding import AHEAD, Seeding, Turn
from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.limits import MIB
from protocol.manifest import Layout

CHUNKS = 8
TAG = Tag(b"t" * 32, CHUNKS)
LAYOUT = Layout.of_size(CHUNKS * MIB)
LINKS = st.integers(1, 4)
CHUNK = st.integers(0, CHUNKS - 1)


class SeedingMachine(RuleBasedStateMachine):
    """Link 1 is storage."""

    def __init__(self) -> None:
        super().__init__()
        self.seeding = Seeding(random.Random(1))
        self.now = 0.0

    @rule(link=LINKS)
    def join(self, link: int) -> None:
        self.seeding.join(link, TAG, self.now, storage=link == 1, origin=self.origin)

    @initialize(origin=st.booleans())
    def begin(self, origin: bool) -> None:
        self.origin = origin

    @rule(link=LINKS, chunk=CHUNK, rate=st.floats(0, 4), apart=st.booleans())
    def ask(self, link: int, chunk: int, rate: float, apart: bool) -> None:
        turn = self.seeding.asked(link, TAG, chunk, self.now, rate=rate, apart=apart)
        assert turn is Turn.FIRST or link != 1, "storage never waits"
        assert turn is not Turn.ELSEWHERE or self.origin, "only who had all sends anybody away"

    @rule(link=LINKS, chunk=CHUNK)
    def ask_nobody_else(self, link: int, chunk: int) -> None:
        """Whoever has no other source asks again and again, for what is suggested if anything is."""
        self.join(link)
        for _ in range(200):
            turn = self.seeding.asked(link, TAG, chunk, self.now)
            if turn is not Turn.ELSEWHERE:
                return
            held = Bitmap.of(CHUNKS, (chunk,))
            suggested = self.seeding.suggestions(link, TAG, held, self.now)
            chunk = suggested[0] if suggested else chunk
            self.now += 1.0
        raise AssertionError("it is sent away for ever")

    @rule(link=LINKS, chunk=CHUNK, quarters=st.integers(1, 4), rate=st.floats(0, 4))
    def send(self, link: int, chunk: int, quarters: int, rate: float) -> None:
        spread = self.seeding._tags.get(TAG)
        counts = spread is not None and spread.owners.get(chunk) == link
        left = spread is not None and chunk in spread.left
        self.seeding.sent(link, TAG, chunk, quarters * MIB // 4, LAYOUT, self.now, rate=rate)
        assert counts or spread is None or (chunk in spread.left) == left, "only its owner can make a chunk leave"

    @rule(link=LINKS, held=st.sets(CHUNK))
    def suggest(self, link: int, held: set[int]) -> None:
        before = self.seeding._tags.get(TAG)
        left = set(before.left) if before else set()
        receiver = before.receivers.get(link) if before else None
        suggested = self.seeding.suggestions(link, TAG, Bitmap.of(CHUNKS, held), self.now)
        if receiver is not None and suggested == [receiver.tested]:
            assert receiver.tested in left, "it was sent away for that"
        else:
            assert set(suggested) <= held - left and len(suggested) <= AHEAD

    @rule(link=LINKS)
    def leave(self, link: int) -> None:
        self.seeding.drop(link)

    @rule(seconds=st.floats(0, 2))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def each_chunk_has_one_owner(self) -> None:
        for spread in self.seeding._tags.values():
            assert spread.receivers
            for link, receiver in spread.receivers.items():
                assert len(receiver.suggested) <= AHEAD
                assert all(spread.owners.get(chunk) == link for chunk in receiver.suggested)
            assert set(spread.owners.values()) <= set(spread.receivers)
            assert not set(spread.owners) & set(spread.left)
            assert spread.invited is None or spread.invited in spread.owners
            assert all(spread.receivers[spread.owners[chunk]].storage for chunk in spread.hungry)


TestSeeding = SeedingMachine.TestCase

"""A bitmap is a set of small integers: every law is that of Python's own sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.bitmap import Bitmap
from protocol.limits import BITMAP_BYTES_MAX, CHUNKS_MAX

lengths = st.one_of(st.integers(1, 40), st.sampled_from([CHUNKS_MAX - 1, CHUNKS_MAX]))


@st.composite
def sets(draw: st.DrawFn, count: int = 1) -> tuple[int, list[set[int]]]:
    length = draw(lengths)
    return length, [draw(st.sets(st.integers(0, length - 1), max_size=50)) for _ in range(count)]


@given(sets(2))
def test_operations_are_those_of_sets(drawn: tuple[int, list[set[int]]]) -> None:
    length, (a, b) = drawn
    left, right = Bitmap.of(length, a), Bitmap.of(length, b)
    assert set(left | right) == a | b
    assert set(left & right) == a & b
    assert set(left - right) == a - b
    assert set(left.missing()) == set(range(length)) - a
    assert (left == right) == (a == b)
    assert left != a
    # Neither side was touched.
    assert (set(left), set(right)) == (a, b)


@given(sets())
def test_iteration_is_in_order_and_length_and_truth_are_those_of_the_set(drawn: tuple[int, list[set[int]]]) -> None:
    length, (a,) = drawn
    bitmap = Bitmap.of(length, a)
    assert list(bitmap) == sorted(a)
    assert len(bitmap) == len(a)
    assert bool(bitmap) == bool(a)
    assert bitmap.complete == (len(a) == length)
    assert Bitmap.full(length).complete


@given(sets(), st.integers(-3, CHUNKS_MAX + 3))
def test_membership_never_raises(drawn: tuple[int, list[set[int]]], index: int) -> None:
    length, (a,) = drawn
    assert (index in Bitmap.of(length, a)) == (index in a)


@given(sets(), st.data())
def test_first_from_goes_round(drawn: tuple[int, list[set[int]]], data: st.DataObject) -> None:
    length, (a,) = drawn
    start = data.draw(st.integers(0, length - 1))
    if a:
        assert Bitmap.of(length, a).first_from(start) == min((i for i in a if i >= start), default=min(a))


@given(sets())
def test_the_wire_form_comes_back(drawn: tuple[int, list[set[int]]]) -> None:
    length, (a,) = drawn
    data = Bitmap.of(length, a).to_bytes()
    assert len(data) == (length + 7) // 8 <= BITMAP_BYTES_MAX
    assert set(Bitmap.from_bytes(length, data)) == a


@given(lengths, st.binary(max_size=12))
def test_any_bytes_are_a_bitmap_or_refused(length: int, data: bytes) -> None:
    try:
        bitmap = Bitmap.from_bytes(length, data)
    except ValueError:
        return
    assert bitmap.to_bytes() == data


def test_chunk_0_is_the_lowest_bit_of_byte_0() -> None:
    assert Bitmap.of(9, [0, 8]).to_bytes() == b"\x01\x01"


def test_bits_behind_the_last_chunk_are_refused() -> None:
    with pytest.raises(ValueError, match="behind the last"):
        Bitmap.from_bytes(7, b"\x80")


def test_a_bitmap_is_no_key() -> None:
    with pytest.raises(TypeError):
        hash(Bitmap(3))


class BitmapAgainstSet(RuleBasedStateMachine):
    """Adding and discarding in any order, beside a set."""

    @initialize(length=lengths)
    def begin(self, length: int) -> None:
        self.length = length
        self.model: set[int] = set()
        self.bitmap = Bitmap(length)

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.length - 1))
        self.model.add(index)
        self.bitmap.add(index)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.length - 1))
        self.model.discard(index)
        self.bitmap.discard(index)

    @rule()
    def go_on_with_a_copy(self) -> None:
        copy = self.bitmap.copy()
        self.bitmap.add(0)
        self.bitmap = copy

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "model"):
            assert set(self.bitmap) == self.model


TestBitmapAgainstSet = BitmapAgainstSet.TestCase

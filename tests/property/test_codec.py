"""Messages to bytes and back; garbage is accepted or refused, and nothing else; a few bytes never claim much memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import BY_TYPE, fullest, messages, plainest, records

from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import kinds_of
from protocol.limits import FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX
from protocol.shape import DEPTH_MAX, ITEMS_MAX

ALL = [m.MESSAGES[number] for number in sorted(m.MESSAGES)]
all_messages = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def accepted_or_refused(body: bytes) -> m.Message | None:
    try:
        message = decode_untrusted(body)
    except RemoteProtocolError as error:
        assert len(str(error)) < 600  # it goes into a log line and a Goodbye
        return None
    if message is not None:
        # What was accepted may be said again: there is no value that only a stranger can produce.
        assert decode_untrusted(encode(message)) == message
    return message


@all_messages
def test_every_message_comes_back(kind: type[m.Message]) -> None:
    @given(BY_TYPE[kind])
    def round_trip(message: m.Message) -> None:
        assert decode_untrusted(encode(message)) == message

    round_trip()


@given(messages)
def test_another_decoder_reads_the_same_bytes_equally(message: m.Message) -> None:
    body = encode(message)
    assert msgspec.msgpack.decode(body) == msgpack.unpackb(body)
    assert msgspec.msgpack.decode(body)[0] == message.TYPE


@given(messages)
def test_another_encoder_writes_what_we_read(message: m.Message) -> None:
    assert decode_untrusted(msgspec.msgpack.encode(msgpack.unpackb(encode(message)))) == message


@given(st.binary(max_size=200))
def test_garbage_is_accepted_or_refused_and_nothing_else(garbage: bytes) -> None:
    accepted_or_refused(garbage)


# Whatever msgpack can say, maps, fractions and extensions included.
anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=17)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@given(st.sampled_from(sorted(m.MESSAGES)), st.lists(anything, max_size=9))
def test_wrong_fields_are_accepted_or_refused_and_nothing_else(number: int, fields: list[Any]) -> None:
    accepted_or_refused(msgpack.packb([number, *fields]))


@given(messages, st.data())
def test_a_changed_message_is_accepted_or_refused_and_nothing_else(message: m.Message, data: st.DataObject) -> None:
    body = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    accepted_or_refused(bytes(body))


@given(messages, st.data())
def test_one_field_of_another_kind_is_accepted_or_refused_and_nothing_else(
    message: m.Message, data: st.DataObject
) -> None:
    raw = msgpack.unpackb(encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(anything)
    accepted_or_refused(msgpack.packb(raw))


@all_messages
def test_a_message_cut_anywhere_is_refused(kind: type[m.Message]) -> None:
    body = encode(plainest(kind))
    for length in range(len(body)):
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(body[:length])
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(body + b"\0")


@all_messages
def test_what_a_newer_node_adds_at_the_end_is_ignored(kind: type[m.Message]) -> None:
    message = plainest(kind)
    raw = msgpack.unpackb(encode(message))
    assert decode_untrusted(msgpack.packb([*raw, "new", 1.5, [b"things"]])) == message


def test_what_a_newer_node_adds_to_a_record_is_ignored() -> None:
    holding = plainest(m.Holding)
    message = m.Inventory(epoch=1, sequence=1, full=True, held=(holding,), dropped=())
    raw = msgpack.unpackb(encode(message))
    raw[4][0].append("new")
    assert decode_untrusted(msgpack.packb(raw)) == message


@all_messages
def test_a_missing_field_is_refused(kind: type[m.Message]) -> None:
    raw = msgpack.unpackb(encode(plainest(kind)))
    with pytest.raises(RemoteProtocolError, match="fields"):
        decode_untrusted(msgpack.packb(raw[:-1]))


@given(st.integers(0, 2**64 - 1).filter(lambda number: number not in m.MESSAGES), st.lists(anything, max_size=3))
def test_an_unknown_type_is_ignored_or_refused_by_its_number(number: int, fields: list[Any]) -> None:
    body = msgpack.packb([number, *[field for field in fields if isinstance(field, int | str | bytes)]])
    if number < m.CRITICAL_TYPES_END:
        with pytest.raises(RemoteProtocolError, match=f"type {number} is critical and unknown"):
            decode_untrusted(body)
    else:
        assert decode_untrusted(body) is None


@pytest.mark.parametrize("first", [-1, True, None, "1", 1.0, b"\1", [1]])
def test_a_type_that_is_no_number_is_refused(first: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(msgpack.packb([first, 1, 2, 3]))


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


HOSTILE = {
    "arrays in arrays": nested(FRAME_BYTES_MAX - 1),
    "arrays that claim": b"\xdc\x10\x00" * (FRAME_BYTES_MAX // 3),
    "arrays that claim, before Hello": b"\xdc\x10\x00" * (FIRST_FRAME_BYTES_MAX // 3),
    "a billion items": b"\xdd\x3f\xff\xff\xff" + b"\x01" * 1000,
    "four gigabytes of text": b"\x92\x01\xdb\xff\xff\xff\xff" + b"x" * 1000,
    "four gigabytes of bytes": b"\x92\x01\xc6\xff\xff\xff\xff" + b"x" * 1000,
    "empty maps": b"\x80" * FRAME_BYTES_MAX,
    "an array of empty maps": b"\xdd" + (FRAME_BYTES_MAX - 5).to_bytes(4, "big") + b"\x80" * (FRAME_BYTES_MAX - 5),
    "empty arrays": b"\xdc\x00\x80" + (b"\xdc\x0f\xfc" + b"\x90" * 4092) * 128,
    "a map that claims": b"\xdf\xff\xff\xff\xff",
    "an extension": b"\xc7\x10\x01" + bytes(16),
    "as many items as may be": b"\xdc" + (ITEMS_MAX - 1).to_bytes(2, "big") + b"\x90" * (ITEMS_MAX - 1),
    "one item more": b"\xdc" + ITEMS_MAX.to_bytes(2, "big") + b"\x90" * ITEMS_MAX,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_refused_with_little_memory(name: str) -> None:
    body = HOSTILE[name]
    assert len(body) <= FRAME_BYTES_MAX
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 4 * FRAME_BYTES_MAX
    if len(body) <= FIRST_FRAME_BYTES_MAX:
        assert peak_bytes <= 4 * FIRST_FRAME_BYTES_MAX


@all_messages
def test_the_largest_message_takes_little_memory(kind: type[m.Message]) -> None:
    body = encode(fullest(kind))
    tracemalloc.start()
    try:
        decode_untrusted(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 4 * FRAME_BYTES_MAX


def test_an_array_may_be_as_deep_as_said_and_no_deeper() -> None:
    assert decode_untrusted(b"\x92\xcc\xff" + nested(DEPTH_MAX - 1)) is None  # type 255 may be ignored
    with pytest.raises(RemoteProtocolError, match="too deep"):
        decode_untrusted(b"\x92\xcc\xff" + nested(DEPTH_MAX))


@all_messages
def test_a_value_that_does_not_fit_is_our_error(kind: type[m.Message]) -> None:
    message = plainest(kind)
    for name, _ in kinds_of(kind):
        values = {other: getattr(message, other) for other, _ in kinds_of(kind)}
        values[name] = object()
        with pytest.raises(LocalProtocolError):
            encode(kind(**values))


@pytest.mark.parametrize(
    "message",
    [
        m.Ping(number=-1),
        m.Ping(number=2**32),
        m.Ping(number=True),
        m.Goodbye(code="x" * 65, reason=""),
        m.Goodbye(code="\ud800", reason=""),
        m.DoorOpen(authority=b"", nonce=bytes(31)),
        m.ListNodes(request=1, after="a" * 51 + "b"),
        m.Hello(version=1, features=("x",) * 33, name="", agent="", addresses=()),
        m.Hello(version=1, features=(), name="", agent="", addresses=("nowhere",)),
        m.Hello(version=1, features=["x"], name="", agent="", addresses=()),
    ],
)
def test_a_value_beyond_its_limit_is_our_error(message: m.Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)


@given(records(m.Holding))
def test_a_record_is_no_message(holding: m.Holding) -> None:
    with pytest.raises(LocalProtocolError):
        encode(m.Inventory(epoch=1, sequence=1, full=False, held=(), dropped=(holding,)))

"""A connection says what may be said, hears what may be heard, and the way bytes are split changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.wire import BY_TYPE, plainest

from protocol import messages as m
from protocol.codec import encode
from protocol.connection import Connection
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import FrameReader, frame
from protocol.ids import Role, Tag
from protocol.limits import FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, PROTOCOL_VERSION
from protocol.states import DOOR_MOVES_IN, DOOR_MOVES_OUT, MOVES, State

HELLO = m.Hello(version=PROTOCOL_VERSION, features=(), name="n", agent="a", addresses=())
TAG = Tag(bytes(32), 1)
roles = st.sampled_from(Role)
Heard = tuple[m.Message, bytes]


def pair(ours: Role = Role.PEER, theirs: Role = Role.STORAGE) -> tuple[Connection, Connection]:
    """Two ends that have said Hello."""
    here, there = Connection(ours, theirs), Connection(theirs, ours)
    there.receive_data(here.send(HELLO))
    here.receive_data(there.send(HELLO))
    assert (here.next_message(), there.next_message()) == (HELLO, HELLO)
    return here, there


def hear(connection: Connection, pieces: Iterable[bytes]) -> Iterator[Heard]:
    """Feed pieces as a socket would: into ``wanted()``, as much as fits each time."""
    block: tuple[m.Message, bytearray] | None = None
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            target = connection.wanted()
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            connection.filled(count)
            rest = rest[count:]
            if block is not None and not connection.in_raw:
                yield block[0], bytes(block[1])
                block = None
            while (message := connection.next_message()) is not None:
                if isinstance(message, m.Block) and message.length:
                    block = message, bytearray(message.length)
                    connection.receive_raw(memoryview(block[1]))
                else:
                    yield message, b""


@st.composite
def conversations(draw: st.DrawFn) -> list[Heard]:
    """Draw what a peer may say to storage, blocks with their bytes."""
    said: list[Heard] = []
    allowed = sorted(MOVES[Role.PEER, Role.STORAGE] - {m.Goodbye, m.Block}, key=lambda kind: kind.TYPE)
    for kind in draw(st.lists(st.sampled_from([*allowed, m.Block]), max_size=6)):
        if kind is m.Block:
            raw = draw(st.binary(max_size=600))
            said.append((m.Block(tag=TAG, chunk=0, offset=0, length=len(raw)), raw))
        else:
            said.append((draw(BY_TYPE[kind]), b""))
    return said


@given(conversations(), st.data())
def test_the_way_bytes_are_split_changes_nothing(said: list[Heard], data: st.DataObject) -> None:
    here, there = pair()
    stream = b"".join(here.send(message) + raw for message, raw in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert list(hear(there, pieces)) == said
    there.receive_end()


@given(conversations())
def test_a_byte_at_a_time_is_as_good(said: list[Heard]) -> None:
    here, there = pair()
    said = [(message, raw) for message, raw in said if len(encode(message)) < 2000]
    stream = b"".join(here.send(message) + raw for message, raw in said)
    assert list(hear(there, (bytes([byte]) for byte in stream))) == said


@given(conversations(), st.data())
def test_a_stream_that_ends_within_something_is_an_error(said: list[Heard], data: st.DataObject) -> None:
    here, there = pair()
    stream = b"".join(here.send(message) + raw for message, raw in said)
    cut = data.draw(st.integers(0, len(stream)))
    ends = {0}
    for message, raw in said:
        ends.add(max(ends) + len(frame(encode(message))) + len(raw))
    list(hear(there, [stream[:cut]]))
    if cut in ends:
        there.receive_end()
        assert there.receiving is State.CLOSED
    else:
        with pytest.raises(RemoteProtocolError, match="in the middle"):
            there.receive_end()


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_accepted_or_refused_and_nothing_else(garbage: bytes, after_hello: bool) -> None:
    _, there = pair() if after_hello else (None, Connection(Role.STORAGE, Role.PEER))
    with contextlib.suppress(RemoteProtocolError):
        list(hear(there, [garbage]))


@pytest.mark.parametrize("size", [0, FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_length_that_may_not_be_is_refused_before_anything_is_allocated(size: int) -> None:
    _, there = pair()
    with pytest.raises(RemoteProtocolError, match="a frame of"):
        there.receive_data(size.to_bytes(4, "big"))


def test_a_stranger_may_say_only_little() -> None:
    for connection in (Connection(Role.PEER, Role.PEER), Connection(Role.TRACKER, None)):
        with pytest.raises(RemoteProtocolError, match="a frame of"):
            connection.receive_data((FIRST_FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_joiner_takes_the_longest_list_of_the_revoked() -> None:
    tracker, joiner = Connection(Role.TRACKER, None), Connection(None, Role.TRACKER)
    joined = m.Joined(certificate=b"", revocations=bytes(256 * 1024), tracker=plainest(m.Joined).tracker)
    joiner.receive_data(tracker.send(joined))
    assert joiner.next_message() == joined


def test_an_empty_or_too_long_body_is_our_error() -> None:
    for body in (b"", bytes(FRAME_BYTES_MAX + 1)):
        with pytest.raises(LocalProtocolError):
            frame(body)


def test_the_reader_takes_raw_bytes_between_frames_only() -> None:
    reader = FrameReader()
    reader.expect_raw(memoryview(bytearray(0)))  # nothing is nothing
    assert not reader.in_raw and not reader.mid_frame
    reader.wanted()[:1] = b"\0"
    reader.filled(1)
    with pytest.raises(AssertionError):
        reader.expect_raw(memoryview(bytearray(1)))


# --- who may say what, when ---

EVERY = [m.MESSAGES[number] for number in sorted(m.MESSAGES)]


@pytest.mark.parametrize("ours", Role)
@pytest.mark.parametrize("theirs", Role)
def test_roles_decide_and_both_directions_obey_one_table(ours: Role, theirs: Role) -> None:
    for kind in EVERY:
        here, there = pair(ours, theirs)
        message = plainest(kind)
        if kind in MOVES[ours, theirs]:
            there.receive_data(here.send(message))
            assert there.next_message() == message
        else:
            with pytest.raises(LocalProtocolError, match="may not be said to them"):
                here.send(message)
            with pytest.raises(RemoteProtocolError, match="may not be said to us"):
                there.receive_data(frame(encode(message)))


def test_every_message_may_be_said_by_somebody() -> None:
    sayable = frozenset().union(*MOVES.values(), DOOR_MOVES_IN, DOOR_MOVES_OUT) | {m.Hello}
    assert sayable == set(EVERY)
    assert set(MOVES) == {(ours, theirs) for ours in Role for theirs in Role}


def test_the_join_door_knows_its_own_messages_only() -> None:
    for kind in EVERY:
        tracker, joiner = Connection(Role.TRACKER, None), Connection(None, Role.TRACKER)
        body = frame(encode(plainest(kind)))
        if kind in DOOR_MOVES_IN:
            assert joiner.send(plainest(kind)) == body
            tracker.receive_data(body)
        else:
            with pytest.raises(RemoteProtocolError):
                tracker.receive_data(body)
        tracker, joiner = Connection(Role.TRACKER, None), Connection(None, Role.TRACKER)
        if kind in DOOR_MOVES_OUT:
            joiner.receive_data(tracker.send(plainest(kind)))
        else:
            with pytest.raises(LocalProtocolError):
                tracker.send(plainest(kind))
            with pytest.raises(RemoteProtocolError):
                joiner.receive_data(body)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in (m.Hello, m.Goodbye)])
def test_nothing_is_said_before_hello(kind: type[m.Message]) -> None:
    connection = Connection(Role.STORAGE, Role.PEER)
    with pytest.raises(RemoteProtocolError, match="before Hello"):
        connection.receive_data(frame(encode(plainest(kind))))
    with pytest.raises(LocalProtocolError, match="before Hello"):
        connection.send(plainest(kind))


def test_nothing_is_said_after_goodbye() -> None:
    here, there = pair()
    there.receive_data(here.send(m.Goodbye(code="bye", reason="")))
    with pytest.raises(LocalProtocolError, match="after Goodbye"):
        here.send(m.Ping(number=1))
    for body in (encode(m.Ping(number=1)), msgpack.packb([200])):
        with pytest.raises(RemoteProtocolError, match="after Goodbye"):
            there.receive_data(frame(body))
    # The other direction is still open: each side closes its own.
    here.receive_data(there.send(m.Ping(number=2)))


def test_hello_is_said_once() -> None:
    here, there = pair()
    with pytest.raises(LocalProtocolError):
        here.send(HELLO)
    with pytest.raises(RemoteProtocolError):
        there.receive_data(frame(encode(HELLO)))


def test_a_refusal_instead_of_hello_is_heard() -> None:
    here, there = Connection(Role.PEER, Role.STORAGE), Connection(Role.STORAGE, Role.PEER)
    goodbye = m.Goodbye(code="busy", reason="too many links")
    here.receive_data(there.send(goodbye))
    assert here.next_message() == goodbye


# --- versions and features that do not exist yet ---


def test_a_newer_version_with_features_we_do_not_know_is_welcome() -> None:
    here, there = Connection(Role.PEER, Role.STORAGE), Connection(Role.STORAGE, Role.PEER)
    newer = m.Hello(version=PROTOCOL_VERSION + 1, features=("teleport", "both"), name="", agent="x", addresses=())
    there.send(m.Hello(version=PROTOCOL_VERSION, features=("both", "ours"), name="", agent="y", addresses=()))
    # And a field that a later version puts at the end.
    there.receive_data(frame(msgpack.packb([*msgpack.unpackb(encode(newer)), "new"])))
    assert there.next_message() == newer
    assert there.features == {"both"}
    there.receive_data(here_says(m.Ping(number=7)))
    assert there.next_message() == m.Ping(number=7)
    assert here.features == frozenset()


def here_says(message: m.Message) -> bytes:
    return frame(encode(message))


def test_features_are_agreed_whoever_speaks_first() -> None:
    def with_features(*features: str) -> m.Hello:
        return m.Hello(version=1, features=features, name="", agent="", addresses=())

    here, there = Connection(Role.PEER, Role.PEER), Connection(Role.PEER, Role.PEER)
    here.receive_data(there.send(with_features("a", "b")))
    assert here.features == frozenset()
    there.receive_data(here.send(with_features("b", "c")))
    assert here.features == there.features == {"b"}


def test_version_0_is_refused() -> None:
    connection = Connection(Role.PEER, Role.PEER)
    with pytest.raises(RemoteProtocolError, match="version 0"):
        connection.receive_data(here_says(m.Hello(version=0, features=(), name="", agent="", addresses=())))


def test_an_unknown_message_is_ignored_unless_critical() -> None:
    _, there = pair()
    there.receive_data(frame(msgpack.packb([255, "whatever"])))
    assert there.next_message() is None
    with pytest.raises(RemoteProtocolError, match="critical"):
        there.receive_data(frame(msgpack.packb([m.CRITICAL_TYPES_END - 1])))


def test_an_unknown_message_does_not_replace_hello() -> None:
    connection = Connection(Role.PEER, Role.PEER)
    with pytest.raises(RemoteProtocolError, match="must be Hello"):
        connection.receive_data(frame(msgpack.packb([200])))


# --- blocks ---


def test_after_a_block_the_caller_must_say_where_its_bytes_belong() -> None:
    here, there = pair()
    there.receive_data(here.send(m.Block(tag=TAG, chunk=0, offset=0, length=3)))
    assert there.raw_bytes_due == 3
    with pytest.raises(LocalProtocolError, match="receive_raw"):
        there.wanted()
    with pytest.raises(LocalProtocolError, match="3 raw bytes are due, not 2"):
        there.receive_raw(memoryview(bytearray(2)))
    target = bytearray(3)
    there.receive_raw(memoryview(target))
    there.receive_data(b"abc" + here.send(m.Ping(number=1)))
    assert target == b"abc"
    assert isinstance(there.next_message(), m.Block)
    assert there.next_message() == m.Ping(number=1)


def test_a_message_that_does_not_fit_was_never_said() -> None:
    connection = Connection(Role.PEER, Role.PEER)
    with pytest.raises(LocalProtocolError):
        connection.send(m.Hello(version=1, features=(), name="x" * 65, agent="", addresses=()))
    assert connection.sending is State.NEW
    connection.send(HELLO)
    with pytest.raises(LocalProtocolError):
        connection.send(m.Goodbye(code="x" * 65, reason=""))
    assert connection.sending is State.READY


class ConnectionAgainstModel(RuleBasedStateMachine):
    """Two ends and what is under way between them, beside the plainest model: a word for each direction's state."""

    @initialize(ours=roles, theirs=roles)
    def begin(self, ours: Role, theirs: Role) -> None:
        self.roles = (ours, theirs)
        self.ends = (Connection(ours, theirs), Connection(theirs, ours))
        self.wires = [b"", b""]  # from each end to the other
        self.said: list[list[m.Message]] = [[], []]
        self.heard: list[list[m.Message]] = [[], []]
        self.state = ["new", "new"]

    @rule(who=st.integers(0, 1), kind=st.sampled_from([kind for kind in EVERY if kind is not m.Block]))
    def say(self, who: int, kind: type[m.Message]) -> None:
        message = plainest(kind)
        if kind is m.Hello:
            message = HELLO  # its plainest version is 0
        allowed = {
            "new": kind in (m.Hello, m.Goodbye),
            "ready": kind in MOVES[self.roles[who], self.roles[1 - who]],
            "closed": False,
        }[self.state[who]]
        if not allowed:
            with pytest.raises(LocalProtocolError):
                self.ends[who].send(message)
            return
        self.wires[who] += self.ends[who].send(message)
        self.said[who].append(message)
        if kind is m.Hello:
            self.state[who] = "ready"
        if kind is m.Goodbye:
            self.state[who] = "closed"

    @rule(who=st.integers(0, 1), count=st.integers(1, 200))
    def deliver(self, who: int, count: int) -> None:
        piece, self.wires[who] = self.wires[who][:count], self.wires[who][count:]
        # What one end may say, the other must take: RemoteProtocolError here fails the test.
        self.heard[who] += [message for message, _ in hear(self.ends[1 - who], [piece])]

    @precondition(lambda self: any(self.wires))
    @rule(who=st.integers(0, 1))
    def deliver_all(self, who: int) -> None:
        self.deliver(who, len(self.wires[who]))

    @invariant()
    def hears_what_was_said_in_order(self) -> None:
        if not hasattr(self, "ends"):
            return
        for who in (0, 1):
            assert self.heard[who] == self.said[who][: len(self.heard[who])]
            if not self.wires[who]:
                assert self.heard[who] == self.said[who]
            assert self.ends[who].sending.value == self.state[who]


TestConnectionAgainstModel = ConnectionAgainstModel.TestCase

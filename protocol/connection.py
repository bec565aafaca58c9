"""One link's words, without the link: what may be sent now, what has come, and whether it was allowed.

Bytes in (``wanted``/``filled`` or ``receive_data``), messages out (``next_message``). After a ``Block`` the caller says
where its raw bytes belong (``receive_raw``), before anything else is read. Knows both ends' roles from the handshake.
Errors of the other side are raised here and nowhere else as ``RemoteProtocolError``; what we try to send against the
rules is a ``LocalProtocolError``.
"""

from __future__ import annotations

from collections import deque

from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import FrameReader, frame
from protocol.ids import Role
from protocol.limits import FRAME_BYTES_MAX, PROTOCOL_VERSION
from protocol.states import DOOR_MOVES_IN, DOOR_MOVES_OUT, MOVES, State


class Connection:
    """The state of one link between ``ours`` and ``theirs``. ``None`` for either means: the join door."""

    def __init__(self, ours: Role | None, theirs: Role | None) -> None:
        self._may_send: frozenset[type[m.Message]]
        self._may_receive: frozenset[type[m.Message]]
        if ours is not None and theirs is not None:
            self._may_send = MOVES.get((ours, theirs), frozenset())
            self._may_receive = MOVES.get((theirs, ours), frozenset())
            self.sending = self.receiving = State.NEW
        elif ours is Role.TRACKER:
            self._may_send, self._may_receive = DOOR_MOVES_OUT, DOOR_MOVES_IN
            self.sending = self.receiving = State.READY
        else:
            self._may_send, self._may_receive = DOOR_MOVES_IN, DOOR_MOVES_OUT
            self.sending = self.receiving = State.READY
        self._reader = FrameReader()
        # A tracker's Joined carries the whole revocation list; what a stranger says at the door is short.
        if ours is None:
            self._reader.body_bytes_max = FRAME_BYTES_MAX
        self._messages: deque[m.Message] = deque()
        self._raw_bytes_due = 0
        self.features: frozenset[str] = frozenset()
        self._our_features: frozenset[str] = frozenset()
        self.hello: m.Hello | None = None

    # --- sending ---

    def send(self, message: m.Message) -> bytes:
        """Return the bytes of ``message``; for a Block its raw bytes must follow at once.

        Raises:
            LocalProtocolError: it may not be said now, or not to them.
        """
        kind = type(message)
        if self.sending is State.CLOSED:
            raise LocalProtocolError(f"{kind.__name__} after Goodbye")
        if self.sending is State.NEW:
            if kind not in (m.Hello, m.Goodbye):
                raise LocalProtocolError(f"{kind.__name__} before Hello")
        elif kind not in self._may_send:
            raise LocalProtocolError(f"{kind.__name__} may not be said to them")
        # Encoded before anything changes: a message that does not fit was never said.
        data = frame(encode(message))
        if isinstance(message, m.Hello):
            self._our_features = frozenset(message.features)
            self._agree()
            self.sending = State.READY
        elif kind is m.Goodbye:
            self.sending = State.CLOSED
        return data

    # --- receiving ---

    def wanted(self) -> memoryview:
        """Return where the next received bytes belong; after a Block, only ``receive_raw`` can say that."""
        if self._raw_bytes_due:
            raise LocalProtocolError("receive_raw must say where the block belongs")
        return self._reader.wanted()

    def filled(self, count: int) -> None:
        """Take note that ``count`` bytes were put into ``wanted()``.

        Raises:
            RemoteProtocolError: they said what may not be said.
        """
        body = self._reader.filled(count)
        if body is not None:
            self._receive_body(body)

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take received bytes, copying them: for tests, and for whoever has no buffer to fill. Give it at most what
        belongs together: the raw bytes of a Block come after ``receive_raw``."""
        rest = memoryview(data)
        while rest:
            target = self.wanted()
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            self.filled(count)
            rest = rest[count:]

    def receive_end(self) -> None:
        """They hung up.

        Raises:
            RemoteProtocolError: in the middle of something.
        """
        if self._reader.mid_frame or self._raw_bytes_due:
            raise RemoteProtocolError("they hung up in the middle of a frame")
        self.receiving = State.CLOSED

    def next_message(self) -> m.Message | None:
        """Return the next message, or None until more bytes arrive."""
        return self._messages.popleft() if self._messages else None

    def receive_raw(self, target: memoryview) -> None:
        """Say where the raw bytes of the Block that came last belong; ``len(target)`` is its announced length."""
        if len(target) != self._raw_bytes_due:
            raise LocalProtocolError(f"{self._raw_bytes_due} raw bytes are due, not {len(target)}")
        self._raw_bytes_due = 0
        self._reader.expect_raw(target)

    @property
    def raw_bytes_due(self) -> int:
        """Length of a Block whose place is not known yet."""
        return self._raw_bytes_due

    @property
    def in_raw(self) -> bool:
        """Whether bytes of a block are still missing."""
        return self._reader.in_raw

    def _receive_body(self, body: bytearray) -> None:
        if self.receiving is State.CLOSED:
            raise RemoteProtocolError("a message after Goodbye")
        message = decode_untrusted(body)
        if message is None:
            if self.receiving is State.NEW:
                raise RemoteProtocolError("the first message must be Hello")
            return
        kind = type(message)
        if self.receiving is State.NEW:
            if kind not in (m.Hello, m.Goodbye):
                raise RemoteProtocolError(f"{kind.__name__} before Hello")
        elif kind not in self._may_receive:
            raise RemoteProtocolError(f"{kind.__name__} may not be said to us")
        if isinstance(message, m.Hello):
            if message.version < 1:
                raise RemoteProtocolError(f"version {message.version}; 1 to {PROTOCOL_VERSION} are spoken here")
            self.hello = message
            self._agree()
            self.receiving = State.READY
            self._reader.body_bytes_max = FRAME_BYTES_MAX
        elif kind is m.Goodbye:
            self.receiving = State.CLOSED
        elif isinstance(message, m.Block):
            self._raw_bytes_due = message.length
        self._messages.append(message)

    def _agree(self) -> None:
        if self.hello is not None:
            self.features = self._our_features & frozenset(self.hello.features)

"""Frames: a 4-byte length, big-endian, and a body. Bytes in, bodies out; a Block's raw bytes pass by untouched.

The reader says where it wants the next bytes (``wanted``) and is told how many came (``filled``), so that the raw bytes
of a block go from the TLS layer straight into the buffer they are meant for. Feeding it copies is as good
(``Connection.receive_data``): the way bytes are split changes nothing.
"""

from __future__ import annotations

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX

LENGTH_BYTES = 4


def frame(body: bytes) -> bytes:
    """Return ``body`` with its length before it."""
    if not 0 < len(body) <= FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a frame of {len(body)} bytes; 1 to {FRAME_BYTES_MAX} are possible")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a stream of bytes into frame bodies and raw runs."""

    def __init__(self) -> None:
        # What a stranger may make us wait for; ``Connection`` raises it after Hello.
        self.body_bytes_max = FIRST_FRAME_BYTES_MAX
        self._header = bytearray(LENGTH_BYTES)
        self._target = memoryview(self._header)
        self._filled = 0
        self._body: bytearray | None = None
        self._raw = False

    def wanted(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        return self._target[self._filled :]

    def filled(self, count: int) -> bytearray | None:
        """Take note that ``count`` bytes were put into ``wanted()``; return a body when one is whole.

        Raises:
            RemoteProtocolError: a length that may not be.
        """
        self._filled += count
        assert self._filled <= len(self._target)
        if self._filled < len(self._target):
            return None
        if self._raw:
            self._expect_header()
            return None
        if self._body is None:
            size = int.from_bytes(self._header, "big")
            # Checked before the body arrives: the length alone must not make us wait for, or make room for,
            # four gigabytes.
            if not 0 < size <= self.body_bytes_max:
                raise RemoteProtocolError(f"a frame of {size} bytes; 1 to {self.body_bytes_max} are possible here")
            self._body = bytearray(size)
            self._target = memoryview(self._body)
            self._filled = 0
            return None
        body = self._body
        self._expect_header()
        return body

    def expect_raw(self, target: memoryview) -> None:
        """Put the next ``len(target)`` bytes into ``target``; a frame follows. Only between frames."""
        assert self._filled == 0 and self._body is None and not self._raw
        if len(target) == 0:
            return
        self._target = target
        self._raw = True

    @property
    def in_raw(self) -> bool:
        """Whether raw bytes are still missing."""
        return self._raw

    @property
    def mid_frame(self) -> bool:
        """Whether the stream may not end here."""
        return self._raw or self._body is not None or self._filled > 0

    def _expect_header(self) -> None:
        self._body = None
        self._raw = False
        self._target = memoryview(self._header)
        self._filled = 0

"""What the kernel tells of a TCP connection, and how fast it lets it send: Linux only. What to make of it,
exchange/courtesy.py decides. And how much must be there before the kernel wakes who reads, which link.py decides.
"""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
import struct

from runtime.seam import LineState

# include/uapi/linux/tcp.h: struct tcp_info. It only ever grew; these have their places since Linux 4.9.
_TCP_INFO_BYTES = 160
_RTT_AT, _RETRANS_AT, _ACKED_AT, _MIN_RTT_AT = 68, 100, 120, 148
_SO_MAX_PACING_RATE = 47
_UNKNOWN = 0xFFFFFFFF


class TcpLine:
    """What Linux tells of a TCP connection (tcp(7), TCP_INFO), and its pacing (socket(7), SO_MAX_PACING_RATE)."""

    def __init__(self, socket: stdlib_socket.socket) -> None:
        self._socket = socket
        self._paced: int = _UNKNOWN

    def look(self) -> LineState | None:
        try:
            info = self._socket.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        if len(info) < _MIN_RTT_AT + 4:
            return None
        round_trip, base = (struct.unpack_from("=I", info, at)[0] for at in (_RTT_AT, _MIN_RTT_AT))
        (acked,) = struct.unpack_from("=Q", info, _ACKED_AT)
        (retransmitted,) = struct.unpack_from("=I", info, _RETRANS_AT)
        return LineState(round_trip / 1e6, (round_trip if base == _UNKNOWN else base) / 1e6, acked, retransmitted)

    def pace(self, bytes_per_second: float | None) -> None:
        rate = _UNKNOWN if bytes_per_second is None else int(min(max(bytes_per_second, 1024), _UNKNOWN - 1))
        if rate != self._paced:
            # A connection that has died refuses; who reads or writes hears of it.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(stdlib_socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", rate))
            self._paced = rate


class ReadMark:
    """How much has to be there before a read is worth waking up for (socket(7), SO_RCVLOWAT). The end of the stream, an
    error, and a full receive window wake all the same."""

    __slots__ = ("_bytes", "_set_bytes", "_socket")

    def __init__(self, socket: stdlib_socket.socket) -> None:
        self._socket = socket
        self._bytes = self._set_bytes = 1

    def want(self, size_bytes: int, *, at_once: bool) -> None:
        """Whoever waits from now on need not be woken for less; ``at_once``: nor who waits already."""
        self._bytes = size_bytes
        if at_once:
            self.apply()

    def apply(self) -> None:
        """Tell the kernel, if it does not know: before waiting. Who waits already is woken if so much is there."""
        if self._bytes != self._set_bytes:
            self._set_bytes = self._bytes
            # A connection that has died refuses; who reads or writes hears of it.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVLOWAT, self._bytes)

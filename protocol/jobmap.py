"""The chunk map of an upload: for each chunk whether it is missing, on its way or stored, and by whom. Pure.

In memory one number a chunk: the state in the upper two bits, below them who delivers it, as its place in a list of
senders counted from 1; 0 is nobody known. On the wire runs of equal chunks, because neighbours are mostly alike: a map
takes a few bytes when an upload begins and when it ends, and four bytes a chunk at worst. A hint for people who look
on; nothing is decided by it. Specification: docs/protocol.md#jobs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from enum import IntEnum
from itertools import groupby

from protocol.errors import RemoteProtocolError

RUN_BYTES = 4
_SENDER_BITS = 14


class ChunkState(IntEnum):
    """What has become of a chunk."""

    MISSING = 0
    ON_ITS_WAY = 1  # requested, or here and not yet durable
    STORED = 2  # durable


def code_of(state: ChunkState, sender: int = 0) -> int:
    """Return the number of a chunk. ``sender``: its place in the list, from 1; 0 when nobody is known."""
    return state << _SENDER_BITS | sender


def state_of(code: int) -> ChunkState:
    """Return the state of a chunk."""
    return ChunkState(code >> _SENDER_BITS)


def sender_of(code: int) -> int:
    """Return the place of a chunk's sender in the list, from 1; 0: nobody known."""
    return code & ((1 << _SENDER_BITS) - 1)


def runs_of(codes: Iterable[int]) -> list[tuple[int, int]]:
    """Return the codes as runs: how many, and of which code."""
    return [(sum(1 for _ in run), code) for code, run in groupby(codes)]


def encode_runs(codes: Iterable[int]) -> bytes:
    """Return the wire form: for each run its length and its code, two bytes each."""
    return b"".join(count.to_bytes(2, "big") + code.to_bytes(2, "big") for count, code in runs_of(codes))


def decode_runs_untrusted(data: bytes, chunks: int, senders: int) -> array[int]:
    """Return the codes of ``chunks`` chunks.

    Raises:
        RemoteProtocolError: these are no runs of so many chunks, or name somebody behind the ``senders`` listed.
    """
    if len(data) % RUN_BYTES:
        raise RemoteProtocolError("chunk map: cut within a run")
    codes = array("H")
    for start in range(0, len(data), RUN_BYTES):
        count = int.from_bytes(data[start : start + 2], "big")
        code = int.from_bytes(data[start + 2 : start + RUN_BYTES], "big")
        # Checked before it is made: a few bytes must not claim more than the file has.
        if not 0 < count <= chunks - len(codes):
            raise RemoteProtocolError(f"chunk map: a run of {count} chunks, {chunks - len(codes)} are left")
        state, sender = code >> _SENDER_BITS, sender_of(code)
        if state > ChunkState.STORED or sender > senders or (state == ChunkState.MISSING and sender):
            raise RemoteProtocolError(f"chunk map: {code:#06x} is no state of a chunk among {senders} senders")
        codes.extend([code] * count)
    if len(codes) != chunks:
        raise RemoteProtocolError(f"chunk map: {len(codes)} chunks, {chunks} were expected")
    return codes

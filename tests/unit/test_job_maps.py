"""Chunk maps: what they say, that they are small, and that a wrong one is refused."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pairs import node

from protocol.bitmap import Bitmap
from protocol.errors import RemoteProtocolError
from protocol.ids import Tag
from protocol.jobmap import (
    ChunkState,
    code_of,
    decode_runs_untrusted,
    encode_runs,
    runs_of,
    sender_of,
    state_of,
)
from protocol.limits import CHUNKS_MAX, PUSHED_NODES_MAX, RUNS_BYTES_MAX
from storage.maps import Makers

TAG = Tag(bytes(32), 6)
STORED, COMING, MISSING = ChunkState.STORED, ChunkState.ON_ITS_WAY, ChunkState.MISSING
codes = st.one_of(
    st.just(0),
    st.builds(code_of, st.sampled_from([STORED, COMING]), st.integers(0, PUSHED_NODES_MAX)),
)


def told(makers: Makers, durable: list[int], under_way: dict[int, str] | None = None) -> list[tuple[ChunkState, str]]:
    """Return state and sender of each of six chunks, as a tracker reads them."""
    ways = {chunk: node(name) for chunk, name in (under_way or {}).items()}
    message = makers.map_of(TAG, Bitmap.of(6, durable), ways)
    read = decode_runs_untrusted(message.runs, 6, len(message.senders))
    names = {node(name): name for name in ("ada", "bert", "carl")}
    who = ["", *(names[sender] for sender in message.senders)]
    return [(state_of(code), who[sender_of(code)]) for code in read]


def test_a_map_names_who_gave_most_of_each_chunk() -> None:
    makers = Makers(6)
    makers.note(0, {node("ada"): 100})
    makers.note(1, {node("ada"): 100, node("bert"): 900})
    makers.note(5, {node("bert"): 1})
    assert told(makers, [0, 1, 2], {3: "carl", 5: "bert"}) == [
        (STORED, "ada"),
        (STORED, "bert"),
        (STORED, ""),  # before this storage node started
        (COMING, "carl"),
        (MISSING, ""),
        (COMING, "bert"),
    ]


def test_what_is_durable_is_stored_whatever_else_is_said_of_it() -> None:
    makers = Makers(6)
    makers.note(2, {node("ada"): 1})
    assert told(makers, [2], {2: "bert"})[2] == (STORED, "ada")


def test_a_chunk_that_rotted_is_missing_again() -> None:
    makers = Makers(6)
    makers.note(2, {node("ada"): 1})
    assert told(makers, [])[2] == (MISSING, "")


def test_a_sender_too_many_has_no_name_and_breaks_nothing() -> None:
    makers = Makers(CHUNKS_MAX)
    for number in range(PUSHED_NODES_MAX + 5):
        makers.note(number, {node(str(number)): 1})
    message = makers.map_of(Tag(bytes(32), CHUNKS_MAX), Bitmap.full(CHUNKS_MAX), {})
    read = decode_runs_untrusted(message.runs, CHUNKS_MAX, len(message.senders))
    assert len(message.senders) == PUSHED_NODES_MAX
    assert [sender_of(code) for code in read[254:258]] == [255, 256, 0, 0]


@given(st.lists(codes, min_size=1, max_size=200))
def test_runs_mean_the_chunks_they_were_made_of(drawn: list[int]) -> None:
    data = encode_runs(drawn)
    assert list(decode_runs_untrusted(data, len(drawn), PUSHED_NODES_MAX)) == drawn
    assert len(data) <= 4 * len(drawn)
    assert sum(count for count, _ in runs_of(drawn)) == len(drawn)


def test_equal_chunks_take_four_bytes_and_unequal_ones_fit_the_limit() -> None:
    assert len(encode_runs([code_of(STORED, 1)] * CHUNKS_MAX)) == 4
    assert len(encode_runs([code_of(STORED, 1 + chunk % 2) for chunk in range(CHUNKS_MAX)])) == RUNS_BYTES_MAX


@given(st.binary(max_size=64), st.integers(1, 12), st.integers(0, 3))
def test_garbage_is_refused_or_is_a_map_of_the_right_length(garbage: bytes, chunks: int, senders: int) -> None:
    try:
        read = decode_runs_untrusted(garbage, chunks, senders)
    except RemoteProtocolError:
        return
    assert len(read) == chunks and all(sender_of(code) <= senders for code in read)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1",
        b"\0\7\0\0",  # a chunk too many
        b"\0\5\0\0",  # a chunk too few
        b"\0\0\0\0\0\6\0\0",  # a run of none
        b"\xff\xff\0\0",  # much too many
        b"\0\6\xc0\0",  # a state that does not exist
        b"\0\6\0\1",  # missing, from somebody
        b"\0\6\x40\3",  # from nobody listed
    ],
)
def test_a_map_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="chunk map"):
        decode_runs_untrusted(data, 6, 2)
    assert decode_runs_untrusted(b"\0\6\x40\2", 6, 2) == array("H", [code_of(COMING, 2)] * 6)

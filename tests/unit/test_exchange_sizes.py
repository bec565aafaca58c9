"""A size that is disputed is proven by the last chunk, or gives way; nothing honest is lost by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exchange.sizes import ABSENT_SECONDS_MAX, CLAIMS_MAX, STILL_SECONDS_MAX, Sizes
from protocol.bitmap import Bitmap
from protocol.ids import node_id_from_bytes
from protocol.limits import FILE_BYTES_MAX, MIB
from protocol.manifest import Layout, Manifest

NODES = [node_id_from_bytes(bytes([number]) * 32) for number in range(20)]


def manifest(size_bytes: int) -> Manifest:
    layout = Layout.of_size(size_bytes)
    return Manifest.of_digests(size_bytes, [bytes([number % 256]) * 32 for number in range(layout.chunks)])


def sizes(size_bytes: int, *verified: int) -> Sizes:
    of = manifest(size_bytes)
    return Sizes(of, Bitmap.of(of.tag.chunks, verified))


def test_a_size_that_makes_other_chunks_is_no_dispute() -> None:
    for other in (3 * MIB, 2 * MIB, 3 * MIB + 1, 0, -1, FILE_BYTES_MAX + 1):
        assert not sizes(3 * MIB).dispute(NODES[0], other, 0.0), other
    assert sizes(3 * MIB).dispute(NODES[0], 3 * MIB - 1, 0.0)


def test_the_last_chunk_proves_the_size() -> None:
    assert not sizes(3 * MIB, 2).dispute(NODES[0], 3 * MIB - 1, 0.0)
    open_yet = sizes(3 * MIB, 0, 1)
    assert open_yet.dispute(NODES[0], 3 * MIB - 1, 0.0) and open_yet.disputed
    open_yet._verified.add(2)
    assert not open_yet.disputed and not open_yet.is_late(0, False, 1e9)


def test_any_chunk_proves_how_long_chunks_are() -> None:
    # Nine chunks: of 1 MiB, or of 8 MiB.
    small, large = 9 * MIB, 70 * MIB
    assert Layout.of_size(small).chunks == Layout.of_size(large).chunks
    assert sizes(small).dispute(NODES[0], large, 0.0)
    assert not sizes(small, 3).dispute(NODES[0], large, 0.0)
    assert sizes(small, 3).dispute(NODES[0], small - 5, 0.0)


def test_the_proof_has_its_time() -> None:
    disputed = sizes(3 * MIB)
    assert not disputed.is_late(0, True, 1e9), "nobody objects"
    disputed.dispute(NODES[0], 3 * MIB - 1, 100.0)
    assert not disputed.is_late(0, True, 100 + STILL_SECONDS_MAX)
    assert not disputed.is_late(65536, True, 100 + STILL_SECONDS_MAX), "it moves"
    assert not disputed.is_late(65536, True, 100 + 2 * STILL_SECONDS_MAX)
    assert disputed.is_late(65536, True, 101 + 2 * STILL_SECONDS_MAX)
    absent = sizes(3 * MIB)
    absent.dispute(NODES[0], 3 * MIB - 1, 100.0)
    assert absent.is_late(0, False, 101 + ABSENT_SECONDS_MAX)
    slow = sizes(3 * MIB)
    slow.dispute(NODES[0], 3 * MIB - 1, 0.0)
    late = [slow.is_late(second, True, float(second)) for second in range(0, 200)]
    assert late.index(True) == STILL_SECONDS_MAX + 64 + 1, "a mebibyte at 16 KiB/s, and what everybody may wait"


def test_what_most_say_is_tried_first_and_few_are_remembered() -> None:
    disputed = sizes(3 * MIB)
    for node in NODES[:2]:
        disputed.dispute(node, 3 * MIB - 7, 0.0)
    disputed.dispute(NODES[2], 3 * MIB - 1, 0.0)
    assert disputed.claims == (3 * MIB - 7, 3 * MIB - 1)
    for node in NODES:
        disputed.dispute(node, 3 * MIB - 2, 0.0)
    assert len(disputed._claims) == CLAIMS_MAX


@given(st.integers(0, 200 * MIB), st.integers(-10, 200 * MIB), st.data())
def test_who_is_right_is_never_refuted_once_proven(size: int, other: int, data: st.DataObject) -> None:
    of = manifest(size)
    verified = Bitmap.of(of.tag.chunks, data.draw(st.sets(st.integers(0, of.tag.chunks - 1))))
    if of.leaves_open(other, verified):
        again = of.of_size(other)
        assert again.tag == of.tag and again.digests == of.digests
        assert again.leaves_open(size, verified), "each could be the other"
        assert not verified or again.layout.chunk_bytes == of.layout.chunk_bytes
        assert of.tag.chunks - 1 not in verified

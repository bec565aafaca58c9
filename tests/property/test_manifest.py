"""What a file is: the chunk rule, the tag, and that no manifest but the right one passes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from protocol.errors import IntegrityError
from protocol.ids import Tag
from protocol.limits import CHUNKS_MAX, FILE_BYTES_MAX, MIB
from protocol.manifest import Layout, Manifest, chunk_bytes_for, tag_of

sizes = st.one_of(st.integers(0, FILE_BYTES_MAX), st.integers(0, 200 * MIB), st.integers(0, 5))
# Enough for a table of digests without making the test slow.
small_sizes = st.one_of(st.integers(0, 40 * MIB), st.sampled_from([0, 1, MIB - 1, MIB, MIB + 1]))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    size = draw(small_sizes)
    seed = draw(st.binary(min_size=1, max_size=4))
    digests = [hashlib.sha256(seed + bytes([index])).digest() for index in range(Layout.of_size(size).chunks)]
    return Manifest.of_digests(size, digests)


@pytest.mark.parametrize(
    ("size_bytes", "chunk_bytes", "chunks"),
    [
        (0, MIB, 1),
        (1, MIB, 1),
        (MIB, MIB, 1),
        (MIB + 1, MIB, 2),
        (64 * MIB, MIB, 64),
        (64 * MIB + 1, 8 * MIB, 9),
        (8192 * 8 * MIB, 8 * MIB, 8192),
        (8192 * 8 * MIB + 1, 16 * MIB, 4097),
        (8192 * 16 * MIB, 16 * MIB, 8192),
        (8192 * 16 * MIB + 1, 32 * MIB, 4097),
        (FILE_BYTES_MAX, 128 * 1024 * MIB, 8192),
    ],
)
def test_the_chunk_rule_at_its_borders(size_bytes: int, chunk_bytes: int, chunks: int) -> None:
    assert Layout.of_size(size_bytes) == Layout(size_bytes, chunk_bytes, chunks)


@given(sizes)
def test_chunks_cover_the_file_once(size: int) -> None:
    layout = Layout.of_size(size)
    assert 1 <= layout.chunks <= CHUNKS_MAX
    last = layout.chunks - 1
    assert layout.offset_of(last) + layout.bytes_of(last) == size
    assert all(layout.bytes_of(chunk) == layout.chunk_bytes for chunk in range(min(last, 10)))
    assert layout.bytes_of(last) > 0 or size == 0


@given(sizes, sizes)
def test_a_larger_file_never_has_smaller_chunks(a: int, b: int) -> None:
    assert chunk_bytes_for(min(a, b)) <= chunk_bytes_for(max(a, b))


@given(st.integers(0, 3 * MIB), st.binary(min_size=1, max_size=8))
@example(size=0, pattern=b"x")
@example(size=MIB, pattern=b"x")
@example(size=2 * MIB + 1, pattern=b"ab")
def test_the_tag_is_the_sha256_of_sha256s(size: int, pattern: bytes) -> None:
    content = (pattern * (size // len(pattern) + 1))[:size]
    # Written without a line of protocol/: this is the definition, in docs/protocol.md too.
    parts = [content[start : start + MIB] for start in range(0, size, MIB)] or [b""]
    expected = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    layout = Layout.of_size(size)
    digests = [
        hashlib.sha256(content[layout.offset_of(chunk) :][: layout.bytes_of(chunk)]).digest()
        for chunk in range(layout.chunks)
    ]
    assert str(Manifest.of_digests(size, digests).tag) == f"{expected}-{len(parts)}"


@given(manifests())
def test_the_right_manifest_passes(manifest: Manifest) -> None:
    assert Manifest.checked(manifest.tag, manifest.size_bytes, manifest.joined_digests()) == manifest


def refused(tag: Tag, size_bytes: int, joined: bytes) -> None:
    with pytest.raises(IntegrityError, match="manifest of"):
        Manifest.checked(tag, size_bytes, joined)


@given(manifests(), st.data())
def test_a_manifest_with_one_bit_changed_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    joined = bytearray(manifest.joined_digests())
    joined[data.draw(st.integers(0, len(joined) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(manifest.tag, manifest.size_bytes, bytes(joined))


@given(manifests(), st.integers(-FILE_BYTES_MAX, 2 * FILE_BYTES_MAX))
def test_a_manifest_of_another_size_is_refused_unless_it_cuts_alike(manifest: Manifest, size: int) -> None:
    # The size is not under the tag; only the count of chunks is. A wrong size with the right count is found when the
    # last chunk does not have the digest it should.
    assume(not 0 <= size <= FILE_BYTES_MAX or Layout.of_size(size).chunks != manifest.tag.chunks)
    refused(manifest.tag, size, manifest.joined_digests())


@given(manifests(), st.integers(0, 70))
def test_a_manifest_cut_or_stretched_is_refused(manifest: Manifest, length: int) -> None:
    joined = manifest.joined_digests()
    assume(length != len(joined))
    refused(manifest.tag, manifest.size_bytes, (joined + bytes(70))[:length])


@given(manifests())
def test_a_manifest_in_another_order_is_refused(manifest: Manifest) -> None:
    assume(len(set(manifest.digests)) > 1)
    refused(manifest.tag, manifest.size_bytes, b"".join(reversed(manifest.digests)))


@given(manifests(), manifests())
def test_a_manifest_of_another_tag_is_refused(ours: Manifest, theirs: Manifest) -> None:
    assume(ours.tag != theirs.tag)
    refused(ours.tag, theirs.size_bytes, theirs.joined_digests())


@given(manifests(), st.integers(1, CHUNKS_MAX))
def test_a_tag_with_another_count_is_another_tag(manifest: Manifest, chunks: int) -> None:
    assume(chunks != manifest.tag.chunks)
    refused(Tag(manifest.tag.root, chunks), manifest.size_bytes, manifest.joined_digests())


def test_a_file_of_one_chunk_has_the_tag_of_its_digest_not_its_digest() -> None:
    digest = hashlib.sha256(b"x").digest()
    assert tag_of([digest]).root == hashlib.sha256(digest).digest()

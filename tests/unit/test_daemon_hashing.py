"""A file becomes a manifest: the right one, or none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio

from daemon import hashing
from daemon.hashing import FileChanged, hash_file
from protocol.errors import CommandError, NotFound
from protocol.limits import LARGE_CHUNK_BYTES, MIB, SMALL_CHUNK_BYTES
from runtime.real import real_runtime


def composite_sha256(path: Path, part_bytes: int) -> str:
    """What an S3-type store computes for a multipart upload with these parts: SHA-256 of the joined SHA-256s."""
    joined = b""
    count = 0
    with path.open("rb") as file:
        while (part := file.read(part_bytes)) or count == 0:
            joined += hashlib.sha256(part).digest()
            count += 1
    return f"{hashlib.sha256(joined).hexdigest()}-{count}"


@pytest.mark.parametrize(
    ("size", "part_bytes"),
    [
        (0, SMALL_CHUNK_BYTES),
        (1, SMALL_CHUNK_BYTES),
        (MIB, SMALL_CHUNK_BYTES),
        (MIB + 1, SMALL_CHUNK_BYTES),
        (37 * MIB + 12345, SMALL_CHUNK_BYTES),
        (64 * MIB, SMALL_CHUNK_BYTES),
        (64 * MIB + 1, LARGE_CHUNK_BYTES),
    ],
)
async def test_the_tag_is_the_composite_sha256_of_its_parts(tmp_path: Path, size: int, part_bytes: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    seen: list[int] = []
    manifest, status = await hash_file(real_runtime(), path, seen.append)
    assert str(manifest.tag) == composite_sha256(path, part_bytes)
    assert manifest.size_bytes == status.size_bytes == size
    assert seen == sorted(seen)
    assert not size or seen[-1] == size


async def test_chunks_larger_than_a_turn_have_the_same_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * MIB + 7))
    monkeypatch.setattr(hashing, "TURN_BYTES", 300_000)
    monkeypatch.setattr(hashing, "PIECE_BYTES", 77_777)
    manifest, _ = await hash_file(real_runtime(), path)
    assert str(manifest.tag) == composite_sha256(path, SMALL_CHUNK_BYTES)


async def test_a_file_that_changes_while_it_is_read_has_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(40 * MIB))
    readings = 0

    def scribble(done_bytes: int) -> None:
        nonlocal readings
        readings += 1
        with path.open("r+b") as file:
            file.write(os.urandom(8))

    with pytest.raises(FileChanged, match="changed while it was read") as caught:
        await hash_file(real_runtime(), path, scribble, attempts_max=2)
    assert caught.value.exit_code == 5
    assert readings >= 2


async def test_a_file_that_shrinks_or_is_replaced_while_it_is_read_has_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(40 * MIB))
    with pytest.raises(FileChanged):
        await hash_file(real_runtime(), path, lambda done: os.truncate(path, 5), attempts_max=1)

    def replace(done_bytes: int) -> None:
        other = tmp_path / "other"
        other.write_bytes(bytes(40 * MIB))
        other.rename(path)

    path.write_bytes(bytes(40 * MIB))
    with pytest.raises(FileChanged):
        await hash_file(real_runtime(), path, replace, attempts_max=1)


async def test_a_file_that_comes_to_rest_is_hashed_after_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * MIB))
    changes = 1

    def append_once(done_bytes: int) -> None:
        nonlocal changes
        if changes:
            changes -= 1
            with path.open("ab") as file:
                file.write(b"more")

    manifest, _ = await hash_file(real_runtime(), path, append_once)
    assert manifest.size_bytes == 20 * MIB + 4
    assert str(manifest.tag) == composite_sha256(path, SMALL_CHUNK_BYTES)


async def test_a_file_that_holds_more_than_its_size_says_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(CommandError, match="more than its size says") as caught:
        await hash_file(real_runtime(), Path("/proc/self/status"))
    assert caught.value.exit_code == 2


async def test_only_regular_files_are_read_and_links_are_not_followed(tmp_path: Path) -> None:
    runtime = real_runtime()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("link", "link"), ("pipe", "not a regular file"), (".", "not a regular file")):
        with pytest.raises(CommandError, match=word) as caught, trio.fail_after(5):
            await hash_file(runtime, tmp_path / name)
        assert caught.value.exit_code == 2
    with pytest.raises(NotFound):
        await hash_file(runtime, tmp_path / "absent")

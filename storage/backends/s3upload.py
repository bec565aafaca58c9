"""From a spool file to an object: one PUT up to 64 MiB, above that an upload in parts, a chunk each.

    read a chunk, hash it      the store is told what to expect before it gets the bytes
    send it, read again        streamed: memory does not depend on file or chunk size
    complete                   only if all digests together are the tag
    ask what the store has     size and composite checksum; a store that shows none is read back

Sending breaks off when the store does not answer, and goes on where it was when it is called again in the same process:
``Uploads`` remembers what the store has. What a killed process had begun is aborted by the next one (s3.py); its bytes
are in the spool still, and sending them again costs time only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import trio

from protocol.errors import ChunkMissing, StorageBroken, StorageError, StorageUnavailable
from protocol.ids import Tag
from protocol.limits import MIB, SMALL_FILE_BYTES_MAX
from protocol.manifest import Layout, tag_of
from runtime.bodies import PiecedBody
from runtime.seam import File, Runtime
from storage.backends.s3answers import SOON_SECONDS, S3Refused
from storage.backends.s3client import Found, Part, S3Client, checksum_of
from storage.backends.s3reading import S3Object, S3Reader, at_once

log = structlog.get_logger()

_READ_BYTES = 1 * MIB
_ABORT_SECONDS_MAX = 5.0


@dataclass(slots=True)
class Upload:
    """An upload in parts that has begun. ``parts``: what the store has, by chunk."""

    id: str
    parts: dict[int, Part] = field(default_factory=dict)


class FileSlice(PiecedBody):
    """A range of an open file as the body of a request. Raises ``ChunkMissing`` when the file is shorter."""

    def __init__(self, runtime: Runtime, file: File, offset: int, size_bytes: int) -> None:
        super().__init__(size_bytes, _READ_BYTES)
        self._runtime = runtime
        self._file = file
        self._offset = offset

    async def piece(self, offset: int, size_bytes: int) -> bytes:
        """See ``PiecedBody``."""
        return await self._runtime.run_sync(_read, self._file, self._offset + offset, size_bytes)

    async def digest(self) -> bytes:
        """Return the SHA-256 of the whole range."""

        def work() -> bytes:
            state = hashlib.sha256()
            for start in range(0, self.size_bytes, _READ_BYTES):
                size = min(_READ_BYTES, self.size_bytes - start)
                state.update(_read(self._file, self._offset + start, size))
            return state.digest()

        return await self._runtime.run_sync(work)


def _read(file: File, offset: int, size: int) -> bytes:
    piece = bytearray(size)
    try:
        count = file.read_into(memoryview(piece), offset)
    except OSError as error:
        raise StorageBroken(f"a finished file cannot be read at {offset}: {error}") from error
    if count != size:
        raise ChunkMissing(f"a finished file ends within {size} bytes at {offset}")
    return bytes(piece)


class Uploads:
    """Sends files. ``parts_at_once``: parts of one file on their way together; ``read_back``: believe no checksum of
    the store, read every object again before it counts."""

    def __init__(
        self, runtime: Runtime, client: S3Client, reader: S3Reader, *, parts_at_once: int, read_back: bool
    ) -> None:
        self._runtime = runtime
        self._client = client
        self._reader = reader
        self._parts_at_once = parts_at_once
        self._read_back = read_back
        self._begun: dict[Tag, Upload] = {}

    async def send(self, tag: Tag, key: str, file: File, size_bytes: int) -> None:
        """Make ``file`` the object ``key``; returns once the store has shown that it is there and right.

        Raises:
            StorageUnavailable, StorageFull: not done; call again.
            StorageBroken: the file is not what ``tag`` says, though it was when it was verified.
        """
        if size_bytes <= SMALL_FILE_BYTES_MAX:
            await self._send_small(key, FileSlice(self._runtime, file, 0, size_bytes))
            return
        try:
            await self._send_parts(tag, key, file, Layout.of_size(size_bytes))
        except StorageUnavailable:
            raise
        except BaseException:
            with trio.move_on_after(_ABORT_SECONDS_MAX, shield=True):
                await self.give_up(tag, key)
            raise

    async def _send_small(self, key: str, body: FileSlice) -> None:
        digest = await body.digest()
        if await self.is_there(key, body.size_bytes, checksum_of(digest), [digest]):
            return
        await self._client.put(key, body, digest)
        await self.confirm(key, body.size_bytes, checksum_of(digest), [digest])

    async def _send_parts(self, tag: Tag, key: str, file: File, layout: Layout) -> None:
        checksum = f"{checksum_of(tag.root)}-{tag.chunks}"
        slices = [
            FileSlice(self._runtime, file, layout.offset_of(chunk), layout.bytes_of(chunk))
            for chunk in range(layout.chunks)
        ]
        # The process before may have come so far. Without this a crash after the last step costs the whole upload.
        digests = [await one.digest() for one in slices] if self._read_back else []
        if await self.is_there(key, layout.size_bytes, checksum, digests):
            return
        upload = self._begun.get(tag)
        if upload is None:
            upload = self._begun[tag] = Upload(await self._client.begin_upload(key))

        async def send(chunk: int) -> None:
            digest = await slices[chunk].digest()
            upload.parts[chunk] = await self._client.put_part(key, upload.id, chunk + 1, slices[chunk], digest)

        try:
            await at_once(send, [n for n in range(layout.chunks) if n not in upload.parts], self._parts_at_once)
            parts = [upload.parts[chunk] for chunk in range(layout.chunks)]
            if tag_of([part.digest for part in parts]) != tag:
                raise StorageBroken(f"the spool file of {tag} has changed since it was verified")
            await self._client.complete_upload(key, upload.id, parts)
        except S3Refused as error:
            if error.code not in ("NoSuchUpload", "NoSuchKey", "InvalidPart"):
                raise
            # The store has forgotten it; or an answer of ours was lost, and the object is made: the next call sees.
            log.warning("the store lost an upload", tag=str(tag), reason=str(error))
            await self.give_up(tag, key)
            raise StorageUnavailable(str(error), SOON_SECONDS) from error
        self._begun.pop(tag, None)
        await self.confirm(key, layout.size_bytes, checksum, [part.digest for part in parts])

    async def is_there(self, key: str, size_bytes: int, checksum: str, digests: Sequence[bytes]) -> bool:
        """Whether the object is there and right already."""
        found = await self._client.head(key)
        if found is None or (found.size_bytes, found.checksum) != (size_bytes, checksum):
            return False
        return not self._read_back or await self._reads_back(key, found, digests)

    async def confirm(self, key: str, size_bytes: int, checksum: str, digests: Sequence[bytes]) -> None:
        """See that the object is right; one that is wrong is removed."""
        found = await self._client.head(key)
        if found is None:
            raise StorageUnavailable(f"S3: object {key} is not there after it was stored", SOON_SECONDS)
        if found.size_bytes != size_bytes:
            reason = f"has {found.size_bytes} bytes, not {size_bytes}"
        elif found.checksum and found.checksum != checksum:
            reason = f"has the checksum {found.checksum}, not {checksum}"
        elif (self._read_back or not found.checksum) and not await self._reads_back(key, found, digests):
            reason = "does not read back as what was stored"
        else:
            return
        log.error("the store has made another object of what it got", key=key, reason=reason)
        await self._client.delete(key)
        raise StorageUnavailable(f"S3: object {key} {reason}; it is stored again", SOON_SECONDS)

    async def _reads_back(self, key: str, found: Found, digests: Sequence[bytes]) -> bool:
        """Read an object; whether its chunks (its whole, if there is but one digest) have these digests."""
        opened = S3Object(self._reader, key, found)
        size = found.size_bytes
        layout = Layout(size, size, 1) if len(digests) == 1 else Layout.of_size(size)
        piece = memoryview(bytearray(min(_READ_BYTES, size)))
        for chunk, digest in enumerate(digests):
            state = hashlib.sha256()
            start, length = layout.offset_of(chunk), layout.bytes_of(chunk)
            for offset in range(0, length, _READ_BYTES):
                part = piece[: length - offset]
                await opened.read_into(part, start + offset)
                await self._runtime.run_sync(state.update, part)
            if state.digest() != digest:
                return False
        return True

    async def give_up(self, tag: Tag, key: str) -> None:
        """Abort what was begun for ``tag``, if anything was."""
        upload = self._begun.pop(tag, None)
        if upload is None:
            return
        try:
            await self._client.abort_upload(key, upload.id)
        except StorageError as error:
            # The next start aborts it.
            log.warning("an upload could not be aborted", key=key, reason=str(error))

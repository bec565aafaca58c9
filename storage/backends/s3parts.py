"""Parts of objects in S3: an upload in parts whose id is remembered elsewhere, a part for each chunk (base.py: Parts).

Every part is bound to its digest twice: the store refuses other bytes when it comes, and the composite checksum that it
shows in the end must be the tag. Parts that others put by a presigned URL are bound in the same way: the checksum is
one of the signed headers.

The word for an upload is its key and its id: whoever goes on with it need not know what the key was made of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from protocol.errors import ChunkMissing, IntegrityError
from protocol.ids import Tag
from protocol.limits import SMALL_FILE_BYTES_MAX
from protocol.manifest import Manifest
from storage.backends.base import Grant, PartBody
from storage.backends.s3answers import S3Refused
from storage.backends.s3client import Part, S3Client, checksum_of
from storage.backends.s3upload import Uploads

_GONE = {"NoSuchUpload", "NoSuchKey", "InvalidPart"}
_WRONG = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}


class S3Parts:
    """``key_of`` and ``tag_of``: an object's key, and back (None: not ours)."""

    def __init__(
        self,
        client: S3Client,
        uploads: Uploads,
        prefixes: Sequence[str],
        key_of: Callable[[Tag], str],
        tag_of: Callable[[str], Tag | None],
        note_key: Callable[[Tag, str], None],
    ) -> None:
        self._note_key = note_key
        self._client = client
        self._uploads = uploads
        self._prefixes = prefixes
        self._key_of = key_of
        self._tag_of = tag_of

    def takes(self, size_bytes: int) -> bool:
        return size_bytes > SMALL_FILE_BYTES_MAX

    async def begin(self, tag: Tag) -> str:
        key = self._key_of(tag)
        return _word(key, await self._client.begin_upload(key))

    async def put(self, tag: Tag, upload: str, chunk: int, body: PartBody, digest: bytes) -> str:
        try:
            async with _told(f"an upload of {tag}"):
                part = await self._client.put_part(*_read(upload), chunk + 1, body, digest)
        except S3Refused as error:
            if error.code in _WRONG:
                raise IntegrityError(f"chunk {chunk} of {tag}: {error}") from error
            raise
        return part.etag

    def grant(self, tag: Tag, upload: str, chunk: int, digest: bytes, valid_seconds: int) -> Grant:
        checksum = checksum_of(digest)
        url = self._client.part_url(*_read(upload), chunk + 1, checksum, valid_seconds)
        return Grant(url, {"x-amz-checksum-sha256": checksum})

    async def find(self, manifest: Manifest, upload: str, chunk: int | None = None) -> dict[int, str]:
        number = None if chunk is None else chunk + 1
        async with _told(f"an upload of {manifest.tag}"):
            parts = await self._client.find_parts(*_read(upload), number)
        layout, digests = manifest.layout, manifest.digests
        found = {}
        for part in parts:
            chunk = part.number - 1
            if not 0 <= chunk < layout.chunks or part.size_bytes != layout.bytes_of(chunk):
                continue
            if not part.checksum or part.checksum == checksum_of(digests[chunk]):
                found[chunk] = part.etag
        return found

    async def complete(self, manifest: Manifest, upload: str, words: Mapping[int, str]) -> None:
        tag = manifest.tag
        key, id_ = _read(upload)
        self._note_key(tag, key)
        parts = [Part(chunk + 1, words[chunk], manifest.digests[chunk]) for chunk in range(tag.chunks)]
        async with _told(f"an upload of {tag}"):
            await self._client.complete_upload(key, id_, parts)
        await self._uploads.confirm(key, manifest.size_bytes, _composite(tag), manifest.digests)

    async def is_whole(self, manifest: Manifest, upload: str | None) -> bool:
        tag = manifest.tag
        key = self._key_of(tag) if upload is None else _read(upload)[0]
        whole = await self._uploads.is_there(key, manifest.size_bytes, _composite(tag), manifest.digests)
        if whole:
            self._note_key(tag, key)
        return whole

    async def abort(self, tag: Tag, upload: str) -> None:
        await self._client.abort_upload(*_read(upload))

    async def unfinished(self) -> list[tuple[Tag, str]]:
        found = [
            (self._tag_of(key), _word(key, upload))
            for prefix in self._prefixes
            for key, upload in await self._client.uploads(prefix)
        ]
        return [(tag, upload) for tag, upload in found if tag is not None]


def _word(key: str, upload: str) -> str:
    return f"{key}\n{upload}"


def _read(word: str) -> tuple[str, str]:
    key, _, upload = word.partition("\n")
    return key, upload


def _composite(tag: Tag) -> str:
    return f"{checksum_of(tag.root)}-{tag.chunks}"


@asynccontextmanager
async def _told(what: str) -> AsyncIterator[None]:
    try:
        yield
    except S3Refused as error:
        if error.code not in _GONE:
            raise
        raise ChunkMissing(f"the store knows {what} no more: {error}") from error

"""The S3 backend: the object of a tag is ``<prefix>objects/<tag>`` in a bucket of any S3-compatible store.

Finished spool files are sent and then removed; an object is there wholly or not at all, because S3 shows none before it
is complete. A file above 64 MiB goes in parts of a chunk each, so that the store's own composite SHA-256 checksum *is*
the tag: that is compared before a file counts as stored (s3upload.py). The key is made of the tag alone.

A prefix belongs to one ledger, which one storage node has or several share: at its start a node aborts the uploads that
a killed process left there, and must not hit another's. The object ``<prefix>upswarm-owner`` says whose it is; it is
written only if there is none.

Not decided here: when to ask a store again that does not answer (retrying.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import structlog

from protocol.errors import ChunkMissing, ConfigError, StorageBroken, StorageError
from protocol.ids import Tag
from protocol.limits import KIB
from runtime.seam import File, Runtime, Web
from storage.backends.s3answers import S3Refused
from storage.backends.s3client import S3Client, S3Settings
from storage.backends.s3parts import S3Parts
from storage.backends.s3reading import S3Object, S3Reader
from storage.backends.s3upload import Uploads
from storage.backends.taking import has_size, read_into_spool

log = structlog.get_logger()

# S3's own bound for one object. How much a bucket may take in all, no store says.
OBJECT_BYTES_MAX = 5 * 1024**4
PARTS_AT_ONCE_DEFAULT = 4
_OWNER_BYTES_MAX = 4 * KIB


class S3Backend:
    """``owner``: a word that stays this ledger's own: the id of its only node, or its own. ``keep``: uploads in parts
    that the ledger knows of and that somebody goes on with; None: nobody else's upload is aborted here, whatever it is.
    Spool files may be on any file system.
    """

    def __init__(
        self,
        runtime: Runtime,
        web: Web,
        settings: S3Settings,
        spool_folder: Path,
        *,
        owner: str,
        keep: Mapping[Tag, str] | None = MappingProxyType({}),
        parts_at_once: int = PARTS_AT_ONCE_DEFAULT,
        read_back: bool = False,
    ) -> None:
        self._runtime = runtime
        self._disk = runtime.disk
        self._settings = settings
        self._spool_folder = spool_folder
        self._owner = owner
        self._keep = keep
        self._client = S3Client(runtime.clock, web, settings)
        self._reader = S3Reader(self._client)
        self._uploads = Uploads(runtime, self._client, self._reader, parts_at_once=parts_at_once, read_back=read_back)
        self._objects = f"{settings.prefix}objects/"
        self.parts = S3Parts(self._client, self._uploads, self._objects, self.key_of, self._tag_of)

    def key_of(self, tag: Tag) -> str:
        """Return the key of the object of ``tag``."""
        return f"{self._objects}{tag}"

    async def prepare(self) -> None:
        def make_spool() -> None:
            try:
                self._disk.make_folder(self._spool_folder)
            except (OSError, StorageError) as error:
                raise ConfigError(f"{self._spool_folder}: cannot be used ({error}); give --data another") from error

        await self._runtime.run_sync(make_spool)
        try:
            await self._own_prefix()
            for tag, upload in await self.parts.unfinished() if self._keep is not None else ():
                if self._keep is not None and self._keep.get(tag) != upload:
                    await self.parts.abort(tag, upload)
                    log.info("aborted an upload of the process before", tag=str(tag))
        except S3Refused as error:
            if error.ours:
                raise ConfigError(f"[storage] s3: bucket {self._settings.bucket!r} cannot be used: {error}") from error
            raise

    async def _own_prefix(self) -> None:
        key = f"{self._settings.prefix}upswarm-owner"
        ours = self._owner.encode()
        found = await self._client.get(key, _OWNER_BYTES_MAX)
        if found is None:
            digest = hashlib.sha256(ours).digest()
            try:
                await self._client.put(key, ours, digest, only_new=True)
            except S3Refused as error:
                if error.status != 501:
                    raise
                # A store without conditional writes; two nodes that start at this very moment are found out below.
                await self._client.put(key, ours, digest)
            found = await self._client.get(key, _OWNER_BYTES_MAX)
        if found != ours:
            whose = (found or b"nobody")[:80].decode("utf-8", "replace")
            raise ConfigError(
                f"[storage] s3_prefix: {self._settings.prefix!r} in bucket {self._settings.bucket!r} belongs to storage"
                f" node {whose!r}; give each node its own prefix. If that node is gone for good, delete the object"
                f" {key!r}"
            )

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        file = await self._runtime.run_sync(self._open_spool, spool, size_bytes)
        if file is None:
            await self._uploads.give_up(tag, self.key_of(tag))
            if await self.size_of(tag) != size_bytes:
                raise ChunkMissing(f"neither spool file nor object of {tag} is there with {size_bytes} bytes")
        else:
            try:
                await self._uploads.send(tag, self.key_of(tag), file, size_bytes)
            finally:
                file.close()

        def remove() -> None:
            self._disk.remove(spool)
            self._disk.sync_folder(spool.parent)

        await self._runtime.run_sync(remove)

    def _open_spool(self, spool: Path, size_bytes: int) -> File | None:
        try:
            file = self._disk.open_read(spool)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageBroken(f"{spool.name}: {error}") from error
        if file.status().size_bytes == size_bytes:
            return file
        file.close()
        return None

    async def take_back(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        try:
            async with await self.open(tag) as opened:
                await read_into_spool(self._runtime, opened, spool, size_bytes)
        except ChunkMissing:
            if await has_size(self._runtime, spool, size_bytes):
                return
            raise
        await self.delete(tag)

    async def open(self, tag: Tag) -> S3Object:
        found = await self._client.head(self.key_of(tag))
        if found is None:
            raise ChunkMissing(f"no object {tag}")
        return S3Object(self._reader, self.key_of(tag), found)

    async def size_of(self, tag: Tag) -> int | None:
        found = await self._client.head(self.key_of(tag))
        return None if found is None else found.size_bytes

    async def delete(self, tag: Tag) -> None:
        await self._client.delete(self.key_of(tag))

    async def list(self) -> dict[Tag, int]:
        objects = await self._client.objects(self._objects)
        tags = {self._tag_of(key): size for key, size in objects.items()}
        return dict(sorted((tag, size) for tag, size in tags.items() if tag is not None))

    def _tag_of(self, key: str) -> Tag | None:
        try:
            return Tag.parse(key.removeprefix(self._objects)) if key.startswith(self._objects) else None
        except ValueError:
            return None  # Not ours: somebody else's object, or an administrator's note.

    async def room_bytes(self) -> int:
        return OBJECT_BYTES_MAX

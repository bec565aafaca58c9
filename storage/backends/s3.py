"""The S3 backend: the object of a tag is ``<prefix>objects/<tag>`` in a bucket of any S3-compatible store, or has a key
with its name, if the operator wants that (s3keys.py).

Finished spool files are sent and then removed; an object is there wholly or not at all, because S3 shows none before it
is complete. A file above 64 MiB goes in parts of a chunk each, so that the store's own composite SHA-256 checksum *is*
the tag: that is compared before a file counts as stored (s3upload.py).

A prefix belongs to one ledger, which one storage node has or several share: at its start a node aborts the uploads that
a killed process left there, and must not hit another's. The object ``<prefix>upswarm-owner`` says whose it is; it is
written only if there is none.

Not decided here: when to ask a store again that does not answer (retrying.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import structlog

from protocol.errors import ChunkMissing, ConfigError, StorageBroken, StorageError
from protocol.ids import Tag
from protocol.limits import KIB
from runtime.seam import File, Runtime, Web
from storage.backends.s3answers import S3Refused
from storage.backends.s3client import Found, S3Client, S3Settings
from storage.backends.s3keys import BY_CONTENT, KeyTemplate, metadata_of
from storage.backends.s3parts import S3Parts
from storage.backends.s3reading import S3Object, S3Reader
from storage.backends.s3upload import Uploads
from storage.backends.taking import take_back_by_reading

log = structlog.get_logger()

# S3's own bound for one object. How much a bucket may take in all, no store says.
OBJECT_BYTES_MAX = 5 * 1024**4
PARTS_AT_ONCE_DEFAULT = 4
_OWNER_BYTES_MAX = 4 * KIB
_REFUSAL_BYTES_MAX = 64 * KIB


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
        key: str = BY_CONTENT,
        name_of: Callable[[Tag], str | None] = lambda _: None,
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
        # What an earlier setting called them is still found.
        self._templates = tuple({text: KeyTemplate(text) for text in (key, BY_CONTENT)}.values())
        self._prefixes = tuple(dict.fromkeys(f"{settings.prefix}{one.folder}" for one in self._templates))
        self._name_of = name_of
        self._keys: dict[Tag, str] = {}
        self._client.describe = self._describe
        self.parts = S3Parts(
            self._client, self._uploads, self._prefixes, self.key_of, self._tag_of, self._keys.__setitem__
        )

    def key_of(self, tag: Tag) -> str:
        """Return the key of the object of ``tag``: where it was found, or what the template makes of its name."""
        known = self._keys.get(tag)
        if known is not None:
            return known
        name = self._name_of(tag)
        key = f"{self._settings.prefix}{self._templates[0].key_of(tag, name or '')}"
        if name is not None:
            self._keys[tag] = key  # A file's first name may change while it is under way; its key may not.
        return key

    def _describe(self, key: str) -> Mapping[str, str]:
        """Return the headers that tell with an object what it is."""
        tag = self._tag_of(key)
        return {} if tag is None else metadata_of(tag, self._name_of(tag) or "")

    async def _found(self, tag: Tag) -> Found | None:
        found = await self._client.head(self.key_of(tag))
        if found is None and len(self._templates) > 1:
            # Another node, or an earlier setting, may have called it otherwise.
            await self.list()
            found = await self._client.head(self.key_of(tag))
        return found

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
        await take_back_by_reading(self, self._runtime, tag, spool, size_bytes)

    async def open(self, tag: Tag) -> S3Object:
        found = await self._found(tag)
        if found is None:
            raise ChunkMissing(f"no object {tag}")
        return S3Object(self._reader, self.key_of(tag), found)

    async def size_of(self, tag: Tag) -> int | None:
        found = await self._found(tag)
        if found is not None:
            return found.size_bytes
        # HEAD says the same of an object that is gone and of a bucket that is: only an answer with a body tells.
        await self._client.get(self.key_of(tag), bytes_max=_REFUSAL_BYTES_MAX)
        return None

    async def delete(self, tag: Tag) -> None:
        if len(self._templates) > 1:
            await self._found(tag)
        await self._client.delete(self.key_of(tag))
        self._keys.pop(tag, None)

    async def list(self) -> dict[Tag, int]:
        found: dict[Tag, int] = {}
        for prefix in self._prefixes:
            for key, size in (await self._client.objects(prefix)).items():
                tag = self._tag_of(key)
                if tag is not None and tag not in found:
                    found[tag] = size
                    self._keys[tag] = key
        return dict(sorted(found.items()))

    def _tag_of(self, key: str) -> Tag | None:
        """Return whose object this is; None: somebody else's, or an administrator's note."""
        if not key.startswith(self._settings.prefix):
            return None
        below = key.removeprefix(self._settings.prefix)
        return next((tag for one in self._templates if (tag := one.tag_of(below)) is not None), None)

    async def room_bytes(self) -> int:
        return OBJECT_BYTES_MAX

"""The verbs of S3 that we need, each one request: signed, sent once, its answer judged. Never retries.

Knows keys and bytes; what a tag is and which objects belong together is in s3.py. Every byte that is sent is bound
twice: by the signature (``x-amz-content-sha256``) and by ``x-amz-checksum-sha256``, which the store checks and keeps.

Errors: ``StorageUnavailable`` (``S3Refused`` where the store answered), ``StorageFull``, and ``ChunkMissing`` where a
verb says so.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from protocol.errors import ChunkMissing, LinkLost, StorageUnavailable
from protocol.limits import KIB, MIB
from runtime.seam import Clock, Web, WebAnswer, WebBody
from storage.backends import s3answers
from storage.backends.s3answers import SOON_SECONDS, S3Refused
from storage.backends.sigv4 import EMPTY_SHA256, S3Keys, Target, presigned_url, signed_headers

# A listing page of 1000 keys is about 400 KiB.
_ANSWER_BYTES_MAX = 4 * MIB
# Slower than this, with a minute's grace, a request is given up and sent anew.
_BYTES_PER_SECOND_MIN = 16 * KIB
_GRACE_SECONDS = 60.0
# Putting thousands of parts together takes AWS minutes.
_COMPLETE_SECONDS_MAX = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where and as whom. ``endpoint`` is ``scheme://host[:port]``; ``prefix`` is "" or ends with "/"."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    addressing: Literal["path", "virtual"]
    keys: S3Keys


@dataclass(frozen=True, slots=True)
class Found:
    """An object as the store describes it. ``checksum``: its SHA-256 as the store shows it, "" when it shows none."""

    size_bytes: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part the store has. ``digest`` is ours; the store was asked to refuse any other bytes."""

    number: int
    etag: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part as the store lists it. ``checksum``: its SHA-256, "" when the store shows none."""

    number: int
    size_bytes: int
    etag: str
    checksum: str


def checksum_of(digest: bytes) -> str:
    """Return a SHA-256 as S3 shows it."""
    return base64.b64encode(digest).decode("ascii")


def _plainly(_key: str) -> Mapping[str, str]:
    return {}


class S3Client:
    """One bucket of one store. ``describe``: further headers for a new object, by its key."""

    describe: Callable[[str], Mapping[str, str]]

    def __init__(self, clock: Clock, web: Web, settings: S3Settings) -> None:
        self._clock = clock
        self._web = web
        self._settings = settings
        self.describe = _plainly

    def target(self, key: str, query: Mapping[str, str] | None = None) -> Target:
        """Return what a request about ``key`` ("" for the bucket) is addressed to."""
        scheme, _, host = self._settings.endpoint.partition("://")
        path = f"/{key}"
        if self._settings.addressing == "virtual":
            host = f"{self._settings.bucket}.{host}"
        else:
            path = f"/{self._settings.bucket}{path}" if key else f"/{self._settings.bucket}"
        return Target(scheme, host, path, query or {})

    # --- objects ---

    async def head(self, key: str) -> Found | None:
        """Return what the store says of an object; None when there is none."""
        answer = await self._ask("head", "HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"}, fine=(200, 404))
        if answer.status == 404:
            return None
        return _found(answer, "head")

    async def put(self, key: str, body: bytes | WebBody, digest: bytes, *, only_new: bool = False) -> bool:
        """Make an object of ``body``, whose SHA-256 is ``digest``. False: ``only_new``, and there is one."""
        headers = {"x-amz-checksum-sha256": checksum_of(digest), **self.describe(key)}
        if only_new:
            headers["if-none-match"] = "*"
        answer = await self._ask("put", "PUT", key, headers=headers, body=body, digest=digest, fine=(200, 201, 412))
        if answer.status == 412 and not only_new:
            raise s3answers.refusal("put", answer)
        return answer.status != 412

    async def get(self, key: str, bytes_max: int) -> bytes | None:
        """Return a small object; None when there is none."""
        answer = await self._ask("get", "GET", key, fine=(200, 404), bytes_max=bytes_max)
        return None if answer.status == 404 else answer.body

    async def read_into(self, key: str, etag: str, offset: int, target: memoryview) -> None:
        """Fill ``target`` (not empty) from ``offset`` of the object that has this ``etag``.

        Raises:
            ChunkMissing: it is gone, another one, or shorter.
        """
        end = offset + len(target) - 1
        headers = {"range": f"bytes={offset}-{end}", "if-match": etag}
        answer = await self._ask("read", "GET", key, headers=headers, target=target, fine=(200, 206, 404, 412, 416))
        if answer.status in (404, 412, 416):
            raise ChunkMissing(f"object {key} is not there any more as it was ({answer.status})")
        if answer.headers.get("etag", etag) != etag:
            raise ChunkMissing(f"object {key} has become another one")
        # A store that knows no ranges would give us the beginning instead.
        whole = answer.status == 200 and offset == 0
        ranged = answer.headers.get("content-range", "").startswith(f"bytes {offset}-{end}/")
        if not (whole or (answer.status == 206 and ranged)):
            raise s3answers.garbled("read")
        if answer.filled_bytes != len(target):
            raise StorageUnavailable(f"S3 read: {answer.filled_bytes} of {len(target)} bytes came", SOON_SECONDS)

    async def delete(self, key: str) -> None:
        """Remove an object; absent is fine."""
        await self._ask("delete", "DELETE", key, fine=(200, 204, 404))

    async def objects(self, prefix: str) -> dict[str, int]:
        """Return the keys that begin with ``prefix``, and how long their objects are."""
        query = {"list-type": "2", "prefix": prefix}
        entries = await self._listed("list", query, "Contents", {"continuation-token": "NextContinuationToken"})
        try:
            return {entry["Key"]: int(entry["Size"]) for entry in entries}
        except (KeyError, ValueError) as error:
            raise s3answers.garbled("list") from error

    # --- uploads in parts ---

    async def begin_upload(self, key: str) -> str:
        """Begin an upload in parts and return its id."""
        headers = {"x-amz-checksum-algorithm": "SHA256", **self.describe(key)}
        answer = await self._ask("begin upload", "POST", key, {"uploads": ""}, headers=headers)
        upload = s3answers.text_of(answer.body, "UploadId")
        if not upload:
            raise s3answers.garbled("begin upload")
        return upload

    async def put_part(self, key: str, upload: str, number: int, body: WebBody, digest: bytes) -> Part:
        """Send part ``number`` (from 1), whose SHA-256 is ``digest``."""
        what = f"put part {number}"
        query = {"partNumber": str(number), "uploadId": upload}
        headers = {"x-amz-checksum-sha256": checksum_of(digest)}
        answer = await self._ask(what, "PUT", key, query, headers=headers, body=body, digest=digest)
        etag = answer.headers.get("etag", "")
        if not etag or answer.headers.get("x-amz-checksum-sha256", checksum_of(digest)) != checksum_of(digest):
            raise s3answers.garbled(what)
        return Part(number, etag, digest)

    async def complete_upload(self, key: str, upload: str, parts: list[Part], *, only_new: bool = False) -> bool:
        """Make the object of its parts, given in order. False: ``only_new``, and there is one."""
        body = s3answers.complete_body([(part.number, part.etag, checksum_of(part.digest)) for part in parts])
        answer = await self._ask(
            "complete upload",
            "POST",
            key,
            {"uploadId": upload},
            headers={"if-none-match": "*"} if only_new else {},
            body=body,
            digest=hashlib.sha256(body).digest(),
            fine=(200, 412) if only_new else (200,),
            seconds_max=_COMPLETE_SECONDS_MAX,
        )
        if answer.status == 412:
            return False
        if s3answers.is_error(answer.body):
            # Its status was sent before the work was done; what it is is in the body alone.
            raise s3answers.refusal("complete upload", answer)
        return True

    async def find_parts(self, key: str, upload: str, number: int | None = None) -> list[FoundPart]:
        """Return the parts that the store has of an upload, in order; with ``number`` that one alone, or none."""
        query = {"uploadId": upload}
        if number is not None:
            query |= {"part-number-marker": str(number - 1), "max-parts": "1"}
        markers = {"part-number-marker": "NextPartNumberMarker"}
        entries = await self._listed("list parts", query, "Part", markers, key=key, pages_max=1 if number else None)
        try:
            found = [
                FoundPart(int(entry["PartNumber"]), int(entry["Size"]), entry["ETag"], entry.get("ChecksumSHA256", ""))
                for entry in entries
            ]
        except (KeyError, ValueError) as error:
            raise s3answers.garbled("list parts") from error
        return [part for part in found if number in (None, part.number)]

    def part_url(self, key: str, upload: str, number: int, checksum: str, valid_seconds: int) -> str:
        """Return a URL that lets its holder put this part, with the header ``x-amz-checksum-sha256`` as given."""
        return presigned_url(
            "PUT",
            self.target(key, {"partNumber": str(number), "uploadId": upload}),
            {"x-amz-checksum-sha256": checksum},
            self._settings.keys,
            self._settings.region,
            self._clock.wall(),
            valid_seconds,
        )

    async def abort_upload(self, key: str, upload: str) -> None:
        """Give an upload up, with all its parts; absent is fine."""
        await self._ask("abort upload", "DELETE", key, {"uploadId": upload}, fine=(200, 204, 404))

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return key and id of all unfinished uploads of keys that begin with ``prefix``."""
        markers = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
        entries = await self._listed("list uploads", {"uploads": "", "prefix": prefix}, "Upload", markers)
        if not all({"Key", "UploadId"} <= entry.keys() for entry in entries):
            raise s3answers.garbled("list uploads")
        # Not every store keeps to the prefix here.
        return [(entry["Key"], entry["UploadId"]) for entry in entries if entry["Key"].startswith(prefix)]

    # --- one request ---

    async def _listed(
        self,
        what: str,
        query: Mapping[str, str],
        element: str,
        markers: Mapping[str, str],
        *,
        key: str = "",
        pages_max: int | None = None,
    ) -> list[Mapping[str, str]]:
        found: list[Mapping[str, str]] = []
        more: Mapping[str, str] | None = {}
        pages = 0
        while more is not None and pages != pages_max:
            answer = await self._ask(what, "GET", key, {**query, **more})
            page = s3answers.page_of(answer.body, what, element, markers)
            found += page.entries
            more = page.more
            pages += 1
        return found

    async def _ask(
        self,
        what: str,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | WebBody = b"",
        digest: bytes | None = None,
        target: memoryview | None = None,
        fine: tuple[int, ...] = (200,),
        bytes_max: int = _ANSWER_BYTES_MAX,
        seconds_max: float | None = None,
    ) -> WebAnswer:
        place = self.target(key, query)
        sent = signed_headers(
            method,
            place,
            headers or {},
            digest.hex() if digest is not None else EMPTY_SHA256,
            self._settings.keys,
            self._settings.region,
            self._clock.wall(),
        )
        if seconds_max is None:
            carried = len(body) if isinstance(body, bytes) else body.size_bytes
            carried += len(target) if target is not None else 0
            seconds_max = _GRACE_SECONDS + carried / _BYTES_PER_SECOND_MIN
        try:
            answer = await self._web.ask(
                method, place.url, sent, body, target=target, bytes_max=bytes_max, seconds_max=seconds_max
            )
        except LinkLost as error:
            raise StorageUnavailable(f"S3 {what}: {error}", SOON_SECONDS) from error
        missing = answer.status == 404 and s3answers.text_of(answer.body, "Code") == "NoSuchBucket"
        if answer.status not in fine or missing:
            raise s3answers.refusal(what, answer)
        return answer


def _found(answer: WebAnswer, what: str) -> Found:
    length = answer.headers.get("content-length", "")
    etag = answer.headers.get("etag", "")
    if not length.isascii() or not length.isdigit() or not etag:
        raise s3answers.garbled(what)
    return Found(int(length), etag, answer.headers.get("x-amz-checksum-sha256", ""))


__all__ = ["Found", "Part", "S3Client", "S3Refused", "S3Settings", "checksum_of"]

"""The headers of tus 1.0 (https://tus.io/protocols/resumable-upload): what a client says, read and judged. Pure.

What is wrong raises ``Flaw``: an HTTP status and a sentence that says what would be right. Nothing else leaves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from email.utils import formatdate

from protocol.limits import FILE_BYTES_MAX, KIB, NAME_BYTES_MAX

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
# sha1 is what every server must know; md5 is what old clients know.
CHECKSUMS = ("sha1", "sha256", "sha512", "md5")
BODY_TYPE = "application/offset+octet-stream"
METADATA_BYTES_MAX = 8 * KIB
# 460 is tus's own; the others are HTTP's.
BAD_REQUEST, CONFLICT, TOO_LARGE, WRONG_TYPE, PRECONDITION, MISMATCH = 400, 409, 413, 415, 412, 460

_NUMBER = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-+\--~]+")  # ASCII without spaces and commas


class Flaw(Exception):
    """The request is not carried out. ``status``: of the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the body of one request must hash to."""

    algorithm: str
    digest: bytes


def check_version(header: str | None) -> None:
    """Raise ``Flaw`` unless the client speaks our version."""
    if header != VERSION:
        raise Flaw(PRECONDITION, f"this server speaks tus {VERSION}: send Tus-Resumable: {VERSION}")


def check_body_type(header: str | None) -> None:
    """Raise ``Flaw`` unless the body is what tus sends."""
    if (header or "").partition(";")[0].strip().lower() != BODY_TYPE:
        raise Flaw(WRONG_TYPE, f"the bytes of an upload come as Content-Type: {BODY_TYPE}")


def length_of(length: str | None, deferred: str | None) -> int:
    """Return how long the whole upload will be, in bytes."""
    if length is None and deferred is not None:
        raise Flaw(BAD_REQUEST, "a length that is told later is not supported: send Upload-Length")
    size = _number("Upload-Length", length)
    if size > FILE_BYTES_MAX:
        raise Flaw(TOO_LARGE, f"a file has at most {FILE_BYTES_MAX} bytes")
    return size


def offset_of(header: str | None) -> int:
    """Return where the body's first byte belongs."""
    return _number("Upload-Offset", header)


def _number(name: str, header: str | None) -> int:
    # Blanks of HTTP only: Python's strip knows more of them than its int.
    text = (header or "").strip(" \t")
    if _NUMBER.fullmatch(text) is None:
        raise Flaw(BAD_REQUEST, f"{name} must be a number of bytes")
    return int(text)


def metadata_of(header: str | None) -> dict[str, bytes]:
    """Return the pairs of Upload-Metadata: ``key base64, key base64, key``."""
    header = header or ""
    if len(header) > METADATA_BYTES_MAX:
        raise Flaw(TOO_LARGE, f"Upload-Metadata: at most {METADATA_BYTES_MAX} bytes")
    found: dict[str, bytes] = {}
    for part in header.split(",") if header.strip() else ():
        key, _, value = part.strip().partition(" ")
        if _KEY.fullmatch(key) is None or key in found:
            raise Flaw(BAD_REQUEST, "Upload-Metadata: keys are ASCII without spaces and commas, each of them once")
        try:
            found[key] = base64.b64decode(value.strip().encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise Flaw(BAD_REQUEST, f"Upload-Metadata: the value of {key!r} is not base64") from None
    return found


def name_of(metadata: dict[str, bytes]) -> str:
    """Return the name that the file shall be stored under: ``filename``, or ``name``; empty when there is none."""
    raw = metadata.get("filename") or metadata.get("name") or b""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Flaw(BAD_REQUEST, "Upload-Metadata: filename is not UTF-8") from None
    if len(raw) > NAME_BYTES_MAX:
        raise Flaw(BAD_REQUEST, f"Upload-Metadata: filename has at most {NAME_BYTES_MAX} bytes")
    return name


def checksum_of(header: str | None) -> Checksum | None:
    """Return what the body must hash to; None when the client does not say."""
    if header is None:
        return None
    algorithm, _, value = header.strip().partition(" ")
    if algorithm not in CHECKSUMS:
        raise Flaw(BAD_REQUEST, f"Upload-Checksum: the algorithm is one of {', '.join(CHECKSUMS)}")
    try:
        digest = base64.b64decode(value.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Flaw(BAD_REQUEST, "Upload-Checksum: the digest is not base64") from None
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise Flaw(BAD_REQUEST, f"Upload-Checksum: that is no {algorithm} digest")
    return Checksum(algorithm, digest)


def expires_text(wall_seconds: float) -> str:
    """Return a moment as Upload-Expires says it."""
    return formatdate(wall_seconds, usegmt=True)

"""What an object store says, and whose turn it is then. Pure: answers in, errors and lists out.

The store's XML is a stranger's: it is bounded before it comes here, and a document type, which could make a small text
large, is refused. Unknown errors count as ones that asking again soon does not mend.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.errors import StorageError, StorageFull, StorageUnavailable
from protocol.limits import SENTENCE_BYTES_MAX
from runtime.seam import WebAnswer

# The store had a bad moment, or the bytes a bad way: soon again.
SOON_SECONDS = 1.0
# The store refuses us as we are; an operator has to look. Asked again all the same: he may not look here.
LATER_SECONDS = 30.0
_RETRY_AFTER_SECONDS_MAX = 60.0

_SOON_STATUS = {408, 425, 429, 500, 502, 503, 504}
_SOON_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_FULL_CODES = {"EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}
_HINTS = {
    "AccessDenied": "give these credentials the right to list, read, write and delete there",
    "AuthorizationHeaderMalformed": "s3_region may be another",
    "InvalidAccessKeyId": "look at the access key",
    "NoSuchBucket": "make the bucket, or name another in s3_bucket",
    "PermanentRedirect": "s3_region or s3_endpoint may be another",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "look at the secret key",
}
# HEAD has no body to tell a code, so the status must do.
_STATUS_CODES = {301: "PermanentRedirect", 403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed"}
_CODE = re.compile(r"[A-Za-z0-9]{1,64}")


class S3Refused(StorageUnavailable):
    """The store said no. ``code`` is its own word for why; ``ours``: because of how we are set up."""

    def __init__(self, reason: str, retry_after_seconds: float, *, status: int, code: str) -> None:
        super().__init__(reason, retry_after_seconds)
        self.status = status
        self.code = code

    @property
    def ours(self) -> bool:
        """Whether a setting must be wrong: asking again does not help."""
        return self.code in _HINTS or self.status in (301, 307, 401, 403)


def refusal(what: str, answer: WebAnswer) -> StorageError:
    """Return the error that ``answer`` to ``what`` is: ``StorageFull`` or ``S3Refused``."""
    code, message = _error_of(answer.body)
    code = code or _STATUS_CODES.get(answer.status, "")
    reason = f"S3 {what}: {answer.status} {code}".rstrip()
    if message:
        reason += f" ({message})"
    if code in _HINTS:
        reason += f"; {_HINTS[code]}"
    if answer.status == 507 or code in _FULL_CODES:
        return StorageFull(reason)
    if answer.status in _SOON_STATUS or code in _SOON_CODES:
        return S3Refused(reason, _retry_after_seconds(answer.headers), status=answer.status, code=code)
    return S3Refused(reason, LATER_SECONDS, status=answer.status, code=code)


def garbled(what: str) -> StorageUnavailable:
    """Return the error for an answer that cannot be read."""
    return StorageUnavailable(f"S3 {what}: the answer is none of S3; is s3_endpoint right?", LATER_SECONDS)


def is_error(body: bytes) -> bool:
    """Whether a body is an error: completing an upload may be answered 200 and fail all the same."""
    return _error_of(body) != ("", "")


def text_of(body: bytes, name: str) -> str:
    """Return the text of the first element ``name`` below the root, "" when there is none."""
    root = _parse(body)
    return _text(root, name) if root is not None else ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: the wanted elements as dictionaries, and where the next page begins (None: the last)."""

    entries: Sequence[Mapping[str, str]]
    more: Mapping[str, str] | None


def page_of(body: bytes, what: str, element: str, markers: Mapping[str, str]) -> Page:
    """Return a page of a listing. ``markers``: query parameter of the next request -> element that has its value.

    Raises:
        StorageUnavailable: this is no listing.
    """
    root = _parse(body)
    # A page for people may be XML too; taken for an empty listing it would make all our objects lost.
    if root is None or not re.fullmatch("List[A-Za-z]*Result", _local(root.tag)):
        raise garbled(what)
    entries = [{_local(child.tag): child.text or "" for child in one} for one in root if _local(one.tag) == element]
    more = None
    if _text(root, "IsTruncated").lower() == "true":
        more = {parameter: _text(root, name) for parameter, name in markers.items()}
        if not all(more.values()):
            raise garbled(what)
    return Page(entries, more)


def complete_body(parts: Sequence[tuple[int, str, str]]) -> bytes:
    """Return the body that completes an upload of ``parts``: number, ETag, checksum (base64)."""
    root = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    for number, etag, checksum in parts:
        part = ElementTree.SubElement(root, "Part")
        for name, text in (("PartNumber", str(number)), ("ETag", etag), ("ChecksumSHA256", checksum)):
            ElementTree.SubElement(part, name).text = text
    return ElementTree.tostring(root)


def _error_of(body: bytes) -> tuple[str, str]:
    root = _parse(body)
    if root is None or _local(root.tag) != "Error":
        return "", ""
    code = _text(root, "Code")
    return code if _CODE.fullmatch(code) else "Unknown", " ".join(_text(root, "Message").split())[:SENTENCE_BYTES_MAX]


def _parse(body: bytes) -> ElementTree.Element | None:
    try:
        # As text: in another encoding (UTF-16) a document type would not be seen here, and be read all the same.
        text = body.decode("utf-8")
        return None if "<!DOCTYPE" in text or "<!ENTITY" in text else ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None


def _text(root: ElementTree.Element, name: str) -> str:
    return next((child.text or "" for child in root if _local(child.tag) == name), "")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,6}", text):
        return min(max(float(text), SOON_SECONDS), _RETRY_AFTER_SECONDS_MAX)
    return SOON_SECONDS

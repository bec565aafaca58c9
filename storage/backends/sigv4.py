"""AWS Signature Version 4 for S3: which headers, or which query, prove that a request is ours. Pure: no clock, no I/O.

Decides nothing about requests; what is sent is handed in whole, already encoded, and every header handed in is signed.
The payload's SHA-256 is always named, so that nobody on the way can put other bytes behind a signature of ours.

The rules are those of "Signature Version 4 signing process" in the S3 API reference: S3 encodes a path once, not twice
as other services do, and the query is sorted after it was encoded. tests/unit/test_sigv4.py holds both to botocore.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
# What a presigned URL says instead of a payload's digest; the part's checksum header binds the bytes there.
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Who we are to the object store. Only the access key is ever shown."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for. ``host`` as in the header Host; ``path`` begins with "/" and is not encoded yet."""

    scheme: str
    host: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def encoded_path(self) -> str:
        """The path as it is sent and signed."""
        return quote(self.path, safe="/-_.~")

    @property
    def url(self) -> str:
        """The whole URL."""
        text = f"{self.scheme}://{self.host}{self.encoded_path}"
        return f"{text}?{encoded_query(self.query)}" if self.query else text


def encoded_query(query: Mapping[str, str]) -> str:
    """Return the query as it is sent and signed: encoded, then sorted."""
    pairs = sorted((quote(key, safe="-_.~"), quote(value, safe="-_.~")) for key, value in query.items())
    return "&".join(f"{key}={value}" for key, value in pairs)


def signed_headers(
    method: str,
    target: Target,
    headers: Mapping[str, str],
    payload_sha256: str,
    keys: S3Keys,
    region: str,
    wall_seconds: float,
) -> dict[str, str]:
    """Return all headers to send: ``headers`` (lower-case names), what S3 wants beside them, and the authorization."""
    moment = _moment(wall_seconds)
    full = {**headers, "host": target.host, "x-amz-content-sha256": payload_sha256, "x-amz-date": moment}
    if keys.session_token:
        full["x-amz-security-token"] = keys.session_token
    signed = ";".join(sorted(full))
    signature = _signature(method, target, full, payload_sha256, keys, region, moment)
    scope = _scope(moment, region)
    full["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    return full


def presigned_url(
    method: str,
    target: Target,
    headers: Mapping[str, str],
    keys: S3Keys,
    region: str,
    wall_seconds: float,
    valid_seconds: int,
) -> str:
    """Return a URL that lets its holder make this one request, with exactly ``headers``, until it expires.

    ``headers`` with ``x-amz-checksum-sha256`` make the store refuse any other bytes.
    """
    moment = _moment(wall_seconds)
    full = {**headers, "host": target.host}
    query = {
        **target.query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access_key}/{_scope(moment, region)}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(valid_seconds),
        "X-Amz-SignedHeaders": ";".join(sorted(full)),
    }
    if keys.session_token:
        query["X-Amz-Security-Token"] = keys.session_token
    unsigned = Target(target.scheme, target.host, target.path, query)
    signature = _signature(method, unsigned, full, UNSIGNED_PAYLOAD, keys, region, moment)
    return f"{unsigned.url}&X-Amz-Signature={signature}"


def _moment(wall_seconds: float) -> str:
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y%m%dT%H%M%SZ")


def _scope(moment: str, region: str) -> str:
    return f"{moment[:8]}/{region}/s3/aws4_request"


def _signature(
    method: str, target: Target, headers: Mapping[str, str], payload: str, keys: S3Keys, region: str, moment: str
) -> str:
    names = sorted(headers)
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    request = "\n".join((method, target.encoded_path, encoded_query(target.query), lines, ";".join(names), payload))
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join((_ALGORITHM, moment, _scope(moment, region), digest))
    key = f"AWS4{keys.secret_key}".encode()
    for word in (moment[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()

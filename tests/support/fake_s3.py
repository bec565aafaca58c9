"""A strict S3 store in memory, spoken to as if over HTTP: it refuses what a careless store would let pass.

Strict about: the signature (botocore's own computation is the judge), the payload's digest, the checksum of objects and
parts, parts below 5 MiB, wrong ETags, conditional requests, uploads that are not there. It shows the composite checksum
as AWS does. ``faults`` are planted answers; each is asked about every request until it returns one.

It is an httpx2 transport, so that everything above the socket is ours and real.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote
from xml.etree import ElementTree

import httpx2
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from storage.backends.s3client import S3Settings
from storage.backends.sigv4 import S3Keys
from support.failing_disk import Fate

KEYS = S3Keys("AKIDFAKE", "a secret that nobody may print")
REGION = "eu-test-1"
BUCKET = "bucket"
ENDPOINT = "http://s3.test:9000"
PART_BYTES_MIN = 5 << 20
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]+)"
)


def settings(prefix: str = "node/") -> S3Settings:
    return S3Settings(endpoint=ENDPOINT, bucket=BUCKET, prefix=prefix, region=REGION, addressing="path", keys=KEYS)


@dataclass
class Call:
    """A request as the store sees it. ``what``: such as "PUT part 3", "GET object", "POST complete"."""

    what: str
    key: str
    headers: httpx2.Headers
    query: dict[str, str]
    body: bytes


@dataclass
class Stored:
    data: bytes
    checksum: str

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass
class Upload:
    key: str
    parts: dict[int, bytes] = field(default_factory=dict)


Fault = Callable[[Call], "httpx2.Response | Exception | None"]


def refuse(status: int, code: str, **headers: str) -> httpx2.Response:
    body = f"<Error><Code>{code}</Code><Message>refused by the fake</Message></Error>"
    return httpx2.Response(status, headers=headers, text=body)


def _b64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class FakeS3(httpx2.AsyncBaseTransport):
    """The store; it outlives its clients."""

    def __init__(self, *, page: int = 3, shows_checksums: bool = True) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self.calls: list[Call] = []
        self.refused: list[str] = []
        self.faults: list[Fault] = []
        self.fate: Fate | None = None  # of the process that asks; every request is a change of the world
        self._page = page
        self._shows_checksums = shows_checksums
        self._count = 0

    def called(self, what: str) -> int:
        return sum(call.what.startswith(what) for call in self.calls)

    def next_call(self, what: str, answer: Callable[[], httpx2.Response | Exception], times: int = 1) -> None:
        """Answer the next ``times`` requests that begin with ``what`` by ``answer``."""
        left = [times]

        def fault(call: Call) -> httpx2.Response | Exception | None:
            if left[0] and call.what.startswith(what):
                left[0] -= 1
                return answer()
            return None

        self.faults.append(fault)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        query = {}
        for pair in filter(None, request.url.query.decode().split("&")):
            name, _, value = pair.partition("=")
            query[unquote(name)] = unquote(value)
        path = unquote(request.url.raw_path.decode().partition("?")[0])
        key = path.removeprefix(f"/{BUCKET}").removeprefix("/")
        call = Call(_what(request.method, key, query), key, request.headers, query, body)
        self.calls.append(call)
        if self.fate is not None:
            return _streamed(
                self.fate.change(call.what, lambda: self._judge(request, call) or self._answer(request.method, call))
            )
        for fault in self.faults:
            planted = fault(call)
            if isinstance(planted, Exception):
                raise planted
            if planted is not None:
                return _streamed(planted)
        answer = self._judge(request, call) or self._answer(request.method, call)
        if answer.status_code >= 400 and answer.status_code not in (404, 412):
            self.refused.append(f"{call.what}: {answer.status_code} {answer.text}")
        return _streamed(answer)

    # --- may this request be? ---

    def _judge(self, request: httpx2.Request, call: Call) -> httpx2.Response | None:
        match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if match is None or match[1] != KEYS.access_key:
            return refuse(403, "InvalidAccessKeyId")
        if match[3] != REGION:
            return refuse(400, "AuthorizationHeaderMalformed")
        names = match[4].split(";")
        if not {"host", "x-amz-content-sha256", "x-amz-date"} <= set(names):
            return refuse(403, "AccessDenied")
        if any(name.startswith("x-amz-") and name not in names for name in request.headers):
            return refuse(403, "AccessDenied")
        if match[5] != expected_signature(request, names):
            return refuse(403, "SignatureDoesNotMatch")
        if request.headers["x-amz-content-sha256"] != hashlib.sha256(call.body).hexdigest():
            return refuse(400, "XAmzContentSHA256Mismatch")
        checksum = request.headers.get("x-amz-checksum-sha256")
        if checksum is not None and checksum != _b64(call.body):
            return refuse(400, "BadDigest")
        if call.what.startswith(("PUT part", "PUT object")) and checksum is None:
            return refuse(400, "InvalidRequest")
        if call.body and request.headers.get("content-length") != str(len(call.body)):
            return refuse(411, "MissingContentLength")
        return None

    # --- what it does ---

    def _answer(self, method: str, call: Call) -> httpx2.Response:
        match call.what.split()[:2]:
            case ["GET", "list"]:
                return self._list(call)
            case ["GET", "uploads"]:
                return self._list_uploads(call)
            case ["POST", "begin"]:
                if call.headers.get("x-amz-checksum-algorithm") != "SHA256":
                    return refuse(400, "InvalidRequest")
                self._count += 1
                self.uploads[f"upload {self._count}"] = Upload(call.key)
                return httpx2.Response(
                    200,
                    text=f"<InitiateMultipartUploadResult><UploadId>upload {self._count}</UploadId>"
                    "</InitiateMultipartUploadResult>",
                )
            case ["PUT", "part"]:
                return self._put_part(call)
            case ["GET", "parts"]:
                return self._list_parts(call)
            case ["POST", "complete"]:
                return self._complete(call)
            case ["DELETE", "upload"]:
                if self.uploads.pop(call.query["uploadId"], None) is None:
                    return refuse(404, "NoSuchUpload")
                return httpx2.Response(204)
            case ["DELETE", "object"]:
                self.objects.pop(call.key, None)
                return httpx2.Response(204)
            case ["PUT", "object"]:
                if call.headers.get("if-none-match") == "*" and call.key in self.objects:
                    return refuse(412, "PreconditionFailed")
                self.objects[call.key] = Stored(call.body, _b64(call.body))
                return httpx2.Response(200, headers={"etag": self.objects[call.key].etag})
            case ["GET" | "HEAD", "object"]:
                return self._read(method, call)
        return refuse(405, "MethodNotAllowed")

    def _read(self, method: str, call: Call) -> httpx2.Response:
        stored = self.objects.get(call.key)
        if stored is None:
            return httpx2.Response(404) if method == "HEAD" else refuse(404, "NoSuchKey")
        headers = {"etag": stored.etag}
        if self._shows_checksums and call.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers["x-amz-checksum-sha256"] = stored.checksum
        if call.headers.get("if-match", stored.etag) != stored.etag:
            return refuse(412, "PreconditionFailed")
        if method == "HEAD":
            return httpx2.Response(200, headers={**headers, "content-length": str(len(stored.data))})
        if "range" not in call.headers:
            return httpx2.Response(200, headers=headers, content=stored.data)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers["range"])
        assert match is not None
        start, end = int(match[1]), min(int(match[2]), len(stored.data) - 1)
        if start > end:
            return refuse(416, "InvalidRange")
        headers["content-range"] = f"bytes {start}-{end}/{len(stored.data)}"
        return httpx2.Response(206, headers=headers, content=stored.data[start : end + 1])

    def _put_part(self, call: Call) -> httpx2.Response:
        upload = self.uploads.get(call.query["uploadId"])
        if upload is None or upload.key != call.key:
            return refuse(404, "NoSuchUpload")
        upload.parts[int(call.query["partNumber"])] = call.body
        etag = f'"{hashlib.md5(call.body).hexdigest()}"'
        return httpx2.Response(200, headers={"etag": etag, "x-amz-checksum-sha256": _b64(call.body)})

    def _list_parts(self, call: Call) -> httpx2.Response:
        upload = self.uploads.get(call.query["uploadId"])
        if upload is None or upload.key != call.key:
            return refuse(404, "NoSuchUpload")
        marker = int(call.query.get("part-number-marker", "0"))
        numbers = sorted(number for number in upload.parts if number > marker)
        page = numbers[: int(call.query.get("max-parts", self._page))]
        text = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(upload.parts[number])}</Size>"
            f'<ETag>"{hashlib.md5(upload.parts[number]).hexdigest()}"</ETag>'
            f"<ChecksumSHA256>{_b64(upload.parts[number])}</ChecksumSHA256></Part>"
            for number in page
        )
        if len(numbers) > len(page):
            text += f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{page[-1]}</NextPartNumberMarker>"
        return httpx2.Response(200, text=f"<ListPartsResult>{text}</ListPartsResult>")

    def _complete(self, call: Call) -> httpx2.Response:
        upload = self.uploads.get(call.query["uploadId"])
        if upload is None:
            return refuse(404, "NoSuchUpload")
        if call.headers.get("if-none-match") == "*" and call.key in self.objects:
            return refuse(412, "PreconditionFailed")
        listed = [tuple(child.text or "" for child in part) for part in ElementTree.fromstring(call.body)]
        for number, (shown, etag, checksum) in enumerate(listed, 1):
            data = upload.parts.get(number)
            if int(shown) != number or data is None:
                return refuse(400, "InvalidPartOrder")
            if etag != f'"{hashlib.md5(data).hexdigest()}"' or checksum != _b64(data):
                return refuse(400, "InvalidPart")
            if number < len(listed) and len(data) < PART_BYTES_MIN:
                return refuse(400, "EntityTooSmall")
        parts = [upload.parts[number] for number in range(1, len(listed) + 1)]
        joined = b"".join(hashlib.sha256(part).digest() for part in parts)
        self.objects[call.key] = Stored(b"".join(parts), f"{_b64(joined)}-{len(parts)}")
        del self.uploads[call.query["uploadId"]]
        return httpx2.Response(200, text="<CompleteMultipartUploadResult/>")

    def _list(self, call: Call) -> httpx2.Response:
        keys = sorted(key for key in self.objects if key.startswith(call.query["prefix"]))
        keys = [key for key in keys if key > call.query.get("continuation-token", "")]
        page = keys[: self._page]
        text = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.objects[key].data)}</Size></Contents>" for key in page
        )
        if len(keys) > len(page):
            text += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page[-1]}</NextContinuationToken>"
        return httpx2.Response(200, text=f'<ListBucketResult xmlns="urn:s3">{text}</ListBucketResult>')

    def _list_uploads(self, call: Call) -> httpx2.Response:
        marker = (call.query.get("key-marker", ""), call.query.get("upload-id-marker", ""))
        known = sorted((upload.key, name) for name, upload in self.uploads.items())
        known = [entry for entry in known if entry[0].startswith(call.query["prefix"]) and entry > marker]
        page = known[: self._page]
        text = "".join(f"<Upload><Key>{key}</Key><UploadId>{name}</UploadId></Upload>" for key, name in page)
        if len(known) > len(page):
            key, name = page[-1]
            text += f"<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>"
            text += f"<NextUploadIdMarker>{name}</NextUploadIdMarker>"
        return httpx2.Response(200, text=f"<ListMultipartUploadsResult>{text}</ListMultipartUploadsResult>")


def _streamed(answer: httpx2.Response) -> httpx2.Response:
    """As it would come from a socket."""
    return httpx2.Response(answer.status_code, headers=answer.headers, stream=httpx2.ByteStream(answer.content))


def _what(method: str, key: str, query: dict[str, str]) -> str:
    if not key:
        return f"{method} uploads" if "uploads" in query else f"{method} list"
    if "uploads" in query:
        return f"{method} begin"
    if "partNumber" in query:
        return f"{method} part {query['partNumber']}"
    if "uploadId" in query:
        return {"POST": "POST complete", "DELETE": "DELETE upload", "GET": "GET parts"}.get(method, method)
    return f"{method} object"


def expected_signature(request: httpx2.Request, names: list[str]) -> str:
    """What botocore would sign this request with, given the headers that were signed."""
    judged = AWSRequest(method=request.method, url=str(request.url))
    for name in names:
        judged.headers[name] = request.headers[name]
    moment = request.headers["x-amz-date"]
    judged.context["timestamp"] = moment
    auth = S3SigV4Auth(Credentials(KEYS.access_key, KEYS.secret_key), "s3", REGION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        signed = auth.canonical_request(judged)
        return str(auth.signature(auth.string_to_sign(judged, signed), judged))

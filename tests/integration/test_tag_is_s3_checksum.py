"""A tag is the composite SHA-256 checksum that an S3 server reports for a multipart upload with part = chunk.

The server is moto's, in this process, spoken to over HTTP by Amazon's own client: neither knows a line of ours.
"""

from __future__ import annotations

import base64
import hashlib
import random
import warnings
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from protocol.ids import Tag
from protocol.limits import MIB, SMALL_FILE_BYTES_MAX
from protocol.manifest import Layout, Manifest

BUCKET = "upswarm"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies; none of them is ours
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    finally:
        server.stop()


def upload(s3: Any, name: str, parts: list[bytes]) -> str:
    """Store ``parts`` as one object; return the checksum that the server made of them."""
    upload_id = s3.create_multipart_upload(Bucket=BUCKET, Key=name, ChecksumAlgorithm="SHA256")["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(
            Bucket=BUCKET, Key=name, UploadId=upload_id, PartNumber=number, Body=part, ChecksumAlgorithm="SHA256"
        )
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=name, UploadId=upload_id, MultipartUpload={"Parts": done})
    answer = s3.get_object(Bucket=BUCKET, Key=name, ChecksumMode="ENABLED")
    answer["Body"].close()
    assert answer["ContentLength"] == sum(map(len, parts))
    checksum: str = answer["ChecksumSHA256"]
    return checksum


def tag_of_s3_checksum(checksum: str) -> Tag:
    """``<base64>-<number of parts>``, as S3 shows a composite checksum."""
    root, _, count = checksum.rpartition("-")
    return Tag(base64.b64decode(root, validate=True), int(count))


# S3 wants parts of at least 5 MiB, all but the last. Files above 64 MiB have chunks of 8 MiB; a file of one chunk is
# one part of any size.
@pytest.mark.parametrize("size_bytes", [0, 12345, SMALL_FILE_BYTES_MAX + 1, SMALL_FILE_BYTES_MAX + 17 * MIB + 12345])
def test_the_tag_of_a_stored_file_is_its_s3_checksum(s3: Any, size_bytes: int) -> None:
    content = memoryview(random.Random(size_bytes).randbytes(size_bytes))
    layout = Layout.of_size(size_bytes)
    chunks = [bytes(content[layout.offset_of(chunk) :][: layout.bytes_of(chunk)]) for chunk in range(layout.chunks)]
    manifest = Manifest.of_digests(size_bytes, [hashlib.sha256(chunk).digest() for chunk in chunks])
    assert tag_of_s3_checksum(upload(s3, f"file-{size_bytes}", chunks)) == manifest.tag

"""The S3 backend keeps the contract on a real server, too; and that server's composite checksum is the tag."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from contract.backend_contract import BackendContract
from support.seaweed import Seaweed, running_seaweed
from support.storage_node import manifest_of, some_bytes

from protocol.ids import Tag
from protocol.limits import MIB, SMALL_FILE_BYTES_MAX
from runtime.seam import Runtime, Web
from runtime.web import open_web
from storage.backends.base import Backend
from storage.backends.s3 import S3Backend

BUCKET = "contract"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def seaweed() -> Iterator[Seaweed]:
    with running_seaweed() as server:
        server.make_bucket(BUCKET)
        yield server


class TestS3BackendOnSeaweed(BackendContract):
    web: ClassVar[Web]
    server: ClassVar[Seaweed]
    prefix: ClassVar[str]

    @pytest.fixture
    async def backend(self, runtime: Runtime, tmp_path: Path, spool: Path, seaweed: Seaweed) -> AsyncIterator[Backend]:
        async with open_web() as web:
            type(self).web, type(self).server = web, seaweed
            type(self).prefix = f"test-{next(_numbers)}/"
            backend = self.make(runtime, tmp_path / "objects", spool)
            with trio.fail_after(60):
                await backend.prepare()
            yield backend
        client = seaweed.boto()
        assert not client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix).get("Uploads")
        client.close()

    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return S3Backend(runtime, self.web, self.server.settings(BUCKET, self.prefix), spool, owner="us")

    @pytest.mark.slow
    async def test_the_composite_checksum_that_the_server_reports_is_the_tag(
        self, backend: Backend, spool: Path
    ) -> None:
        data = some_bytes(SMALL_FILE_BYTES_MAX + 9 * MIB + 12345)
        tag = manifest_of(data).tag
        (spool / str(tag)).write_bytes(data)
        await backend.store(tag, spool / str(tag), len(data))
        client = self.server.boto()
        answer = client.head_object(Bucket=BUCKET, Key=f"{self.prefix}objects/{tag}", ChecksumMode="ENABLED")
        client.close()
        root, _, count = answer["ChecksumSHA256"].rpartition("-")
        assert Tag(base64.b64decode(root, validate=True), int(count)) == tag
        assert await self.content(backend, tag) == data

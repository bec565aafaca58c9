"""The S3 backend keeps the contract on a strict store; retrying in front of it changes nothing of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from contract.backend_contract import BackendContract
from support.fake_s3 import FakeS3, settings

from runtime.seam import Runtime, Web
from runtime.web import open_web
from storage.backends.base import Backend
from storage.backends.retrying import RetryingBackend
from storage.backends.s3 import S3Backend


class S3Contract(BackendContract):
    web: ClassVar[Web]  # of the test that runs

    @pytest.fixture
    def fake(self) -> FakeS3:
        return FakeS3()

    @pytest.fixture
    async def backend(self, runtime: Runtime, tmp_path: Path, spool: Path, fake: FakeS3) -> AsyncIterator[Backend]:
        async with open_web(fake) as web:
            type(self).web = web
            backend = self.make(runtime, tmp_path / "objects", spool)
            with trio.fail_after(60):
                await backend.prepare()
            yield backend
        assert fake.refused == []
        assert fake.uploads == {}


class TestS3Backend(S3Contract):
    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return S3Backend(runtime, self.web, settings(), spool, owner="us")


class TestRetryingBackend(S3Contract):
    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return RetryingBackend(runtime, S3Backend(runtime, self.web, settings(), spool, owner="us", read_back=True))


class TestS3BackendThatUsesNames(S3Contract):
    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return S3Backend(
            runtime,
            self.web,
            settings(),
            spool,
            owner="us",
            key="files/{folder}{stem}.{tag}{suffix}",
            name_of=lambda tag: f"films/number {tag.chunks}.mp4",
        )


class TestS3BackendOnAStoreWithoutChecksums(S3Contract):
    @pytest.fixture
    def fake(self) -> FakeS3:
        return FakeS3(shows_checksums=False)

    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return S3Backend(runtime, self.web, settings(""), spool, owner="us")

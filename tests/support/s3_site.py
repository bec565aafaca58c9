"""A storage node on a network of pipes whose objects are in a strict S3 store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.config import Secret
from runtime.seam import Web
from runtime.web import open_web
from support.fake_s3 import BUCKET, ENDPOINT, KEYS, REGION, FakeS3
from support.storage_node import Site


def s3_site(folder: Path, fake: FakeS3, seed: int = 0) -> Site:
    """A storage node whose objects are in ``fake``."""

    @asynccontextmanager
    async def web() -> AsyncIterator[Web]:
        async with open_web(fake) as web:
            yield web

    site = Site(folder, seed=seed)
    site.open_web = web
    site.settings |= {
        "backend": "s3",
        "s3_endpoint": ENDPOINT,
        "s3_bucket": BUCKET,
        "s3_region": REGION,
        "s3_prefix": "node/",
        "s3_access_key": KEYS.access_key,
        "s3_secret_key": Secret(KEYS.secret_key),
    }
    return site

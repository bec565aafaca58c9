"""Names that would like to be headers: whoever reads a stored file by HTTP gets our headers, and no others."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from support.storage_node import Site
from trio.testing import MockClock

from protocol.ids import Tag

TOKEN = "0123456789abcdef-token"
NAMES = [
    "x\r\nset-cookie: a=1",
    "x\nlocation: http://evil.example/",
    '"; filename="other.exe',
    "a;b=c, d: e",
    "\x00\x1b[31m",
    "UTF-8''%0d%0aevil: 1",
    "folder/\r\n\r\n<script>alert(1)</script>.html",
    "\u202egnp.exe",
    "x" * 1024,
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_makes_no_header_and_no_body(autojump_clock: MockClock, tmp_path: Path, name: str) -> None:
    site = Site(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        put = await anna.put(link, b"plain bytes", name)
        assert put.proven
        transport = httpx2.ASGITransport(storage.door(TOKEN))
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
            tag: Tag = put.tag
            for path in (f"/tag/{tag}", f"/tag/{tag}?x=%0d%0aevil:1", f"/tag/{tag}%0d%0a"):
                answer = await client.get(path)
                if answer.status_code == 404:
                    continue
                assert answer.content == b"plain bytes"
                assert not {"set-cookie", "location", "evil"} & set(answer.headers)
                told = answer.headers["content-disposition"]
                assert told.startswith("inline; filename*=UTF-8''") and told.isascii() and told.isprintable()
                # Everything but letters, digits and a few marks is percent-encoded: nothing ends a value or a line.
                assert not set(told.partition("''")[2]) & set("\r\n\"';, :/<>")

"""Parts that a daemon puts by itself: only where a store may be, and nowhere on this machine or beside it."""

from __future__ import annotations

import pytest

from daemon.direct import flaw_of_url

FAR = "192.0.2.7:4200"
NEAR = "127.0.0.1:4200"


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.example.org/bucket/key?partNumber=1",
        "http://192.0.2.9:8333/bucket/key",
        "http://10.1.2.3/bucket/key",
        "https://[2001:db8::7]:9000/bucket/key",
    ],
)
def test_a_store_may_be_anywhere_on_the_net(url: str) -> None:
    assert flaw_of_url(url, FAR) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8333/bucket/key",
        "http://localhost/bucket/key",
        "http://s3.localhost/bucket/key",
        "http://[::1]:9000/key",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/key",
        "http://0.0.0.0/key",
        "http://224.0.0.1/key",
        "file:///etc/passwd",
        "ftp://192.0.2.9/key",
        "http://user:word@192.0.2.9/key",
        "http:///key",
        "http://[::1/key",
        "http://192.0.2.9:99999/key",
        "",
    ],
)
def test_a_storage_node_elsewhere_cannot_send_us_to_this_machine_or_beside_it(url: str) -> None:
    assert flaw_of_url(url, FAR) is not None


def test_a_store_on_this_machine_is_fine_for_a_storage_node_on_it() -> None:
    assert flaw_of_url("http://127.0.0.1:8333/bucket/key", NEAR) is None
    assert flaw_of_url("http://169.254.169.254/latest", NEAR) is not None

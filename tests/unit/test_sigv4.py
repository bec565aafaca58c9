"""Our signatures are botocore's: headers and presigned part URLs, whatever the key, the query and the moment."""

from __future__ import annotations

import datetime
import hashlib
import warnings
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from storage.backends.sigv4 import EMPTY_SHA256, S3Keys, Target, presigned_url, signed_headers

KEYS = S3Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
TOKEN_KEYS = S3Keys("ASIAEXAMPLE", "another secret", "a session/token==")
words = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=20)
targets = st.builds(
    Target,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["bucket.s3.eu-central-1.amazonaws.com", "127.0.0.1:8333", "[::1]:9000"]),
    # "." and ".." as whole segments are resolved by HTTP clients; keys of ours have none.
    st.lists(words.filter(lambda word: word not in (".", "..") and "/" not in word), min_size=1, max_size=4).map(
        lambda segments: "/" + "/".join(segments)
    ),
    st.dictionaries(words, words, max_size=4),
)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
headers = st.dictionaries(
    st.sampled_from(["range", "if-match", "if-none-match", "x-amz-checksum-sha256", "x-amz-checksum-mode"]),
    header_values,
)
moments = st.floats(1e9, 3e9)
regions = st.sampled_from(["us-east-1", "eu-central-1"])


def at(monkeypatch: pytest.MonkeyPatch, wall_seconds: float) -> None:
    """Let botocore believe that it is that moment."""
    moment = datetime.datetime.fromtimestamp(wall_seconds, datetime.UTC).replace(tzinfo=None)
    for name in ("get_current_datetime",):
        monkeypatch.setattr(botocore.auth, name, lambda *_args, **_kwargs: moment)


def credentials(keys: S3Keys) -> Credentials:
    return Credentials(keys.access_key, keys.secret_key, keys.session_token or None)


def signed_by_botocore(auth: Any, method: str, target: Target, given: dict[str, str], body: bytes) -> AWSRequest:
    request = AWSRequest(method=method, url=target.url, headers=dict(given), data=body)
    request.headers["host"] = target.host
    request.context["payload_signing_enabled"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        auth.add_auth(request)
    return request


@given(targets, headers, st.binary(max_size=30), st.sampled_from([KEYS, TOKEN_KEYS]), regions, moments)
def test_headers_are_those_that_botocore_makes(
    target: Target, given: dict[str, str], body: bytes, keys: S3Keys, region: str, wall: float
) -> None:
    ours = signed_headers("PUT", target, given, hashlib.sha256(body).hexdigest(), keys, region, wall)
    with pytest.MonkeyPatch.context() as monkeypatch:
        at(monkeypatch, wall)
        theirs = signed_by_botocore(
            botocore.auth.S3SigV4Auth(credentials(keys), "s3", region), "PUT", target, given, body
        )
    assert ours == {name.lower(): value for name, value in theirs.headers.items()}


@given(targets, headers, st.sampled_from([KEYS, TOKEN_KEYS]), regions, moments, st.integers(1, 604800))
def test_presigned_urls_are_those_that_botocore_makes(
    target: Target, given: dict[str, str], keys: S3Keys, region: str, wall: float, seconds: int
) -> None:
    ours = presigned_url("PUT", target, given, keys, region, wall, seconds)
    with pytest.MonkeyPatch.context() as monkeypatch:
        at(monkeypatch, wall)
        auth = botocore.auth.S3SigV4QueryAuth(credentials(keys), "s3", region, expires=seconds)
        theirs = signed_by_botocore(auth, "PUT", target, given, b"").url
    assert urlsplit(ours)[:3] == urlsplit(theirs)[:3]
    assert sorted(parse_qsl(urlsplit(ours).query, strict_parsing=True)) == sorted(
        parse_qsl(urlsplit(theirs).query, strict_parsing=True)
    )


def test_a_presigned_part_url_is_bound_to_the_parts_digest() -> None:
    target = Target("https", "bucket.example.org", "/objects/x", {"partNumber": "7", "uploadId": "abc/+="})
    urls = {
        presigned_url("PUT", target, {"x-amz-checksum-sha256": checksum}, KEYS, "us-east-1", 1.8e9, 60)
        for checksum in ("one", "other")
    }
    assert len(urls) == 2
    assert all("X-Amz-SignedHeaders=host%3Bx-amz-checksum-sha256" in url for url in urls)


def test_keys_never_show_what_is_secret() -> None:
    shown = f"{TOKEN_KEYS} {TOKEN_KEYS!r}"
    assert TOKEN_KEYS.secret_key not in shown and TOKEN_KEYS.session_token not in shown
    assert hashlib.sha256().hexdigest() == EMPTY_SHA256

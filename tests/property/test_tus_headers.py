"""The headers of tus: whatever a client sends is read or refused, and what was spelled right is read back."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import FILE_BYTES_MAX, NAME_BYTES_MAX
from storage.tus import headers
from storage.tus.headers import Flaw

# What an HTTP server lets through as a header's value.
anything = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=200)
keys = st.text(st.sampled_from("abcXYZ019-_.!~"), min_size=1, max_size=20)


@given(st.one_of(st.none(), anything, st.integers().map(str)))
def test_garbage_is_read_or_refused_and_nothing_else(header: str | None) -> None:
    readers: tuple[Callable[[str | None], object], ...] = (
        headers.check_version,
        headers.check_body_type,
        lambda text: headers.length_of(text, None),
        headers.offset_of,
        headers.metadata_of,
        headers.checksum_of,
    )
    for read in readers:
        try:
            read(header)
        except Flaw as flaw:
            assert 400 <= flaw.status < 500 and str(flaw)


@given(st.integers(0, 2**59))
def test_lengths_up_to_the_largest_file_are_read(size: int) -> None:
    if size <= FILE_BYTES_MAX:
        assert headers.length_of(str(size), None) == size
    else:
        with pytest.raises(Flaw) as caught:
            headers.length_of(str(size), None)
        assert caught.value.status in (400, 413)
    assert headers.offset_of("7") == 7


@given(st.sampled_from(["-1", "+1", "1.0", "0x1", "1e3", "٣", "", " ", "1 2", "1,2"]))
def test_numbers_are_plain_digits(text: str) -> None:
    with pytest.raises(Flaw):
        headers.offset_of(text)


@given(st.dictionaries(keys, st.binary(max_size=60), max_size=8), st.booleans())
def test_metadata_is_read_back(pairs: dict[str, bytes], spaced: bool) -> None:
    texts = [f"{key} {base64.b64encode(value).decode()}".rstrip() for key, value in pairs.items()]
    assert headers.metadata_of((", " if spaced else ",").join(texts)) == pairs


@given(keys)
def test_a_key_that_comes_twice_is_refused(key: str) -> None:
    with pytest.raises(Flaw):
        headers.metadata_of(f"{key} YQ==,{key} YQ==")


@given(st.binary(max_size=NAME_BYTES_MAX + 10))
def test_names_are_utf8_and_fit(raw: bytes) -> None:
    try:
        name = headers.name_of({"filename": raw})
    except Flaw:
        assert len(raw) > NAME_BYTES_MAX or raw.decode("utf-8", "replace").encode() != raw
    else:
        assert name.encode() == raw and len(raw) <= NAME_BYTES_MAX


def test_the_name_is_that_of_the_file() -> None:
    assert headers.name_of({"name": b"a", "filename": b"b"}) == "b"
    assert headers.name_of({"name": b"a"}) == "a"
    assert headers.name_of({}) == ""


@given(st.sampled_from(headers.CHECKSUMS), st.binary(max_size=100))
def test_checksums_are_read_back_whole_or_not_at_all(algorithm: str, data: bytes) -> None:
    digest = hashlib.new(algorithm, data).digest()
    checksum = headers.checksum_of(f"{algorithm} {base64.b64encode(digest).decode()}")
    assert checksum == headers.Checksum(algorithm, digest)
    with pytest.raises(Flaw):
        headers.checksum_of(f"{algorithm} {base64.b64encode(digest[:-1]).decode()}")


@given(st.integers(0, 2**33))
def test_moments_are_what_http_says(wall: int) -> None:
    text = headers.expires_text(wall)
    assert text.endswith(" GMT") and int(parsedate_to_datetime(text).timestamp()) == wall

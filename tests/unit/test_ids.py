"""Names look one way only."""

from __future__ import annotations

import hashlib

import pytest

from protocol.ids import (
    NodeAddress,
    Role,
    Tag,
    format_address,
    node_id_from_bytes,
    node_id_of_key,
    node_id_to_bytes,
    parse_address,
    parse_node_id,
)
from protocol.limits import CHUNKS_MAX

NODE = node_id_from_bytes(bytes(range(32)))


def test_a_node_id_is_sha256_of_the_key_in_base32() -> None:
    node = node_id_of_key(b"k" * 32)
    assert node_id_to_bytes(node) == hashlib.sha256(b"k" * 32).digest()
    assert len(node) == 52 and node == node.lower() and "=" not in node
    assert parse_node_id(node) == node


@pytest.mark.parametrize("text", ["", NODE[:-1], NODE + "a", NODE.upper(), "1" + NODE[1:], NODE + "\n", " " + NODE[1:]])
def test_what_is_no_node_id_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(ValueError, match="is not a node id: 52 characters a-z and 2-7"):
        parse_node_id(text)


def test_unused_bits_of_a_node_id_must_be_zero() -> None:
    # 52 characters carry 260 bits, a digest 256: four spare bits would give one node sixteen names.
    assert NODE[-1] == "q"
    with pytest.raises(ValueError, match="unused bits"):
        parse_node_id(NODE[:-1] + "r")


def test_a_tag_is_shown_as_hex_and_count() -> None:
    tag = Tag(bytes(range(32)), 17)
    assert str(tag) == bytes(range(32)).hex() + "-17"
    assert Tag.parse(str(tag)) == tag == Tag.from_bytes(tag.to_bytes())


@pytest.mark.parametrize(
    "text",
    ["", "ab-1", "0" * 64, "0" * 64 + "-", "0" * 64 + "-0", "0" * 64 + "-01", "A" * 64 + "-1", "0" * 64 + "-1\n",
     "0" * 64 + "-8193", "0" * 64 + "-99999", "0" * 64 + "--1", "٣" * 64 + "-1", "0" * 64 + "-٣"],
)  # fmt: skip
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tag"):
        Tag.parse(text)


@pytest.mark.parametrize(
    "data", [b"", bytes(35), bytes(36), bytes(37), bytes(32) + (CHUNKS_MAX + 1).to_bytes(4, "big")]
)
def test_what_is_no_wire_form_of_a_tag_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="a tag"):
        Tag.from_bytes(data)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4100", "127.0.0.1", 4100),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("storage-1.example.org:443", "storage-1.example.org", 443),
        ("node_7.:1", "node_7.", 1),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)
    assert format_address(host, port) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", ":80", "host:", "host:65536", "host:-1", "host:+1", "host: 1", "host:1 ", "host:١", "::1:80", "[::1]",
     "[]:80", "[host]:80", "a..b:80", ".a:80", "a b:80", "a\0b:80", "a\nb:80", "x" * 64 + ":80", "a/b:80", "ä.de:80",
     "user@host:80", "host:" + "1" * 5000, ".".join(["x" * 60] * 5) + ":80"],
)  # fmt: skip
def test_what_no_resolver_can_be_asked_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|needs brackets") as raised:
        parse_address(text)
    assert len(str(raised.value)) < 200


def test_names_have_an_order_so_that_nothing_depends_on_that_of_a_set() -> None:
    assert sorted([Tag(b"b" * 32, 1), Tag(b"a" * 32, 2), Tag(b"a" * 32, 1)])[0] == Tag(b"a" * 32, 1)
    assert NodeAddress(NODE, Role.PEER, ()) < NodeAddress(NODE, Role.STORAGE, ())

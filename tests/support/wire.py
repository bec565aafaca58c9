"""Hypothesis strategies for everything that may be said, built from the kinds of the fields themselves.

A new message or field is drawn without a word here; a new kind of field is an error until it is drawn.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from protocol import fields as kinds
from protocol.ids import NodeAddress, Role, Tag, format_address, node_id_from_bytes
from protocol.limits import CHUNKS_MAX
from protocol.messages import MESSAGES, Message

node_ids = st.binary(min_size=32, max_size=32).map(node_id_from_bytes)
tags = st.builds(Tag, st.binary(min_size=32, max_size=32), st.integers(1, CHUNKS_MAX))
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True),
)
addresses = st.builds(format_address, hosts, st.integers(0, 65535))
node_addresses = st.builds(NodeAddress, node_ids, st.sampled_from(Role), st.lists(addresses, max_size=3).map(tuple))


def texts(bytes_max: int) -> st.SearchStrategy[str]:
    """Draw text whose UTF-8 fits ``bytes_max``; at times exactly."""
    drawn = st.text(st.characters(exclude_categories=["Cs"]), max_size=min(bytes_max, 40))
    cut = drawn.map(lambda text: text.encode()[:bytes_max].decode(errors="ignore"))
    return st.one_of(cut, st.just("x" * bytes_max), st.just("\0"))


def values(kind: kinds.Kind) -> st.SearchStrategy[Any]:
    """Draw what a field of ``kind`` may hold, its limits included."""
    match kind:
        case kinds.UInt():
            return st.one_of(st.integers(0, kind.most), st.sampled_from([0, kind.most]))
        case kinds.Flag():
            return st.booleans()
        case kinds.Bytes():
            least = kind.most if kind.exact else 0
            few = st.binary(min_size=min(least, 64), max_size=min(kind.most, 64))
            return few if kind.exact else st.one_of(few, st.just(b"\x80" * kind.most))
        case kinds.Text():
            return texts(kind.most)
        case kinds.Word():
            return st.sampled_from(kind.of)
        case kinds.TagField():
            return tags
        case kinds.NodeField():
            return node_ids
        case kinds.AddressField():
            return addresses
        case kinds.NodeAddressField():
            return node_addresses
        case kinds.ListOf():
            item = values(kind.kind)
            return st.one_of(
                st.lists(item, max_size=min(kind.most, 4)).map(tuple), item.map(lambda one: (one,) * kind.most)
            )
        case kinds.Maybe():
            return st.none() | values(kind.kind)
        case kinds.Record():
            return records(kind.of)
    raise AssertionError(f"no strategy for {kind}")


def records(of: type) -> st.SearchStrategy[Any]:
    """Draw messages or records of one class."""
    return st.builds(of, **{name: values(kind) for name, kind in kinds.kinds_of(of)})


BY_TYPE: dict[type[Message], st.SearchStrategy[Any]] = {kind: records(kind) for kind in MESSAGES.values()}
messages: st.SearchStrategy[Any] = st.sampled_from(sorted(MESSAGES)).flatmap(lambda number: BY_TYPE[MESSAGES[number]])


def small(kind: kinds.Kind) -> Any:
    """Return the plainest value of ``kind``."""
    match kind:
        case kinds.UInt():
            return 0
        case kinds.Flag():
            return False
        case kinds.Bytes():
            return bytes(kind.most) if kind.exact else b""
        case kinds.Text():
            return ""
        case kinds.Word():
            return next(iter(kind.of))
        case kinds.TagField():
            return Tag(bytes(32), 1)
        case kinds.NodeField():
            return node_id_from_bytes(bytes(32))
        case kinds.AddressField():
            return "127.0.0.1:1"
        case kinds.NodeAddressField():
            return NodeAddress(node_id_from_bytes(bytes(32)), Role.PEER, ())
        case kinds.ListOf():
            return ()
        case kinds.Maybe():
            return None
        case kinds.Record():
            return plainest(kind.of)
    raise AssertionError(f"no value for {kind}")


def plainest(of: type) -> Any:
    """Return a message or record whose fields all hold the plainest value."""
    return of(**{name: small(kind) for name, kind in kinds.kinds_of(of)})


def large(kind: kinds.Kind) -> Any:
    """Return a value of ``kind`` that takes the most bytes."""
    match kind:
        case kinds.UInt():
            return kind.most
        case kinds.Flag():
            return True
        case kinds.Bytes():
            return b"\xff" * kind.most
        case kinds.Text():
            return "x" * kind.most
        case kinds.Word():
            return max(kind.of, key=lambda member: len(member.value))
        case kinds.TagField():
            return Tag(b"\xff" * 32, CHUNKS_MAX)
        case kinds.NodeField():
            return node_id_from_bytes(b"\xff" * 32)
        case kinds.AddressField():
            return ".".join(["x" * 61] * 4) + ":65535"
        case kinds.NodeAddressField():
            address = large(kinds.AddressField())
            return NodeAddress(large(kinds.NodeField()), Role.TRACKER, (address,) * 8)
        case kinds.ListOf():
            return (large(kind.kind),) * kind.most
        case kinds.Maybe():
            return large(kind.kind)
        case kinds.Record():
            return fullest(kind.of)
    raise AssertionError(f"no value for {kind}")


def fullest(of: type) -> Any:
    """Return a message or record whose fields are all as large as they may be."""
    return of(**{name: large(kind) for name, kind in kinds.kinds_of(of)})

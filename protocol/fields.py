"""Kinds of message fields: how each is checked, encoded and decoded. Every kind has a maximum, by construction.

``encode`` is ours: a value that does not fit is a ``LocalProtocolError``. ``decode_untrusted`` sees what msgpack made
of a stranger's bytes, and raises ``RemoteProtocolError`` and nothing else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import (
    NodeAddress,
    NodeId,
    Role,
    Tag,
    node_id_from_bytes,
    node_id_to_bytes,
    parse_address,
    parse_node_id,
)
from protocol.limits import ADDRESS_BYTES_MAX, ADDRESSES_MAX, DIGEST_BYTES


class Kind:
    """One kind of field."""

    @property
    def bytes_max(self) -> int:
        """What its encoded form can take in a frame at most."""
        raise AssertionError("a kind of field must say what it takes at most")

    def encode(self, value: Any) -> Any:
        """Return ``value`` as msgpack takes it."""
        raise AssertionError("a kind of field must say how it is encoded")

    def decode_untrusted(self, raw: Any) -> Any:
        """Return the value of what a stranger sent."""
        raise AssertionError("a kind of field must say how it is decoded")


@dataclass(frozen=True)
class UInt(Kind):
    """A whole number from 0 to ``most``."""

    most: int = 2**53

    @property
    def bytes_max(self) -> int:
        return 9

    def encode(self, value: Any) -> Any:
        if type(value) is not int or not 0 <= value <= self.most:
            raise LocalProtocolError(f"{value!r} is not a number from 0 to {self.most}")
        return value

    def decode_untrusted(self, raw: Any) -> int:
        if type(raw) is not int or not 0 <= raw <= self.most:
            raise RemoteProtocolError(f"a number from 0 to {self.most} was expected")
        return raw


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    @property
    def bytes_max(self) -> int:
        return 1

    def encode(self, value: Any) -> Any:
        if type(value) is not bool:
            raise LocalProtocolError(f"{value!r} is not a bool")
        return value

    def decode_untrusted(self, raw: Any) -> bool:
        if type(raw) is not bool:
            raise RemoteProtocolError("true or false was expected")
        return raw


@dataclass(frozen=True)
class Bytes(Kind):
    """Up to ``most`` bytes; exactly that many with ``exact``."""

    most: int
    exact: bool = False

    @property
    def bytes_max(self) -> int:
        return self.most + 5

    def _fits(self, size: int) -> bool:
        return size == self.most if self.exact else size <= self.most

    def encode(self, value: Any) -> Any:
        if not isinstance(value, bytes) or not self._fits(len(value)):
            raise LocalProtocolError(f"{type(value).__name__} does not fit {self}")
        return value

    def decode_untrusted(self, raw: Any) -> bytes:
        if type(raw) is not bytes or not self._fits(len(raw)):
            raise RemoteProtocolError(f"{self} was expected")
        return raw


@dataclass(frozen=True)
class Text(Kind):
    """UTF-8 of up to ``most`` bytes. What a stranger writes is text, not markup: escape it where it is shown."""

    most: int

    @property
    def bytes_max(self) -> int:
        return self.most + 5

    def encode(self, value: Any) -> Any:
        if not isinstance(value, str) or len(value.encode("utf-8", "surrogatepass")) > self.most:
            raise LocalProtocolError(f"{value!r:.80} is not text of at most {self.most} bytes")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"{value!r:.80} cannot be written as UTF-8") from error
        return value

    def decode_untrusted(self, raw: Any) -> str:
        if type(raw) is not str or len(raw) > self.most or len(raw.encode("utf-8")) > self.most:
            raise RemoteProtocolError(f"text of at most {self.most} bytes was expected")
        return raw


@dataclass(frozen=True)
class Word(Kind):
    """One of the values of a ``StrEnum``."""

    of: type[StrEnum]

    @property
    def bytes_max(self) -> int:
        return 5 + max(len(member.value) for member in self.of)

    def encode(self, value: Any) -> Any:
        if not isinstance(value, self.of):
            raise LocalProtocolError(f"{value!r} is not a {self.of.__name__}")
        return value.value

    def decode_untrusted(self, raw: Any) -> StrEnum:
        if type(raw) is not str:
            raise RemoteProtocolError(f"a {self.of.__name__} was expected")
        try:
            return self.of(raw)
        except ValueError:
            raise RemoteProtocolError(f"a {self.of.__name__} was expected") from None


@dataclass(frozen=True)
class TagField(Kind):
    """A tag, as 36 bytes."""

    @property
    def bytes_max(self) -> int:
        return Tag.WIRE_BYTES + 2

    def encode(self, value: Any) -> Any:
        if not isinstance(value, Tag):
            raise LocalProtocolError(f"{value!r} is not a tag")
        return value.to_bytes()

    def decode_untrusted(self, raw: Any) -> Tag:
        if type(raw) is not bytes:
            raise RemoteProtocolError("a tag was expected")
        try:
            return Tag.from_bytes(raw)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error


@dataclass(frozen=True)
class NodeField(Kind):
    """A node id, as 32 bytes."""

    @property
    def bytes_max(self) -> int:
        return DIGEST_BYTES + 2

    def encode(self, value: Any) -> Any:
        try:
            return node_id_to_bytes(parse_node_id(value))
        except (TypeError, ValueError) as error:
            raise LocalProtocolError(f"{value!r:.80} is not a node id") from error

    def decode_untrusted(self, raw: Any) -> NodeId:
        if type(raw) is not bytes or len(raw) != DIGEST_BYTES:
            raise RemoteProtocolError("a node id was expected")
        return node_id_from_bytes(raw)


@dataclass(frozen=True)
class AddressField(Kind):
    """``host:port``."""

    @property
    def bytes_max(self) -> int:
        return ADDRESS_BYTES_MAX + 5

    def encode(self, value: Any) -> Any:
        text = Text(ADDRESS_BYTES_MAX).encode(value)
        try:
            parse_address(text)
        except ValueError as error:
            raise LocalProtocolError(str(error)) from error
        return text

    def decode_untrusted(self, raw: Any) -> str:
        text = Text(ADDRESS_BYTES_MAX).decode_untrusted(raw)
        try:
            parse_address(text)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error
        return text


@dataclass(frozen=True)
class ListOf(Kind):
    """Up to ``most`` values of one kind; a tuple on our side."""

    kind: Kind
    most: int

    @property
    def bytes_max(self) -> int:
        return 5 + self.most * self.kind.bytes_max

    def encode(self, value: Any) -> Any:
        if not isinstance(value, tuple) or len(value) > self.most:
            raise LocalProtocolError(f"not a tuple of at most {self.most} values")
        encode = self.kind.encode
        return [encode(item) for item in value]

    def decode_untrusted(self, raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list or len(raw) > self.most:
            raise RemoteProtocolError(f"a list of at most {self.most} values was expected")
        decode = self.kind.decode_untrusted
        return tuple([decode(item) for item in raw])


@dataclass(frozen=True)
class Maybe(Kind):
    """A value of one kind, or nothing."""

    kind: Kind

    @property
    def bytes_max(self) -> int:
        return self.kind.bytes_max

    def encode(self, value: Any) -> Any:
        return None if value is None else self.kind.encode(value)

    def decode_untrusted(self, raw: Any) -> Any:
        return None if raw is None else self.kind.decode_untrusted(raw)


@dataclass(frozen=True)
class Record(Kind):
    """A dataclass whose fields have kinds themselves; an array on the wire.

    Fields that a newer node adds at the end are ignored.
    """

    of: type

    @property
    def kinds(self) -> tuple[tuple[str, Kind], ...]:
        """Field names and kinds in the order of the wire."""
        return kinds_of(self.of)

    @property
    def bytes_max(self) -> int:
        return 5 + sum(kind.bytes_max for _, kind in self.kinds)

    def encode(self, value: Any) -> Any:
        if type(value) is not self.of:
            raise LocalProtocolError(f"{value!r:.80} is not a {self.of.__name__}")
        return [kind.encode(getattr(value, name)) for name, kind in self.kinds]

    def decode_untrusted(self, raw: Any) -> Any:
        if type(raw) is not list:
            raise RemoteProtocolError(f"a {self.of.__name__} was expected")
        return decode_fields(self.of, raw)


@dataclass(frozen=True)
class NodeAddressField(Kind):
    """A node with its role and where it may be dialled."""

    @property
    def bytes_max(self) -> int:
        return 5 + NodeField().bytes_max + Word(Role).bytes_max + ListOf(AddressField(), ADDRESSES_MAX).bytes_max

    def encode(self, value: Any) -> Any:
        if not isinstance(value, NodeAddress):
            raise LocalProtocolError(f"{value!r:.80} is not a NodeAddress")
        return [
            NodeField().encode(value.node),
            Word(Role).encode(value.role),
            ListOf(AddressField(), ADDRESSES_MAX).encode(value.addresses),
        ]

    def decode_untrusted(self, raw: Any) -> NodeAddress:
        if type(raw) is not list or len(raw) < 3:
            raise RemoteProtocolError("a node address was expected")
        role = Word(Role).decode_untrusted(raw[1])
        assert isinstance(role, Role)
        return NodeAddress(
            NodeField().decode_untrusted(raw[0]),
            role,
            ListOf(AddressField(), ADDRESSES_MAX).decode_untrusted(raw[2]),
        )


_kinds: dict[type, tuple[tuple[str, Kind], ...]] = {}


def kinds_of(record: type) -> tuple[tuple[str, Kind], ...]:
    """Return field names and kinds of a message or record class, in the order of the wire."""
    known = _kinds.get(record)
    if known is None:
        known = _kinds[record] = tuple((field.name, field.metadata["kind"]) for field in dataclasses.fields(record))
    return known


def decode_fields(record: type, raw: list[Any]) -> Any:
    """Return a ``record`` of the raw values; more values than fields are a newer node's, and ignored."""
    kinds = kinds_of(record)
    if len(raw) < len(kinds):
        raise RemoteProtocolError(f"{record.__name__} of {len(raw)} fields, {len(kinds)} were expected")
    return record(**{name: kind.decode_untrusted(raw[index]) for index, (name, kind) in enumerate(kinds)})

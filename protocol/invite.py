"""Invites and links: the two texts that people pass around. How they are written, and every way they can be wrong.

An invite is a secret: who has it may join once (docs/protocol.md#invite). A link names a file of a swarm and is none,
unless it carries the key of a sealed file (docs/protocol.md#sealed): that is behind the ``#`` and goes to people only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.fields import AddressField, Bytes, ListOf, UInt, Word
from protocol.ids import Role, Tag
from protocol.limits import ADDRESSES_MAX, FILE_BYTES_MAX, NAME_BYTES_MAX

INVITE_PREFIX = "upswarm-invite-1-"
LINK_SCHEME = "upswarm"
_CHECKSUM_BYTES = 4
_KEY_BYTES = 32
_KEY_PURPOSE = b"upswarm link key 1"
_JOIN_PURPOSE = b"upswarm join 1"
_INVITE_CHARACTERS_MAX = 4096


def join_proof_text(nonce: bytes, token: bytes) -> bytes:
    """Return what a joiner signs: it binds its key to this one conversation and to the invite."""
    return _JOIN_PURPOSE + nonce + hashlib.sha256(token).digest()


def _spelled(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """What ``upswarm invite`` prints.

    ``authority``: SHA-256 of the CA certificate (DER). ``expires``: seconds of the tracker's wall clock; only the
    tracker judges it. ``token``: 32 random bytes.
    """

    addresses: tuple[str, ...]
    authority: bytes
    token: bytes
    role: Role
    expires: int

    def __str__(self) -> str:
        body: bytes = msgpack.packb([list(self.addresses), self.authority, self.token, self.role.value, self.expires])
        checksum = hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
        return INVITE_PREFIX + _spelled(body + checksum)

    def __repr__(self) -> str:
        return f"Invite(role={self.role}, addresses={self.addresses})"  # never the token

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Return the invite that ``text`` is.

        Raises:
            ValueError: it is none, or was cut or altered; the sentence never repeats it.
        """
        text = text.strip()
        if not text.startswith(INVITE_PREFIX):
            raise ValueError(f"not an invite: it must begin with {INVITE_PREFIX}")
        if len(text) > _INVITE_CHARACTERS_MAX:
            raise ValueError("not an invite: too long")
        encoded = text.removeprefix(INVITE_PREFIX)
        try:
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("the invite is damaged: copy it whole") from error
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        # Base64 has several spellings of the same bytes; only ours is taken.
        if encoded != _spelled(data) or hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] != checksum:
            raise ValueError("the invite is damaged: copy it whole")
        try:
            raw = msgpack.unpackb(body, max_array_len=64, max_map_len=0, max_ext_len=0)
            if type(raw) is not list or len(raw) < 5:
                raise RemoteProtocolError("an array of five was expected")
            role = Word(Role).decode_untrusted(raw[3])
            assert isinstance(role, Role)
            return cls(
                addresses=ListOf(AddressField(), ADDRESSES_MAX).decode_untrusted(raw[0]),
                authority=Bytes(32, exact=True).decode_untrusted(raw[1]),
                token=Bytes(32, exact=True).decode_untrusted(raw[2]),
                role=role,
                expires=UInt().decode_untrusted(raw[4]),
            )
        except (ValueError, RemoteProtocolError) as error:
            raise ValueError(f"not an invite: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What ``upswarm put`` prints to be passed on: ``upswarm:<tag>?name=...&size=...``; with ``#<key>`` of a sealed
    file, whose ``size_bytes`` is that of the sealed bytes, which the tag names."""

    tag: Tag
    name: str
    size_bytes: int
    key: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        text = f"{LINK_SCHEME}:{self.tag}?name={quote(self.name, safe='')}&size={self.size_bytes}"
        return text if self.key is None else f"{text}#{_spelled(self.key + _key_checksum(self.key))}"

    @classmethod
    def parse(cls, text: str) -> Link:
        """Return the link that ``text`` is.

        Raises:
            ValueError: it is none; the sentence says what one looks like, and never repeats a key.
        """
        if len(text) > 8 * NAME_BYTES_MAX:
            raise ValueError("not a link: too long")
        parts = urlsplit(text.strip())
        if parts.scheme != LINK_SCHEME or parts.netloc:
            raise ValueError(f"not a link: {LINK_SCHEME}:TAG?name=...&size=... was expected")
        tag = Tag.parse(unquote(parts.path))
        query = parse_qs(parts.query, max_num_fields=16)
        name = query.get("name", [""])[0]
        size = query.get("size", ["0"])[0]
        if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
            raise ValueError(f"not a link: its name is longer than {NAME_BYTES_MAX} bytes")
        if not size.isascii() or not size.isdigit() or len(size) > 16 or int(size) > FILE_BYTES_MAX:
            raise ValueError("not a link: size must be a number of bytes")
        return cls(tag=tag, name=name, size_bytes=int(size), key=_key_of(parts.fragment))


def _key_checksum(key: bytes) -> bytes:
    """Return what tells a key that was copied whole from one that was not."""
    return hashlib.sha256(_KEY_PURPOSE + key).digest()[:_CHECKSUM_BYTES]


def _key_of(fragment: str) -> bytes | None:
    if not fragment:
        return None
    try:
        data = base64.b64decode(fragment, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    key = data[:_KEY_BYTES]
    if len(data) != _KEY_BYTES + _CHECKSUM_BYTES or data[_KEY_BYTES:] != _key_checksum(key):
        raise ValueError("the link's key (behind the #) is damaged: copy the link whole")
    return key

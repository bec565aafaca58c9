"""What meets foreign bytes, one harness for each: bytes in, silence when only documented errors came out.

A harness calls the parser as production does, lets pass exactly the errors its docstring promises, and checks what must
hold of whatever was accepted: it says the same when it is written and read again, and it keeps to its limits. Anything
else comes out as an exception, and is a finding. Nothing here mutates, counts or draws; ``mutation.py`` (in every test
run) and ``long.py`` (atheris, guided by coverage) do, over the same functions and the same seeds (``corpus/``).

The first byte of some inputs chooses between ways in, so that one corpus feeds them all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import zeroconf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.config import DaemonConfig
from daemon.naming import UnsafeName, part_path, safe_parts
from daemon.parameters import tag_or_name
from daemon.timetable import Timetable
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.codec import decode_untrusted, encode
from protocol.connection import Connection
from protocol.errors import CommandError, ConfigError, IntegrityError, NotTrusted, RemoteProtocolError, StorageError
from protocol.frames import frame
from protocol.ids import Role, Tag
from protocol.invite import INVITE_PREFIX, Invite, Link
from protocol.jobmap import decode_runs_untrusted, encode_runs
from protocol.limits import (
    BLOCK_BYTES_MAX,
    CHUNKS_MAX,
    FILE_BYTES_MAX,
    FRAME_BYTES_MAX,
    NAME_BYTES_MAX,
    PROTOCOL_VERSION,
)
from protocol.manifest import Manifest
from runtime.config import parse_file, settings_of
from runtime.discovery import SERVICE, read_announcement
from runtime.identity import judge, raw_public_key, read_revocations
from runtime.places import Places
from runtime.sealed import HEADER_BYTES, OVERHEAD_BYTES, SEGMENT_BYTES, Opener, Sealer
from runtime.seam import WebAnswer
from runtime.terminal import escape_controls
from storage.backends.s3answers import refusal
from storage.config import StorageConfig
from storage.ranges import RANGES_MAX, Unsatisfiable, wanted_spans
from storage.tus import headers as tus_headers
from tracker.authority import Authority, create_authority
from tracker.config import TrackerConfig
from tracker.page.guard import HostList

CORPUS = Path(__file__).parent / "corpus"

Harness = Callable[[bytes], None]

_HELLO = frame(encode(m.Hello(version=PROTOCOL_VERSION, features=(), name="n", agent="a", addresses=())))
# Who is at both ends of the link whose receiving side is fuzzed: ours, theirs; None stands at the join door.
_ENDS: tuple[tuple[Role | None, Role | None], ...] = (
    (Role.STORAGE, Role.PEER),
    (Role.PEER, Role.STORAGE),
    (Role.PEER, Role.PEER),
    (Role.PEER, Role.TRACKER),
    (Role.TRACKER, Role.PEER),
    (Role.TRACKER, Role.STORAGE),
    (Role.TRACKER, None),
    (None, None),
)
# Where the raw bytes of blocks go: one for all inputs, as long as the longest block.
PIECES_MAX = 64
_BLOCK = bytearray(BLOCK_BYTES_MAX)


def frames(data: bytes) -> None:
    """A link's received bytes, in pieces: ``RemoteProtocolError`` or messages."""
    if not data:
        return
    ours, theirs = _ENDS[data[0] % len(_ENDS)]
    connection = Connection(ours, theirs)
    rest = memoryview(data)[1:]
    with contextlib.suppress(RemoteProtocolError):
        if data[0] & 0x80 and ours is not None and theirs is not None:
            connection.receive_data(_HELLO)
            connection.next_message()
        # Many small pieces find no more than some; a long input in steps of a byte only costs time.
        step = max(1 + (data[0] >> 3 & 0x0F) * 7, len(rest) // PIECES_MAX)
        while rest:
            target = connection.wanted()
            assert 0 < len(target) <= len(_BLOCK), "a place for more than a block"
            count = min(len(target), len(rest), step)
            target[:count] = rest[:count]
            connection.filled(count)
            rest = rest[count:]
            while (message := connection.next_message()) is not None:
                if isinstance(message, m.Block):
                    assert message.length == connection.raw_bytes_due <= len(_BLOCK)
                    connection.receive_raw(memoryview(_BLOCK)[: message.length])
        connection.receive_end()


def messages(data: bytes) -> None:
    """A frame's body: ``RemoteProtocolError``, None, or a message that is read from what it writes."""
    data = data[:FRAME_BYTES_MAX]
    try:
        message = decode_untrusted(data)
    except RemoteProtocolError:
        return
    if message is not None:
        written = encode(message)
        assert len(written) <= FRAME_BYTES_MAX
        assert decode_untrusted(written) == message, "written and read again it is another"


def manifest(data: bytes) -> None:
    """A tag, a size and digests of a stranger: ``IntegrityError``, or a manifest that is the tag's."""
    if len(data) < 9:
        return
    size_bytes = int.from_bytes(data[1:9], "big", signed=True)
    digests = data[9:]
    chunks = max(1, min(CHUNKS_MAX, len(digests) // 32))
    # Random digests never hash to a random tag: half of the inputs get the tag that fits.
    root = hashlib.sha256(digests).digest() if data[0] & 1 else digests[:32].ljust(32, b"\0")
    tag = Tag(root, chunks if data[0] & 2 else 1 + data[0])
    try:
        found = Manifest.checked(tag, size_bytes, digests)
    except IntegrityError:
        return
    assert found.joined_digests() == digests and 0 <= found.size_bytes <= FILE_BYTES_MAX
    assert found.layout.chunks == tag.chunks and Manifest.of_digests(size_bytes, found.digests).tag == tag
    assert sum(found.layout.bytes_of(chunk) for chunk in range(tag.chunks)) == size_bytes


def tags(data: bytes) -> None:
    """Tags, bitmaps and chunk maps: ``ValueError`` or ``RemoteProtocolError``, or what is written the same again."""
    if not data:
        return
    with contextlib.suppress(ValueError):
        assert Tag.from_bytes(data).to_bytes() == data
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        assert str(Tag.parse(text)) == text
    length = 1 + data[0] * 8
    with contextlib.suppress(ValueError):
        assert Bitmap.from_bytes(length, data[1:]).to_bytes() == data[1:]
    with contextlib.suppress(RemoteProtocolError):
        codes = decode_runs_untrusted(data[2:], 1 + data[0], data[1:2][0] if len(data) > 1 else 0)
        assert len(codes) == 1 + data[0]
        assert decode_runs_untrusted(encode_runs(codes), len(codes), 255) == codes


def invite(data: bytes) -> None:
    """What somebody pastes as an invite: ``ValueError``, or an invite that is read from what it writes."""
    if data[:1] == b"\x01":
        # As if it was copied whole: what comes behind the checksum is met as well.
        body = data[1:]
        whole = body + hashlib.sha256(body).digest()[:4]
        text = INVITE_PREFIX + base64.urlsafe_b64encode(whole).decode("ascii").rstrip("=")
    else:
        text = data.decode("utf-8", "replace")
    try:
        found = Invite.parse(text)
    except ValueError as error:
        secret = text.strip().removeprefix(INVITE_PREFIX)
        assert len(secret) < 24 or secret not in str(error), "the sentence repeats the secret"
        return
    assert Invite.parse(str(found)) == found


def link(data: bytes) -> None:
    """What somebody pastes as a link, a tag or a name: ``ValueError`` or ``CommandError``, or what it says again."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        found = Link.parse(text)
        assert len(found.name.encode("utf-8", "replace")) <= NAME_BYTES_MAX
        assert Link.parse(str(found)) == found
    with contextlib.suppress(CommandError):
        tag_or_name(text)


def http(data: bytes) -> None:
    """Headers of a reader: ``Unsatisfiable``, the whole, or spans that lie within the file and do not exceed it."""
    if not data:
        return
    size_bytes = (0, 1, 255, 1 << 20, FILE_BYTES_MAX)[data[0] % 5]
    text = data[1:].decode("latin-1")
    HostList.of(("files.example.org",), "machine", "127.0.0.1:4180").allows(text)
    try:
        spans = wanted_spans(text, size_bytes)
    except Unsatisfiable:
        return
    if spans is not None:
        assert 0 < len(spans) <= RANGES_MAX
        assert all(0 <= span.start < span.end <= size_bytes for span in spans)
        assert sum(span.end - span.start for span in spans) <= size_bytes


def tus(data: bytes) -> None:
    """Headers of an upload by tus: ``Flaw`` with a status and a sentence, or values within their limits."""
    if not data:
        return
    text = data[1:].decode("latin-1")
    try:
        match data[0] % 6:
            case 0:
                assert 0 <= tus_headers.length_of(text, None) <= FILE_BYTES_MAX
            case 1:
                assert tus_headers.offset_of(text) >= 0
            case 2:
                metadata = tus_headers.metadata_of(text)
                assert len(tus_headers.name_of(metadata).encode()) <= NAME_BYTES_MAX
            case 3:
                found = tus_headers.checksum_of(text)
                assert found is not None and 16 <= len(found.digest) <= 64
            case 4:
                tus_headers.check_version(text)
            case _:
                tus_headers.check_body_type(text)
    except tus_headers.Flaw as flaw:
        assert 400 <= flaw.status < 500 and str(flaw)


_CONFIGS: tuple[tuple[type, str], ...] = (
    (DaemonConfig, "daemon"),
    (TrackerConfig, "tracker"),
    (StorageConfig, "storage"),
)


_CONFIG_FILE = Path("upswarm.toml")


# What callers set themselves: without it every input would end as one that lacks it.
_PLACES = {"places": Places.of(Path("/folder"), "daemon")}


def config(data: bytes) -> None:
    """A file of settings, and the environment: ``ConfigError``, or settings."""
    if not data:
        return
    kind, section = _CONFIGS[data[0] % 3]
    environment: dict[str, str] = {}
    rest = data[1:]
    if data[0] & 0x80:
        key, _, value = rest.decode("utf-8", "replace").partition("=")
        environment[f"UPSWARM_{section.upper()}_{key[:40]}"] = value
        rest = b""
    fixed = {} if kind is TrackerConfig else _PLACES
    with contextlib.suppress(ConfigError):
        sections = parse_file(rest, _CONFIG_FILE)
        settings_of(kind, section, sections, file=_CONFIG_FILE, environment=environment, flags={}, fixed=fixed)
    with contextlib.suppress(ValueError, ConfigError):
        Timetable.parse(rest.decode("utf-8", "replace"))


def names(data: bytes) -> None:
    """A name of a stranger: ``UnsafeName``, or parts that stay below their folder; shown, it moves no cursor."""
    name = data.decode("utf-8", "surrogateescape")
    shown = escape_controls(name)
    assert shown.isprintable() or not any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 for one in shown)
    try:
        parts = safe_parts(name)
    except UnsafeName:
        return
    target = Path("/folder").joinpath(*parts)
    assert os.path.normpath(target) == str(target) and str(target).startswith("/folder/")
    assert all(part and part not in (".", "..") and "/" not in part and len(part.encode()) <= 255 for part in parts)
    part = part_path(target, Tag(bytes(32), 1))
    assert part.parent == target.parent and len(os.fsencode(part.name)) <= 255


@cache
def _authority() -> Authority:
    return create_authority(bytes(32), 1_800_000_000.0)


@cache
def certificate_seed() -> bytes:
    """Return a certificate of the throwaway authority: made, not stored, because it carries no more than its rule."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return _authority().issue(raw_public_key(key.public_key()), Role.PEER, 1_800_000_000.0)


def certificates(data: bytes) -> None:
    """A certificate and a revocation list: ``NotTrusted``, or who the authority signed."""
    known = (_authority().der,)
    with contextlib.suppress(NotTrusted):
        peer = judge(data, known, frozenset())
        assert peer == judge(certificate_seed(), known, frozenset()), "somebody whom nobody signed"
    with contextlib.suppress(NotTrusted):
        read_revocations(data, known)
    with contextlib.suppress(NotTrusted):
        # As an authority's own certificate, as a join door shows it.
        judge(certificate_seed(), (data,), frozenset())


def announcements(data: bytes) -> None:
    """What somebody says on the LAN, as a DNS packet and as a record: nothing, or a node that may be dialled."""
    if not data:
        return
    if data[0] & 1:
        zeroconf.DNSIncoming(data[1:]).answers()
        return
    try:
        # ServiceInfo keeps its own rules; what it refuses never reaches us.
        info = zeroconf.ServiceInfo(
            SERVICE, f"x.{SERVICE}", port=int.from_bytes(data[1:3], "big"), properties=data[10:], addresses=[data[3:7]]
        )
        told = info.decoded_properties
    except (ValueError, TypeError, OSError, zeroconf.Error):
        return
    name = f"{told.get('node') or 'x'}.{SERVICE}"
    found = read_announcement(name, info)
    if found is not None:
        assert found[1].addresses and found[1].node and found[1].version >= 1


def object_store(data: bytes) -> None:
    """An error of an object store: a ``StorageError`` made of it, in words that fit a sentence."""
    error = refusal("put", WebAnswer(status=400 + data[0] if data else 500, headers={}, body=data[1:]))
    assert isinstance(error, StorageError) and len(str(error)) < 4096


def sealed(data: bytes) -> None:
    """A sealed file: ``IntegrityError``, or text that the key's owner sealed."""
    if not data:
        return
    key = bytes(32)
    body = data[1:]
    if data[0] & 1:
        # Under a header that is right: what comes behind it is met as well.
        body = Sealer(key, Tag(bytes(32), 1), data[0]).header + body
    try:
        opener = Opener(key, body[:HEADER_BYTES], len(body))
        step = SEGMENT_BYTES + OVERHEAD_BYTES
        text = [opener.open(body[at : at + step]) for at in range(HEADER_BYTES, max(HEADER_BYTES + 1, len(body)), step)]
    except IntegrityError:
        return
    # Only the seeds can come so far: nobody finds a tag of 128 bits by chance.
    assert body in sealed_seeds(), "text that nobody sealed"
    assert sum(map(len, text)) == opener.plain_bytes


@cache
def sealed_seeds() -> frozenset[bytes]:
    """Return sealed files that are right."""
    found = set()
    for text in (b"", b"a", bytes(100)):
        sealer = Sealer(bytes(32), Tag(bytes(32), 1), len(text))
        found.add(sealer.header + sealer.seal(text))
    return frozenset(found)


TARGETS: dict[str, Harness] = {
    "frames": frames,
    "messages": messages,
    "manifest": manifest,
    "tags": tags,
    "invite": invite,
    "link": link,
    "http": http,
    "config": config,
    "names": names,
    "certificates": certificates,
    "announcements": announcements,
    "object-store": object_store,
    "sealed": sealed,
    "tus": tus,
}


def corpus(target: str) -> list[bytes]:
    """Return the seeds of ``target``: one a line in hex, after what it is."""
    lines = (CORPUS / f"{target}.txt").read_text("ascii").splitlines()
    return [bytes.fromhex(line.rpartition(" ")[2]) for line in lines if line and not line.startswith("#")]

"""Write tests/vectors/*.txt. Once checked in they are the law: a difference means that the wire has changed.

    make vectors && git diff tests/vectors

Everything here is made up and fixed, so that the same code writes the same files.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgpack

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.vectors import FOLDER, Vector, lines_of, text_of

from exchange.possession import proof_digest
from protocol import messages as m
from protocol.codec import encode
from protocol.frames import frame
from protocol.ids import NodeAddress, NodeId, Role, Tag, node_id_of_key
from protocol.invite import Invite, Link, join_proof_text
from protocol.jobmap import ChunkState, code_of, encode_runs
from protocol.limits import FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, MIB
from protocol.manifest import Layout, Manifest
from runtime.sealed import SEGMENT_BYTES, Sealer, salt_of


def some(word: str, size: int = 32) -> bytes:
    """Return bytes that look random and never change."""
    return hashlib.shake_256(word.encode()).digest(size)


def node(word: str) -> NodeId:
    return node_id_of_key(some(word))


TAG = Tag(some("root"), 3)
OTHER_TAG = Tag(some("other root"), 8192)
PEER = NodeAddress(node("peer"), Role.PEER, ("192.0.2.7:4107", "[2001:db8::7]:4107"))
STORAGE = NodeAddress(node("storage"), Role.STORAGE, ("storage.example.org:4101",))
TRACKER = NodeAddress(node("tracker"), Role.TRACKER, ("192.0.2.1:4100",))
PUSHED = (m.Pushed(node=node("peer"), bytes_pushed=1048576), m.Pushed(node=node("helper"), bytes_pushed=2**40))
HOLDING = m.Holding(tag=TAG, size_bytes=3145728, names=("film.mov", "größer.mov"), since=1790000000, bitmap=b"\x05")

MESSAGES: dict[str, m.Message] = {
    "hello": m.Hello(version=1, features=(), name="laptop", agent="upswarm/0.1.0", addresses=("0.0.0.0:4107",)),
    "hello of a newer version": m.Hello(
        version=2, features=("a-feature", "another"), name="", agent="upswarm/9.0.0", addresses=()
    ),
    "goodbye": m.Goodbye(code="bye", reason=""),
    "goodbye with a reason": m.Goodbye(code="protocol-error", reason="Ping before Hello"),
    "ping": m.Ping(number=1),
    "pong": m.Pong(number=4294967295),
    "failure": m.Failure(request=7, code="not-found", reason="nobody knows that tag"),
    "door open": m.DoorOpen(authority=some("authority", 40), nonce=some("nonce")),
    "join": m.Join(token=some("token"), public_key=some("key"), proof=some("proof", 64), name="laptop"),
    "joined": m.Joined(certificate=some("certificate", 40), revocations=some("revocations", 20), tracker=TRACKER),
    "renew": m.Renew(request=1),
    "renewed": m.Renewed(request=1, certificate=some("certificate", 40)),
    "authorities": m.Authorities(
        authorities=(some("authority", 40), some("next authority", 40)),
        proof=some("proof", 64),
        revocations=some("revocations", 20),
    ),
    "revocations": m.Revocations(revocations=some("revocations", 20)),
    "trackers": m.Trackers(
        trackers=(
            NodeAddress(node("tracker"), Role.TRACKER, ("192.0.2.1:4100",)),
            NodeAddress(node("other tracker"), Role.TRACKER, ("198.51.100.2:4100", "[2001:db8::2]:4100")),
        )
    ),
    "heartbeat": m.Heartbeat(number=9, epoch=2**53, sequence=12, room_bytes=2**40, lend=False, paused=True),
    "heartbeat answer": m.HeartbeatAnswer(number=9, interval_milliseconds=5000, inventory_wanted=True),
    "inventory in full": m.Inventory(epoch=2**53, sequence=1, full=True, held=(HOLDING,), dropped=()),
    "inventory of a change": m.Inventory(epoch=2**53, sequence=2, full=False, held=(), dropped=(OTHER_TAG,)),
    "where is a tag": m.Where(request=2, tag=TAG, name=None, size_bytes=0, to_put=False),
    "where is a name": m.Where(request=3, tag=None, name="film.mov", size_bytes=0, to_put=False),
    "where to put": m.Where(request=4, tag=TAG, name="film.mov", size_bytes=3145728, to_put=True),
    "where answer": m.WhereAnswer(
        request=2,
        tag=TAG,
        size_bytes=3145728,
        name="film.mov",
        state=m.Whereabouts.OPEN,
        storage=STORAGE,
        holders=(PEER,),
    ),
    "where answer, no storage": m.WhereAnswer(
        request=4, tag=TAG, size_bytes=0, name="", state=m.Whereabouts.NONE, storage=None, holders=()
    ),
    "list nodes": m.ListNodes(request=5, after=None),
    "list nodes, next page": m.ListNodes(request=6, after=node("peer")),
    "nodes answer": m.NodesAnswer(
        request=5,
        nodes=(
            m.NodeRecord(
                node=node("storage"),
                role=Role.STORAGE,
                name="cellar",
                addresses=STORAGE.addresses,
                state="fresh",
                seen_seconds_ago=3,
                tags=2,
                room_bytes=2**40,
            ),
        ),
    ),
    "list tags": m.ListTags(request=7, stored_only=True, after=None),
    "list tags, next page": m.ListTags(request=8, stored_only=False, after=TAG),
    "tags answer": m.TagsAnswer(
        request=7,
        tags=(
            m.TagRecord(
                tag=TAG,
                size_bytes=3145728,
                names=("film.mov",),
                since=1790000000,
                state="stored",
                holders=2,
                storage=node("storage"),
            ),
            m.TagRecord(tag=OTHER_TAG, size_bytes=2**36, names=(), since=0, state="shared", holders=0, storage=None),
        ),
    ),
    "job update": m.JobUpdate(
        tag=TAG,
        size_bytes=3145728,
        name="film.mov",
        state=m.JobState.OPEN,
        reason="",
        chunks_stored=1,
        safe=False,
        uploaders=(node("peer"),),
        pushed=PUSHED,
    ),
    "job map": m.JobMap(
        tag=TAG,
        senders=(node("peer"), node("helper")),
        runs=encode_runs((code_of(ChunkState.STORED, 2), code_of(ChunkState.ON_ITS_WAY, 1), 0)),
    ),
    "order": m.Order(tag=TAG, target=STORAGE, lifetime_seconds=90),
    "propose": m.Propose(request=10, tag=TAG, size_bytes=3145728, name="film.mov"),
    "desk answer: new": m.DeskAnswer(request=10, tag=TAG, state=m.DeskState.NEW, bitmap=b"", nonce=b"", ranges=()),
    "desk answer: partly": m.DeskAnswer(
        request=10, tag=TAG, state=m.DeskState.PARTLY, bitmap=b"\x02", nonce=b"", ranges=()
    ),
    "desk answer: stored": m.DeskAnswer(
        request=10,
        tag=TAG,
        state=m.DeskState.STORED,
        bitmap=b"",
        nonce=some("nonce"),
        ranges=(m.Range(offset=0, length=1024), m.Range(offset=2097152, length=1024)),
    ),
    "proof": m.Proof(request=11, tag=TAG, digest=some("digest")),
    "need manifest": m.NeedManifest(tag=TAG),
    "manifest": m.ManifestIs(tag=TAG, size_bytes=3145728, digests=some("digests", 96)),
    "job progress": m.JobProgress(
        tag=TAG, state=m.JobState.COMMITTING, chunks_stored=3, bytes_stored=3145728, safe=True, pushed=PUSHED
    ),
    "job closed": m.JobClosed(tag=TAG, state=m.JobState.STORED, proven=True, reason=""),
    "job closed by failure": m.JobClosed(tag=TAG, state=m.JobState.FAILED, proven=False, reason="no space"),
    "withdraw": m.Withdraw(tag=TAG),
    "ask": m.Ask(tag=TAG),
    "offer of everything": m.Offer(tag=TAG, size_bytes=3145728, bitmap=b""),
    "offer of some": m.Offer(tag=TAG, size_bytes=3145728, bitmap=b"\x03"),
    "not held": m.NotHeld(tag=TAG),
    "have": m.Have(tag=TAG, chunks=(0, 2)),
    "request": m.Request(tag=TAG, chunk=2, offset=262144, length=262144),
    "block": m.Block(tag=TAG, chunk=2, offset=262144, length=8),
    "reject": m.Reject(tag=TAG, chunk=2, offset=262144, length=262144, code="gone"),
    "cancel": m.Cancel(tag=TAG, chunk=2, offset=262144),
    "stored": m.Stored(tag=TAG, chunks=(2,)),
    "complete": m.Complete(tag=TAG),
    "suggest": m.Suggest(tag=TAG, chunks=(2, 0)),
    "lend": m.Lend(tag=TAG),
    "assign": m.Assign(tag=TAG, chunks=(1, 2)),
    "relay order": m.RelayOrder(tag=TAG, target=STORAGE, sources=(node("peer"), node("helper")), lifetime_seconds=90),
    "part grant": m.PartGrant(
        tag=TAG,
        chunk=2,
        url="https://s3.example.org/bucket/objects/name?partNumber=3&uploadId=some&X-Amz-Signature=0123",
        checksum="47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        seconds=60,
    ),
    "part put": m.PartPut(tag=TAG, chunk=2),
    "part failed": m.PartFailed(tag=TAG, chunk=2, code="store", reason="400 BadDigest"),
    "part recall": m.PartRecall(tag=TAG, chunk=2),
    "keep": m.Keep(request=7, tag=TAG, name="films/cut.mp4", seconds=86400),
    "remove a name": m.Remove(request=8, tag=None, name="films/cut.mp4"),
    "remove a file": m.Remove(request=9, tag=TAG, name=""),
    "kept": m.Kept(request=8, removed=(TAG,), kept=()),
}
# What follows a frame outside of it.
RAW = {"block": b"8 bytes!"}


def message_vectors() -> list[Vector]:
    vectors = []
    for name, message in MESSAGES.items():
        lines = {"message": f"{type(message).__name__} {message.TYPE}", "frame": frame(encode(message)).hex()}
        if name in RAW:
            lines["raw"] = RAW[name].hex()
        vectors.append(Vector(name, lines | lines_of(message)))
    return vectors


def packed(*values: object) -> bytes:
    body: bytes = msgpack.packb(list(values))
    return frame(body)


HELLO = frame(encode(MESSAGES["hello"]))

# Said by a peer to a storage node: name, frames, what comes of them.
JUDGED: tuple[tuple[str, bytes, str], ...] = (
    ("a field that a newer version adds", packed(1, 2, ["x"], "", "", [], "new", 1.5), "Hello"),
    ("an unknown message that may be ignored", HELLO + packed(255, "anything"), "Hello"),
    ("an unknown message that may be ignored, largest number", HELLO + packed(2**64 - 1), "Hello"),
    ("a goodbye instead of hello", frame(encode(MESSAGES["goodbye"])), "Goodbye"),
    ("an unknown message that is critical", HELLO + packed(127), "refused"),
    ("an unknown message before hello", packed(255), "refused"),
    ("a message before hello", frame(encode(MESSAGES["ping"])), "refused"),
    ("hello twice", HELLO + HELLO, "refused"),
    ("hello of version 0", packed(1, 0, [], "", "", []), "refused"),
    ("a message of another role", HELLO + frame(encode(MESSAGES["heartbeat"])), "refused"),
    ("a message after goodbye", HELLO + frame(encode(MESSAGES["goodbye"])) + packed(3, 1), "refused"),
    ("a field too few", HELLO + packed(3), "refused"),
    ("a field of another kind", HELLO + packed(3, "1"), "refused"),
    ("a number too large", HELLO + packed(3, 2**32), "refused"),
    ("a negative number", HELLO + packed(3, -1), "refused"),
    ("true where a number belongs", HELLO + packed(3, True), "refused"),
    ("a tag of no chunks", HELLO + packed(48, bytes(36)), "refused"),
    ("a tag of too many chunks", HELLO + packed(48, bytes(32) + (8193).to_bytes(4, "big")), "refused"),
    ("a text too long", HELLO + packed(2, "x" * 65, ""), "refused"),
    ("an address without a port", packed(1, 1, [], "", "", ["example.org"]), "refused"),
    ("a map", HELLO + frame(b"\x81\x03\x01"), "refused"),
    ("an extension", HELLO + frame(b"\x92\x03\xd4\x01\x00"), "refused"),
    ("no array", HELLO + frame(b"\x03"), "refused"),
    ("an empty array", HELLO + frame(b"\x90"), "refused"),
    ("bytes behind the array", HELLO + frame(b"\x92\x03\x01\x00"), "refused"),
    ("an array cut short", HELLO + frame(b"\x92\x03"), "refused"),
    ("an array of four billion items", HELLO + frame(b"\xdd\xff\xff\xff\xff\x03\x01"), "refused"),
    ("text that is not UTF-8", HELLO + frame(b"\x93\x02\xa1\xff\xa0"), "refused"),
    ("an empty frame", HELLO + bytes(4), "refused"),
    ("a frame too long", HELLO + (FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "refused"),
    ("a first frame too long", (FIRST_FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "refused"),
)


def judged_vectors() -> list[Vector]:
    return [Vector(name, {"frames": frames.hex(), "outcome": outcome}) for name, frames, outcome in JUDGED]


def content(size: int) -> bytes:
    """Return what the tag vectors hash: byte i is i modulo 251."""
    pattern = bytes(range(251))
    return (pattern * (size // 251 + 1))[:size]


def tag_vectors() -> list[Vector]:
    vectors = []
    for size in (0, 1, MIB, MIB + 1, 3 * MIB, 64 * MIB, 64 * MIB + 1):
        data, layout = memoryview(content(size)), Layout.of_size(size)
        digests = [
            hashlib.sha256(data[layout.offset_of(chunk) :][: layout.bytes_of(chunk)]).digest()
            for chunk in range(layout.chunks)
        ]
        values = {
            "size_bytes": str(size),
            "chunk_bytes": str(layout.chunk_bytes),
            "first_digest": digests[0].hex(),
            "tag": str(Manifest.of_digests(size, digests).tag),
        }
        vectors.append(Vector(f"{size} bytes", values))
    return vectors


def text_vectors() -> list[Vector]:
    invite = Invite(
        addresses=("192.0.2.1:4100", "tracker.example.org:4100"),
        authority=some("authority"),
        token=some("token"),
        role=Role.STORAGE,
        expires=1790000000,
    )
    link = Link(tag=TAG, name="Filme/größer & schöner.mov", size_bytes=3145728)
    keyed = Link(tag=TAG, name="a.txt", size_bytes=81, key=some("link key"))
    ranges = (b"first range", b"second")
    nonce, token = some("nonce"), some("token")
    texts = {
        "node id": {"public_key": some("key").hex(), "node": node_id_of_key(some("key"))},
        "tag": {
            "root": TAG.root.hex(),
            "chunks": str(TAG.chunks),
            "wire": TAG.to_bytes().hex(),
            "text": str(TAG),
        },
        "invite": {
            "addresses": ",".join(invite.addresses),
            "authority": invite.authority.hex(),
            "token": invite.token.hex(),
            "role": invite.role.value,
            "expires": str(invite.expires),
            "text": str(invite),
        },
        "link": {
            "tag": str(link.tag),
            "name": link.name,
            "size_bytes": str(link.size_bytes),
            "text": str(link),
        },
        "link with a key": {
            "tag": str(keyed.tag),
            "name": keyed.name,
            "size_bytes": str(keyed.size_bytes),
            "key": some("link key").hex(),
            "text": str(keyed),
        },
        "join proof": {
            "nonce": nonce.hex(),
            "token": token.hex(),
            "signed": join_proof_text(nonce, token).hex(),
        },
        "possession proof": {
            "nonce": nonce.hex(),
            "node": node("peer"),
            "tag": str(TAG),
            "ranges": ",".join(piece.hex() for piece in ranges),
            "digest": proof_digest(nonce, node("peer"), TAG, ranges).hex(),
        },
    }
    return [Vector(name, values) for name, values in texts.items()]


def sealed_vectors() -> list[Vector]:
    key = some("link key")
    vectors = []
    for size in (0, 1, 65536, 65537):
        text, layout = content(size), Layout.of_size(size)
        tag = Manifest.of_digests(size, [hashlib.sha256(text).digest()]).tag
        assert layout.chunks == 1
        sealer = Sealer(key, tag, size)
        segments = [sealer.seal(text[at : at + SEGMENT_BYTES]) for at in range(0, max(1, size), SEGMENT_BYTES)]
        sealed = sealer.header + b"".join(segments)
        values = {
            "size_bytes": str(size),
            "key": key.hex(),
            "salt": salt_of(key, tag, size).hex(),
            "header": sealer.header.hex(),
            "sealed_bytes": str(len(sealed)),
            "sealed_ends": sealed[-32:].hex(),
            "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
        }
        vectors.append(Vector(f"{size} bytes", values))
    return vectors


FILES = {
    "sealed.txt": (
        "Sealed files whose text at position i is i modulo 251. See docs/protocol.md#sealed.",
        sealed_vectors,
    ),
    "messages.txt": (
        "Every message, as the frame that carries it. See docs/protocol.md#messages.\n"
        "frame: hex of the 4-byte length and the msgpack body. raw: hex of what follows a Block's frame.",
        message_vectors,
    ),
    "judged.txt": (
        "What a storage node makes of what a peer says first on a link. See docs/protocol.md#limits.\n"
        "frames: hex, one or more. outcome: the last message heard, or refused.",
        judged_vectors,
    ),
    "tags.txt": (
        "Tags of files whose byte at position i is i modulo 251. See docs/protocol.md#tag.",
        tag_vectors,
    ),
    "texts.txt": (
        "Names, invites, links, and what proofs are made of. See docs/protocol.md.",
        text_vectors,
    ),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (header, vectors) in FILES.items():
        (FOLDER / name).write_text(text_of(header, vectors()), "utf-8")


if __name__ == "__main__":
    main()

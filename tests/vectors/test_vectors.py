"""The checked-in byte vectors are the law: what they say is what we say and hear, bit for bit."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support import vectors
from support.vectors import Vector

from exchange.possession import proof_digest
from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.connection import Connection
from protocol.errors import RemoteProtocolError
from protocol.fields import kinds_of
from protocol.frames import frame
from protocol.ids import NodeId, Role, Tag, node_id_of_key
from protocol.invite import Invite, Link, join_proof_text
from protocol.limits import FRAME_BYTES_MAX
from protocol.manifest import Layout, Manifest
from runtime.sealed import SEGMENT_BYTES, Opener, Sealer, salt_of, sealed_bytes

MESSAGES = vectors.read("messages.txt")
TEXTS = {vector.name: vector for vector in vectors.read("texts.txt")}


def named(found: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", found, ids=lambda vector: vector.name)


def class_of(vector: Vector) -> type[m.Message]:
    name, number = vector.values["message"].split()
    kind = m.MESSAGES[int(number)]
    assert kind.__name__ == name
    return kind


def test_every_message_has_a_vector() -> None:
    assert {class_of(vector) for vector in MESSAGES} == set(m.MESSAGES.values())


@named(MESSAGES)
def test_what_we_say_is_what_the_vector_says(vector: Vector) -> None:
    assert frame(encode(vectors.message_of(class_of(vector), vector.values))).hex() == vector.values["frame"]


@named(MESSAGES)
def test_what_we_hear_is_what_the_vector_means(vector: Vector) -> None:
    data = vector.bytes_of("frame")
    assert int.from_bytes(data[:4], "big") == len(data) - 4 <= FRAME_BYTES_MAX
    message = decode_untrusted(data[4:])
    assert message == vectors.message_of(class_of(vector), vector.values)
    assert vectors.lines_of(message) == {name: vector.values[name] for name, _ in kinds_of(class_of(vector))}


@named([vector for vector in MESSAGES if class_of(vector) is m.Block])
def test_a_block_is_followed_by_the_bytes_it_announces(vector: Vector) -> None:
    assert json.loads(vector.values["length"]) == len(vector.bytes_of("raw"))


@named(vectors.read("judged.txt"))
def test_what_is_said_on_a_link_is_judged_as_the_vector_says(vector: Vector) -> None:
    connection = Connection(Role.STORAGE, Role.PEER)
    last = None

    def hear() -> None:
        connection.receive_data(vector.bytes_of("frames"))

    if vector.values["outcome"] == "refused":
        with pytest.raises(RemoteProtocolError):
            hear()
        return
    hear()
    while (message := connection.next_message()) is not None:
        last = message
    assert type(last).__name__ == vector.values["outcome"]


@named(vectors.read("tags.txt"))
def test_tags_are_what_the_vectors_say(vector: Vector) -> None:
    size = int(vector.values["size_bytes"])
    content = memoryview((bytes(range(251)) * (size // 251 + 1))[:size])
    layout = Layout.of_size(size)
    assert layout.chunk_bytes == int(vector.values["chunk_bytes"])
    digests = [
        hashlib.sha256(content[layout.offset_of(chunk) :][: layout.bytes_of(chunk)]).digest()
        for chunk in range(layout.chunks)
    ]
    assert digests[0].hex() == vector.values["first_digest"]
    assert str(Manifest.of_digests(size, digests).tag) == vector.values["tag"]


def test_a_node_id_is_what_the_vector_says() -> None:
    assert node_id_of_key(TEXTS["node id"].bytes_of("public_key")) == TEXTS["node id"].values["node"]


def test_a_tag_is_written_as_the_vector_says() -> None:
    vector = TEXTS["tag"]
    tag = Tag(vector.bytes_of("root"), int(vector.values["chunks"]))
    assert (str(tag), tag.to_bytes()) == (vector.values["text"], vector.bytes_of("wire"))


def test_an_invite_is_written_as_the_vector_says() -> None:
    vector = TEXTS["invite"]
    invite = Invite(
        addresses=tuple(vector.values["addresses"].split(",")),
        authority=vector.bytes_of("authority"),
        token=vector.bytes_of("token"),
        role=Role(vector.values["role"]),
        expires=int(vector.values["expires"]),
    )
    assert str(invite) == vector.values["text"]
    assert Invite.parse(vector.values["text"]) == invite


def test_a_link_is_written_as_the_vector_says() -> None:
    vector = TEXTS["link"]
    link = Link(
        tag=Tag.parse(vector.values["tag"]), name=vector.values["name"], size_bytes=int(vector.values["size_bytes"])
    )
    assert str(link) == vector.values["text"]
    assert Link.parse(vector.values["text"]) == link


def test_a_link_with_a_key_is_written_as_the_vector_says() -> None:
    values = TEXTS["link with a key"].values
    tag, size_bytes = Tag.parse(values["tag"]), int(values["size_bytes"])
    link = Link(tag=tag, name=values["name"], size_bytes=size_bytes, key=bytes.fromhex(values["key"]))
    assert str(link) == values["text"] and Link.parse(values["text"]) == link


@named(vectors.read("sealed.txt"))
def test_a_file_is_sealed_as_the_vector_says(vector: Vector) -> None:
    size, key = int(vector.values["size_bytes"]), vector.bytes_of("key")
    text = (bytes(range(251)) * (size // 251 + 1))[:size]
    tag = Manifest.of_digests(size, [hashlib.sha256(text).digest()]).tag
    assert salt_of(key, tag, size) == vector.bytes_of("salt")
    sealer = Sealer(key, tag, size)
    assert sealer.header == vector.bytes_of("header")
    pieces = [text[at : at + SEGMENT_BYTES] for at in range(0, max(1, size), SEGMENT_BYTES)]
    segments = [sealer.seal(piece) for piece in pieces]
    sealed = sealer.header + b"".join(segments)
    assert len(sealed) == int(vector.values["sealed_bytes"]) == sealed_bytes(size)
    assert sealed.endswith(vector.bytes_of("sealed_ends"))
    assert hashlib.sha256(sealed).hexdigest() == vector.values["sealed_sha256"]
    opener = Opener(key, sealer.header, len(sealed))
    assert [opener.open(segment) for segment in segments] == pieces


@named(vectors.read("sealed.txt"))
def test_a_sealed_file_is_what_openssl_opens_without_us(vector: Vector) -> None:
    """The rule of docs/protocol.md#sealed, written down with nothing of ours."""
    size, key, header = int(vector.values["size_bytes"]), vector.bytes_of("key"), vector.bytes_of("header")
    extracted = hmac.digest(vector.bytes_of("salt"), key, "sha256")
    blocks, before = [], b""
    for number in (1, 2):
        before = hmac.digest(extracted, before + b"upswarm-sealed-1" + bytes([number]), "sha256")
        blocks.append(before)
    content_key, check = blocks
    assert header == b"upswarm-sealed-1" + vector.bytes_of("salt") + check
    text = (bytes(range(251)) * (size // 251 + 1))[:size]
    count = max(1, -(-size // 65536))
    last = AESGCM(content_key).encrypt((count - 1).to_bytes(11, "big") + b"\x01", text[(count - 1) * 65536 :], header)
    assert last[-32:].endswith(vector.bytes_of("sealed_ends")[-len(last[-32:]) :])


def test_a_joiner_signs_what_the_vector_says() -> None:
    vector = TEXTS["join proof"]
    assert join_proof_text(vector.bytes_of("nonce"), vector.bytes_of("token")) == vector.bytes_of("signed")


def test_a_possession_proof_is_what_the_vector_says() -> None:
    vector = TEXTS["possession proof"]
    ranges = [bytes.fromhex(piece) for piece in vector.values["ranges"].split(",")]
    node, tag = NodeId(vector.values["node"]), Tag.parse(vector.values["tag"])
    assert proof_digest(vector.bytes_of("nonce"), node, tag, ranges) == vector.bytes_of("digest")


def test_the_specification_names_every_message_with_its_number_and_fields() -> None:
    specification = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
    for number, kind in sorted(m.MESSAGES.items()):
        start = specification.find(f"#### {number} {kind.__name__}\n")
        assert start >= 0, f"docs/protocol.md has no section '#### {number} {kind.__name__}'"
        section = specification[start:].partition("\n#")[0]
        for name, _ in kinds_of(kind):
            assert f"`{name}`" in section, f"docs/protocol.md does not tell of {kind.__name__}.{name}"

"""The numbers of protocol/limits.py fit each other."""

from __future__ import annotations

import dataclasses

import pytest
from support.wire import fullest

from protocol import fields as kinds
from protocol import limits
from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.frames import frame
from protocol.manifest import Layout
from protocol.shape import DEPTH_MAX, ITEMS_MAX

ALL = [m.MESSAGES[number] for number in sorted(m.MESSAGES)]
all_messages = pytest.mark.parametrize("message", ALL, ids=lambda message: message.__name__)


def bytes_max(message: type[m.Message]) -> int:
    # The array's header takes up to three bytes, the type number up to two.
    return 5 + sum(kind.bytes_max for _, kind in kinds.kinds_of(message))


@all_messages
def test_the_largest_message_fits_a_frame(message: type[m.Message]) -> None:
    assert bytes_max(message) <= limits.FRAME_BYTES_MAX


@all_messages
def test_no_message_takes_more_than_its_kinds_say(message: type[m.Message]) -> None:
    largest = fullest(message)
    body = encode(largest)
    assert len(body) <= bytes_max(message)
    assert len(frame(body)) == len(body) + 4
    assert decode_untrusted(body) == largest


@all_messages
def test_every_field_has_a_bound(message: type[m.Message]) -> None:
    for field in dataclasses.fields(message):
        kind = field.metadata["kind"]
        assert isinstance(kind, kinds.Kind)
        assert 0 < kind.bytes_max < limits.FRAME_BYTES_MAX


def test_what_is_said_before_trust_fits_the_first_frame() -> None:
    for message in (m.Hello, m.Goodbye, m.Join):
        assert bytes_max(message) <= limits.FIRST_FRAME_BYTES_MAX


def depth(kind: kinds.Kind) -> int:
    match kind:
        case kinds.ListOf() | kinds.Maybe():
            return depth(kind.kind) + isinstance(kind, kinds.ListOf)
        case kinds.Record():
            return 1 + max(depth(inner) for _, inner in kind.kinds)
        case kinds.NodeAddressField():
            return 2
    return 0


def items(kind: kinds.Kind) -> int:
    match kind:
        case kinds.ListOf():
            return 1 + kind.most * items(kind.kind)
        case kinds.Maybe():
            return items(kind.kind)
        case kinds.Record():
            return 1 + sum(items(inner) for _, inner in kind.kinds)
        case kinds.NodeAddressField():
            return 4 + limits.ADDRESSES_MAX
    return 1


@all_messages
def test_shape_leaves_newer_nodes_room(message: type[m.Message]) -> None:
    fields = [kind for _, kind in kinds.kinds_of(message)]
    assert 2 * (1 + max(depth(kind) for kind in fields)) <= DEPTH_MAX
    assert 2 * (2 + sum(items(kind) for kind in fields)) <= ITEMS_MAX


def test_type_numbers_are_unique_and_belong_to_one_class_each() -> None:
    declared = [thing for thing in vars(m).values() if isinstance(thing, type) and issubclass(thing, m.Message)]
    assert len(declared) - 1 == len(m.MESSAGES)  # all but the base class
    assert {kind for number, kind in m.MESSAGES.items() if number >= m.CRITICAL_TYPES_END} == {
        *(m.JobMap, m.Suggest, m.Lend, m.Assign, m.RelayOrder, m.Trackers),
        *(m.Keep, m.Remove, m.Kept),
        *(m.PartGrant, m.PartPut, m.PartFailed, m.PartRecall),
    }


def test_a_whole_manifest_and_a_whole_bitmap_travel() -> None:
    assert limits.BITMAP_BYTES_MAX * 8 == limits.CHUNKS_MAX
    assert dict(kinds.kinds_of(m.ManifestIs))["digests"] == kinds.Bytes(limits.CHUNKS_MAX * limits.DIGEST_BYTES)


def test_the_largest_file_has_a_layout() -> None:
    layout = Layout.of_size(limits.FILE_BYTES_MAX)
    assert layout.chunks == limits.CHUNKS_MAX
    assert layout.chunk_bytes * layout.chunks == limits.FILE_BYTES_MAX


def test_blocks_cut_chunks_evenly_and_none_is_larger_than_may_be_asked() -> None:
    assert limits.SMALL_CHUNK_BYTES % limits.BLOCK_BYTES == 0 == limits.LARGE_CHUNK_BYTES % limits.BLOCK_BYTES
    assert limits.BLOCK_BYTES <= limits.BLOCK_BYTES_MAX <= limits.LARGE_CHUNK_BYTES


def test_a_small_file_has_no_more_chunks_than_the_largest() -> None:
    assert limits.SMALL_FILE_BYTES_MAX // limits.SMALL_CHUNK_BYTES <= limits.CHUNKS_MAX
    assert limits.SMALL_FILE_BYTES_MAX % limits.SMALL_CHUNK_BYTES == 0


def test_a_possession_proof_catches_who_lacks_a_hundredth() -> None:
    assert 0.99**limits.PROOF_RANGES_MAX < 0.01


def test_orders_outlive_a_silent_link() -> None:
    assert limits.HANDSHAKE_SECONDS_MAX + limits.HELLO_SECONDS_MAX < limits.SILENCE_SECONDS_MAX
    assert limits.SILENCE_SECONDS_MAX < limits.ORDER_SECONDS_MAX

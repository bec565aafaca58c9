"""What a possession proof is: one digest over bytes that only somebody who has the file can supply.

Both sides of the proof call ``proof_digest``: the uploader with the ranges of its own file, the storage node with
those of the stored object. Which ranges are asked for, and how often an answer counts, storage/possession.py decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from protocol.ids import NodeId, Tag, node_id_to_bytes

_PURPOSE = b"upswarm proof 1"


def proof_digest(nonce: bytes, node: NodeId, tag: Tag, ranges_bytes: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Return SHA-256 over purpose, nonce, the prover's node id, the tag's wire form and the bytes of all ranges.

    The parts before the ranges have constant lengths and the verifier knows the length of each range, so joining them
    is unambiguous. The node id keeps one member from answering with another one's proof.
    """
    state = hashlib.sha256(_PURPOSE)
    state.update(nonce)
    state.update(node_id_to_bytes(node))
    state.update(tag.to_bytes())
    for piece in ranges_bytes:
        state.update(piece)
    return state.digest()

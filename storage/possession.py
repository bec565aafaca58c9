"""The possession challenge: who says "you have it already" must show that it has it too.

Decides which ranges are asked for, and that an answer counts once, in time, from the node it was made for. Never reads
a file and never reads a clock: bytes and ``now`` are handed in. What the digest covers is in exchange/possession.py.

A tag is not a right to claim. 512 random ranges of 1 KiB catch who lacks 10 % of the bytes all but 4e-24 of the time;
a file of at most 512 KiB is asked for whole. Fresh nonce and node id make every answer useless anywhere else.

A node may have several challenges about one file open: a folder holds the same bytes under two names, and both are put
at once. A right answer uses up the one it fits, a wrong one all of that node and file.

Considered: keeping challenges per link instead of per node and tag. A node that reconnects between question and
answer would have to start over, and one that opens many links could hold many challenges.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exchange.possession import proof_digest
from protocol.ids import NodeId, Tag
from protocol.limits import PROOF_RANGE_BYTES, PROOF_RANGES_MAX
from protocol.messages import Range

NONCE_BYTES = 32
SEED_BYTES = 32
# An uploader answers after 512 small reads: seconds even on a sleeping disk. Ours to choose; the issuer's clock counts.
CHALLENGE_SECONDS_MAX = 120.0
# 16 KiB of ranges each: a node can make us keep half a megabyte, all of them together 64 MiB.
CHALLENGES_PER_NODE_MAX = 32
CHALLENGES_MAX = 4096


def ranges_of(size_bytes: int, seed: bytes) -> tuple[Range, ...]:
    """Return the ranges to ask for: the whole file when it is small, else distinct random blocks, in rising order.

    The seed must be unpredictable: an extendable hash, not a statistical generator, spreads it, so that no number of
    seen challenges tells the next one.
    """
    blocks = -(-size_bytes // PROOF_RANGE_BYTES)
    if blocks <= PROOF_RANGES_MAX:
        chosen: list[int] = list(range(blocks))
    else:
        picked: set[int] = set()
        stream = hashlib.shake_256(seed)
        # 64 bits modulo at most 2**40 blocks: the bias is below 2**-24. Draws are taken until enough distinct ones
        # came; for the smallest file that is not read whole (513 blocks) that is about 3800 of them.
        wanted = 4 * PROOF_RANGES_MAX
        while len(picked) < PROOF_RANGES_MAX:
            words = stream.digest(8 * wanted)
            for start in range(0, len(words), 8):
                picked.add(int.from_bytes(words[start : start + 8], "big") % blocks)
                if len(picked) == PROOF_RANGES_MAX:
                    break
            wanted *= 2
        chosen = sorted(picked)
    return tuple(
        Range(
            offset=block * PROOF_RANGE_BYTES,
            length=min(PROOF_RANGE_BYTES, size_bytes - block * PROOF_RANGE_BYTES),
        )
        for block in chosen
    )


@dataclass(frozen=True, slots=True, eq=False)
class Challenge:
    """What was asked of ``node`` about ``tag``; ``name`` is what it wants the file to be called."""

    node: NodeId
    tag: Tag
    name: str
    nonce: bytes
    ranges: tuple[Range, ...]
    expires_at: float

    def accepts(self, digest: bytes, ranges_bytes: Sequence[bytes]) -> bool:
        """Whether ``digest`` proves possession, given our own bytes of the ranges."""
        assert [len(piece) for piece in ranges_bytes] == [span.length for span in self.ranges]
        return hmac.compare_digest(digest, proof_digest(self.nonce, self.node, self.tag, ranges_bytes))


class Challenges:
    """All open challenges: single use, expiring, bounded for each node and in all."""

    def __init__(
        self,
        *,
        seconds_max: float = CHALLENGE_SECONDS_MAX,
        per_node_max: int = CHALLENGES_PER_NODE_MAX,
        total_max: int = CHALLENGES_MAX,
    ) -> None:
        self._seconds_max = seconds_max
        self._per_node_max = per_node_max
        self._total_max = total_max
        # Oldest first: every challenge lives equally long, so the first ones are those that expire first.
        self._open: dict[Challenge, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def issue(
        self, node: NodeId, tag: Tag, name: str, size_bytes: int, *, nonce: bytes, seed: bytes, now: float
    ) -> Challenge | None:
        """Return a new challenge, replacing one for the same node, tag and name; None when there are too many."""
        assert len(nonce) == NONCE_BYTES and len(seed) == SEED_BYTES
        self.expire(now)
        for challenge in self.open_for(node, tag, now):
            if challenge.name == name:
                del self._open[challenge]
        if len(self._open) >= self._total_max or sum(one.node == node for one in self._open) >= self._per_node_max:
            return None
        challenge = Challenge(node, tag, name, nonce, ranges_of(size_bytes, seed), now + self._seconds_max)
        self._open[challenge] = None
        return challenge

    def open_for(self, node: NodeId, tag: Tag, now: float) -> tuple[Challenge, ...]:
        """Return what was asked of that node about that file and is not answered yet. They stay open."""
        self.expire(now)
        return tuple(challenge for challenge in self._open if (challenge.node, challenge.tag) == (node, tag))

    def redeem(self, digest: bytes, asked: Mapping[Challenge, Sequence[bytes]], now: float) -> Challenge | None:
        """Take out the one of ``asked`` (with our own bytes of its ranges) that ``digest`` answers, and return it.

        None: it answers none that is open; all of ``asked`` are used up then.
        """
        self.expire(now)
        still_open = [challenge for challenge in asked if challenge in self._open]
        for challenge in still_open:
            if challenge.accepts(digest, asked[challenge]):
                del self._open[challenge]
                return challenge
        for challenge in still_open:
            del self._open[challenge]
        return None

    def expire(self, now: float) -> None:
        """Forget what nobody answered in time."""
        while self._open:
            oldest = next(iter(self._open))
            if oldest.expires_at > now:
                return
            del self._open[oldest]

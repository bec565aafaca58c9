"""Is this the size of the tag's file? A tag does not bind it; the digest of the last chunk does. Pure.

Somebody who offers the file under another size is no source: the bytes it has would be wrong by our layout, though it
may be honest. Its word makes the last chunk urgent. Once that is verified the size is proven, and nothing said against
it counts. If it turns out wrong, or nobody comes up with it in time, the size is refuted: all who claimed it claimed to
have what they have not, and the others' word is tried (``SizeRefuted``). So a manifest with a wrong size costs some
time, never the transfer, and nobody honest is struck for it.

Verified chunks stay worth what they are: they prove the chunk size (``Manifest.leaves_open``), so that only the last
one can be another.
"""

from __future__ import annotations

from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import KIB
from protocol.manifest import Manifest

# Nothing of the last chunk came for so long, though it was all that was asked for.
STILL_SECONDS_MAX = 60.0
# Nobody at all is linked who says that it has it; they may be on their way.
ABSENT_SECONDS_MAX = 10.0
# In all: whoever delivers it more slowly has to wait until nobody objects.
PROOF_BYTES_PER_SECOND_MIN = 16 * KIB
CLAIMS_MAX = 8


class Sizes:
    """What was said about the size of one tag's file. ``verified`` is the swarm's, and grows."""

    def __init__(self, manifest: Manifest, verified: Bitmap) -> None:
        self._manifest = manifest
        self._verified = verified
        self._claims: dict[NodeId, int] = {}
        self._since: float | None = None
        self._came_bytes = 0
        self._moved_at = 0.0

    @property
    def disputed(self) -> bool:
        """Whether it is not proven, and somebody says that it is another."""
        return bool(self.claims)

    @property
    def claims(self) -> tuple[int, ...]:
        """The other sizes that are still possible, those that most say first."""
        possible = [size for size in self._claims.values() if self._manifest.leaves_open(size, self._verified)]
        return tuple(sorted(dict.fromkeys(possible), key=lambda size: (-possible.count(size), size)))

    def dispute(self, node: NodeId, size_bytes: int, now: float) -> bool:
        """``node`` says that the file has another size; return whether that is news that counts."""
        if not self._manifest.leaves_open(size_bytes, self._verified):
            return False
        if len(self._claims) >= CLAIMS_MAX and node not in self._claims:
            return False
        self._claims[node] = size_bytes
        if self._since is None:
            self._since = self._moved_at = now
        return True

    def is_late(self, came_bytes: int, offered: bool, now: float) -> bool:
        """Whether the proof has taken too long. ``came_bytes``: so much of the last chunk is here; ``offered``:
        somebody says that he has it."""
        if self._since is None or not self.disputed:
            return False
        if came_bytes != self._came_bytes:
            self._came_bytes, self._moved_at = came_bytes, now
        last_bytes = self._manifest.layout.bytes_of(self._manifest.tag.chunks - 1)
        whole_seconds = STILL_SECONDS_MAX + last_bytes / PROOF_BYTES_PER_SECOND_MIN
        still_seconds = STILL_SECONDS_MAX if offered else ABSENT_SECONDS_MAX
        return now - self._moved_at > still_seconds or now - self._since > whole_seconds

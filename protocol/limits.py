"""Numbers that all nodes must share, each with its reason; what a program may choose is in its own ``config.py``.

Relations between them are asserted in tests/unit/test_limits.py.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

PROTOCOL_VERSION = 1

ALPN = "upswarm/1"
# The join door speaks its own protocol name, so that a node without certificate cannot even begin the other one.
ALPN_JOIN = "upswarm-join/1"

# A feature of docs/protocol.md#versions: the tracker likes to see JobMap.
JOB_MAPS = "job-maps"
# Another one: Keep, Remove and Kept are known.
KEEPING = "keeping"
DIRECT_PARTS = "direct-parts"

# §3 of docs/protocol.md: the rule depends on the size alone, so that equal files have equal tags everywhere.
SMALL_FILE_BYTES_MAX = 64 * MIB
SMALL_CHUNK_BYTES = 1 * MIB
LARGE_CHUNK_BYTES = 8 * MIB
CHUNKS_MAX = 8192

# Largest file: chunks double as needed; 2**50 bytes (1 PiB) makes chunks of 128 GiB, far beyond what anyone
# should do, and keeps every number below 2**63.
FILE_BYTES_MAX = 2**50

DIGEST_BYTES = 32

# The unit of one request. Large enough that a request costs nothing, small enough that a control frame behind
# one never waits long: 256 KiB is 0.1 s on a 20 Mbit/s line.
BLOCK_BYTES = 256 * KIB
# A fast link may ask for more at once; nobody may ask for more than this.
BLOCK_BYTES_MAX = 4 * MIB

# The largest control message is a manifest of 8192 digests (256 KiB). Chunk bytes do not travel in frames, so a
# longer frame is a mistake or an attack, not a big file.
FRAME_BYTES_MAX = 512 * KIB
# Before Hello nobody needs more than this: names, features and addresses.
FIRST_FRAME_BYTES_MAX = 8 * KIB

BITMAP_BYTES_MAX = CHUNKS_MAX // 8

NAME_BYTES_MAX = 1024  # a relative path as UTF-8
WORD_BYTES_MAX = 64  # a feature, a state, a code
SENTENCE_BYTES_MAX = 512  # a reason for people
# A presigned URL: host, a key of 1 KiB, and some 700 bytes of signature, more with a session token (about 1 KiB).
URL_BYTES_MAX = 4 * KIB
ADDRESS_BYTES_MAX = 272  # host (253) + ":" + port
ADDRESSES_MAX = 8
TRACKERS_MAX = 8  # of one swarm; one serves thousands of nodes
FEATURES_MAX = 32
NAMES_PER_TAG_MAX = 4

# A holding takes up to 5.3 KiB (four names, a bitmap): so many always fit a frame.
HOLDINGS_PER_FRAME_MAX = 88
HOLDERS_PER_ANSWER_MAX = 64
RECORDS_PER_ANSWER_MAX = 256
CHUNKS_PER_HAVE_MAX = 1024
PUSHED_NODES_MAX = 256
RUNS_BYTES_MAX = 4 * CHUNKS_MAX  # a chunk map in which no two neighbours are alike

CERTIFICATE_BYTES_MAX = 4 * KIB
AUTHORITIES_MAX = 2  # the one in force, and the next one
REVOCATIONS_BYTES_MAX = 256 * KIB

# A possession proof: 512 random ranges of 1 KiB. Who lacks 1 % of the bytes passes with 0.99**512 = 0.6 %, who
# lacks 10 % with 4e-24; files up to 512 KiB are read whole.
PROOF_RANGES_MAX = 512
PROOF_RANGE_BYTES = 1 * KIB

# Requests one link may have waiting at a sender; a receiver that asks for more is cut off, because each one
# costs us memory.
REQUESTS_PER_LINK_MAX = 512

HANDSHAKE_SECONDS_MAX = 10.0
HELLO_SECONDS_MAX = 10.0
# Nothing heard for so long: the link is half open. Pings go out at a third of it.
SILENCE_SECONDS_MAX = 60.0
# An order nobody carried out in this time is void; the tracker gives a new one at a later heartbeat.
ORDER_SECONDS_MAX = 90.0
# Holders that a relay order names: one of them on the relay's LAN is enough.
RELAY_SOURCES_MAX = 16

"""The possession challenge: who has the bytes passes, and nobody else, once, in time, under their own node id."""

from __future__ import annotations

import hashlib
import random

import pytest

from exchange.possession import proof_digest
from protocol.ids import NodeId, node_id_from_bytes
from protocol.limits import KIB, PROOF_RANGE_BYTES, PROOF_RANGES_MAX
from protocol.manifest import Layout, Manifest
from storage.possession import CHALLENGE_SECONDS_MAX, Challenge, Challenges, ranges_of

rng = random.Random(5)


def node(name: str) -> NodeId:
    return node_id_from_bytes(hashlib.sha256(name.encode()).digest())


ANNA, EVE = node("anna"), node("eve")
DATA = rng.randbytes(4 * 1024 * KIB + 13)


def manifest_of(data: bytes) -> Manifest:
    layout = Layout.of_size(len(data))
    pieces = [data[layout.offset_of(chunk) :][: layout.chunk_bytes] for chunk in range(layout.chunks)]
    return Manifest.of_digests(len(data), [hashlib.sha256(piece).digest() for piece in pieces])


TAG = manifest_of(DATA).tag


def issue(challenges: Challenges, who: NodeId = ANNA, now: float = 0.0, name: str = "name") -> Challenge:
    challenge = challenges.issue(who, TAG, name, len(DATA), nonce=rng.randbytes(32), seed=rng.randbytes(32), now=now)
    assert challenge is not None
    return challenge


def pieces_of(challenge: Challenge, data: bytes) -> list[bytes]:
    return [data[span.offset : span.offset + span.length] for span in challenge.ranges]


def redeem(challenges: Challenges, digest: bytes, who: NodeId = ANNA, now: float = 1.0) -> Challenge | None:
    asked = {challenge: pieces_of(challenge, DATA) for challenge in challenges.open_for(who, TAG, now)}
    return challenges.redeem(digest, asked, now)


def answer(challenge: Challenge, data: bytes, who: NodeId = ANNA) -> bytes:
    return proof_digest(challenge.nonce, who, TAG, pieces_of(challenge, data))


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 512 * KIB])
def test_a_small_file_is_asked_for_whole(size: int) -> None:
    ranges = ranges_of(size, b"s" * 32)
    assert sum(span.length for span in ranges) == size
    assert [span.offset for span in ranges] == list(range(0, size, PROOF_RANGE_BYTES))


@pytest.mark.parametrize("size", [512 * KIB + 1, 4 * 1024 * KIB + 13, 2**40 + 5])
def test_a_large_file_is_asked_for_in_distinct_ranges_within_it(size: int) -> None:
    ranges = ranges_of(size, b"s" * 32)
    assert len(ranges) == len({span.offset for span in ranges}) == PROOF_RANGES_MAX
    assert all(span.length and span.offset + span.length <= size for span in ranges)
    assert ranges != ranges_of(size, b"t" * 32)


def test_who_has_the_file_passes() -> None:
    challenges = Challenges()
    challenge = issue(challenges)
    assert redeem(challenges, answer(challenge, DATA)) is challenge


def test_who_has_only_the_digests_gets_nothing_in_a_hundred_thousand_tries() -> None:
    known = [TAG.root, *manifest_of(DATA).digests]
    challenge = issue(Challenges())
    pieces = pieces_of(challenge, DATA)
    guess = random.Random(1)
    tries = [proof_digest(challenge.nonce, ANNA, TAG, [digest]) for digest in known]
    tries += [proof_digest(challenge.nonce, ANNA, TAG, known), hashlib.sha256(b"").digest()]
    tries += [guess.randbytes(32) for _ in range(100_000)]
    right = answer(challenge, DATA)
    assert challenge.accepts(right, pieces)
    assert right not in tries
    assert not any(challenge.accepts(digest, pieces) for digest in tries[:200])


def test_who_has_nine_tenths_of_the_bytes_fails_every_time() -> None:
    # 0.9 ** 512 = 4e-24 a try.
    blocks = -(-len(DATA) // KIB)
    holes = set(random.Random(2).sample(range(blocks), blocks // 10))
    partly = bytearray(DATA)
    for block in holes:
        partly[block * KIB : (block + 1) * KIB] = bytes(len(partly[block * KIB : (block + 1) * KIB]))
    challenges = Challenges()
    for _ in range(50):
        challenge = issue(challenges)
        assert not challenge.accepts(answer(challenge, bytes(partly)), pieces_of(challenge, DATA))


def test_an_answer_counts_once() -> None:
    challenges = Challenges()
    right = answer(issue(challenges), DATA)
    assert redeem(challenges, right) is not None
    assert redeem(challenges, right) is None


def test_an_answer_counts_once_also_when_it_comes_twice_at_the_same_time() -> None:
    challenges = Challenges()
    challenge = issue(challenges)
    asked = {challenge: pieces_of(challenge, DATA)}
    right = answer(challenge, DATA)
    assert [challenges.redeem(right, asked, 1.0), challenges.redeem(right, asked, 1.0)] == [challenge, None]


def test_a_wrong_answer_uses_up_every_challenge_about_that_file() -> None:
    challenges = Challenges()
    open_ones = [issue(challenges), issue(challenges, name="other")]
    assert redeem(challenges, bytes(32)) is None
    assert [redeem(challenges, answer(one, DATA)) for one in open_ones] == [None, None]


def test_the_same_file_under_two_names_is_proven_twice() -> None:
    challenges = Challenges()
    one, other = issue(challenges, name="one"), issue(challenges, name="other")
    assert redeem(challenges, answer(other, DATA)) is other
    assert redeem(challenges, answer(one, DATA)) is one
    assert len(challenges) == 0


def test_an_old_answer_does_not_fit_a_new_challenge() -> None:
    challenges = Challenges()
    old = answer(issue(challenges), DATA)
    fresh = issue(challenges)
    assert not fresh.accepts(old, pieces_of(fresh, DATA))


def test_the_answer_of_another_node_does_not_fit() -> None:
    challenges = Challenges()
    challenge = issue(challenges, EVE)
    assert not challenge.accepts(answer(challenge, DATA, ANNA), pieces_of(challenge, DATA))
    assert redeem(challenges, answer(challenge, DATA, ANNA), EVE) is None
    assert challenges.open_for(ANNA, TAG, 1.0) == ()


def test_a_challenge_expires() -> None:
    challenges = Challenges()
    challenge = issue(challenges)
    right, asked = answer(challenge, DATA), {challenge: pieces_of(challenge, DATA)}
    assert challenges.redeem(right, asked, CHALLENGE_SECONDS_MAX) is None
    assert len(challenges) == 0


def test_the_table_is_bounded_for_each_node_and_in_all() -> None:
    challenges = Challenges(per_node_max=3, total_max=5)
    tags = [manifest_of(bytes([number])).tag for number in range(6)]

    def ask(who: NodeId, number: int, now: float = 0.0) -> bool:
        made = challenges.issue(who, tags[number], "", 1, nonce=bytes(32), seed=bytes(32), now=now)
        return made is not None

    assert [ask(EVE, number) for number in range(4)] == [True, True, True, False]
    assert ask(EVE, 0), "asking again about the same file replaces the older challenge"
    assert [ask(ANNA, number) for number in range(3)] == [True, True, False]
    assert ask(ANNA, 2, now=CHALLENGE_SECONDS_MAX), "expired ones make room"


def test_every_part_of_the_proof_matters() -> None:
    whole = proof_digest(b"n" * 32, ANNA, TAG, [b"ab", b"c"])
    assert whole == proof_digest(b"n" * 32, ANNA, TAG, [b"a", b"bc"]), "lengths are fixed by the challenge"
    other = manifest_of(b"other").tag
    assert whole != proof_digest(b"m" * 32, ANNA, TAG, [b"ab", b"c"])
    assert whole != proof_digest(b"n" * 32, EVE, TAG, [b"ab", b"c"])
    assert whole != proof_digest(b"n" * 32, ANNA, other, [b"ab", b"c"])
    assert whole != proof_digest(b"n" * 32, ANNA, TAG, [b"ab", b"d"])

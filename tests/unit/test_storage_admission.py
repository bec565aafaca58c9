"""The desk's answers, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.ids import Tag
from protocol.limits import MIB
from protocol.messages import DeskState, Propose
from storage.admission import Refusal, Situation, answer_to

EMPTY_HANDED = Situation(
    known_size_bytes=None,
    size_is_open=False,
    stored=False,
    job_live=False,
    job_rests=False,
    job_has_room=False,
    claims_full=False,
    free_bytes=100 * MIB,
    node_jobs=0,
    node_jobs_max=2,
)
SIZE = 3 * MIB


def propose(size: int = SIZE, chunks: int = 3) -> Propose:
    return Propose(request=1, tag=Tag(bytes(32), chunks), size_bytes=size, name="../../etc/passwd")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, DeskState.NEW),
        ({"stored": True, "known_size_bytes": SIZE}, DeskState.STORED),
        ({"stored": True, "known_size_bytes": SIZE, "free_bytes": 0, "node_jobs": 2}, "busy or stored"),
        ({"job_live": True, "known_size_bytes": SIZE}, DeskState.PARTLY),
        ({"job_live": True, "known_size_bytes": SIZE, "free_bytes": 0}, DeskState.PARTLY),
        ({"job_rests": True, "known_size_bytes": SIZE, "job_has_room": True, "free_bytes": 0}, DeskState.PARTLY),
        ({"job_rests": True, "known_size_bytes": SIZE, "free_bytes": SIZE - 1}, "no-space"),
        ({"free_bytes": SIZE}, DeskState.NEW),
        ({"free_bytes": SIZE - 1}, "no-space"),
        ({"node_jobs": 2}, "busy"),
        ({"job_live": True, "known_size_bytes": SIZE, "claims_full": True}, "busy"),
        ({"known_size_bytes": SIZE + 1, "job_live": True}, "refused"),
    ],
)
def test_the_answer_follows_from_the_situation(changes: dict[str, object], expected: DeskState | str) -> None:
    answer = answer_to(propose(), replace(EMPTY_HANDED, **changes))
    if expected == "busy or stored":
        assert answer is DeskState.STORED, "what is stored costs neither room nor a job"
    elif isinstance(expected, DeskState):
        assert answer is expected
    else:
        assert isinstance(answer, Refusal)
        assert answer.code == expected
        assert answer.reason


@pytest.mark.parametrize(("size", "chunks"), [(SIZE, 2), (SIZE, 4), (SIZE + 1, 3), (0, 2), (64 * MIB + 1, 65)])
def test_a_size_that_does_not_make_the_tags_chunks_is_refused(size: int, chunks: int) -> None:
    answer = answer_to(propose(size, chunks), EMPTY_HANDED)
    assert isinstance(answer, Refusal) and answer.code == "refused"


@pytest.mark.parametrize(("size", "chunks"), [(0, 1), (1, 1), (64 * MIB, 64), (64 * MIB + 1, 9)])
def test_a_size_that_makes_the_tags_chunks_is_taken(size: int, chunks: int) -> None:
    assert answer_to(propose(size, chunks), replace(EMPTY_HANDED, free_bytes=2**40)) is DeskState.NEW

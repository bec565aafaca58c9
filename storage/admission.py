"""May this proposal be taken, and what is the answer? Pure: what is known comes in as ``Situation``.

A name is not judged here: within the wire's limit anything may be a name, because it is only ever stored as data and
shown; no path is made of it on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.manifest import Layout
from protocol.messages import DeskState, Propose

CODE_NO_SPACE = "no-space"
CODE_REFUSED = "refused"
CODE_QUOTA = "quota"  # so much is stored for this node, or under such names, already
CODE_BUSY = "busy"  # not now; trying again later makes sense


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, with a word for programs and a sentence for people."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the desk knows about a proposal. ``free_bytes`` leaves reserve and other promises out already."""

    known_size_bytes: int | None  # of this tag, when its manifest is known here
    size_is_open: bool  # it is another than proposed, and not proven: the last chunk is not here
    stored: bool
    job_live: bool
    job_rests: bool
    job_has_room: bool  # its spool file has taken its room on the disk
    claims_full: bool
    free_bytes: int
    node_jobs: int  # jobs this node has open or was told "new" for, without this one
    node_jobs_max: int
    over_quota: str | None = None  # why it may not have this stored


def answer_to(propose: Propose, situation: Situation) -> DeskState | Refusal:
    """Return what the uploader is told."""
    tag, size = propose.tag, propose.size_bytes
    layout = Layout.of_size(size)
    if layout.chunks != tag.chunks:
        return Refusal(CODE_REFUSED, f"a file of {size} bytes has {layout.chunks} chunks, its tag says {tag.chunks}")
    if situation.size_is_open and situation.job_live:
        known = situation.known_size_bytes
        return Refusal(
            CODE_BUSY, f"somebody uploads it as a file of {known} bytes, not {size}; the last chunk will tell"
        )
    if situation.known_size_bytes not in (None, size) and not situation.size_is_open:
        return Refusal(CODE_REFUSED, f"the file of this tag has {situation.known_size_bytes} bytes, not {size}")
    if situation.over_quota is not None:
        return Refusal(CODE_QUOTA, situation.over_quota)
    if situation.stored:
        return DeskState.STORED
    if situation.claims_full:
        return Refusal(CODE_BUSY, "too many upload this file already; it will be stored without you")
    if situation.node_jobs >= situation.node_jobs_max:
        return Refusal(CODE_BUSY, f"you have {situation.node_jobs} uploads open here; let some of them end first")
    if situation.job_live:
        return DeskState.PARTLY
    if not situation.job_has_room and size > situation.free_bytes:
        return Refusal(
            CODE_NO_SPACE, f"{size} bytes do not fit: {situation.free_bytes} bytes are free beyond the reserve"
        )
    # A job of another size that rests goes on with the manifest that we are given now.
    return DeskState.PARTLY if situation.job_rests and not situation.size_is_open else DeskState.NEW

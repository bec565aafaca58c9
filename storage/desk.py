"""The desk: where an uploader proposes a file and hears "new", "partly" or "stored"; where it proves, and withdraws.

Which answer it is, admission.py decides; what a challenge is, possession.py. Here the facts are gathered, the answer is
carried out, and it is said. An answer of "partly" is durable before it is given, a job before it is announced.

After "new" a problem (no room any more, a manifest that is not this tag's) is told by JobClosed (failed): the proposal
itself has been answered by then. Nobody can make the desk remember much: proposals that wait for their manifest and
challenges are bounded for each node, and expire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from protocol import messages as m
from protocol.errors import ChunkMissing, CommandError, IntegrityError, StorageFull, StorageUnavailable
from protocol.ids import NodeId, Tag
from protocol.limits import DIGEST_BYTES, RECORDS_PER_ANSWER_MAX
from protocol.manifest import Manifest
from runtime.link import Link
from runtime.seam import Runtime
from storage.admission import CODE_BUSY, CODE_NO_SPACE, CODE_REFUSED, Refusal, Situation, answer_to
from storage.backends.base import Backend
from storage.holdings import StorageHoldings
from storage.intake import Intake
from storage.jobs import NAMES_PER_CLAIM_MAX, Job
from storage.keeping.keeper import Keeper
from storage.keeping.usage import Usage
from storage.ledger.base import LeaseLost, Ledger
from storage.possession import NONCE_BYTES, SEED_BYTES, Challenge, Challenges
from storage.recovery import lose
from storage.reports import sentence
from storage.room import Room
from storage.shelf import Shelf

log = structlog.get_logger()

# A manifest of 256 KiB takes two seconds at 1 Mbit/s; behind other transfers it may wait.
MANIFEST_SECONDS_MAX = 60.0
# Jobs of one node that are being opened at the same time: each waits for two syncs, and they share them.
OPENINGS_MAX = 32
# A manifest so small is checked on the spot: the way to a thread and back takes longer.
_CHECKED_AT_ONCE_BYTES = 64 * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class _Expected:
    """Proposals of one node that were answered "new"; the manifest is on the way."""

    link: Link
    names: tuple[str, ...]
    size_bytes: int
    expires_at: float


class Desk:
    """One for all links. ``node_jobs_max``: uploads one node may have open at once. ``know``: where others store, too
    (sharing.py); it says False of a tag that is theirs to take. ``reread``: have a stored file read again, soon."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        backend: Backend,
        shelf: Shelf,
        intake: Intake,
        holdings: StorageHoldings,
        room: Room,
        *,
        node_jobs_max: int,
        reread: Callable[[Tag], None],
        know: Callable[[Tag], Awaitable[bool]] | None = None,
        usage: Usage | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._usage = usage
        self._keeper = keeper
        self._know = know
        self._reread = reread
        self._runtime = runtime
        self._ledger = ledger
        self._backend = backend
        self._shelf = shelf
        self._intake = intake
        self._holdings = holdings
        self._room = room
        self._node_jobs_max = node_jobs_max
        self._challenges = Challenges()
        self._expected: dict[tuple[NodeId, Tag], _Expected] = {}
        self._opening: dict[tuple[NodeId, Tag], trio.Event] = {}

    async def handle(self, link: Link, message: m.Message) -> None:
        """Deal with what the exchange did not take. Jobs are opened beside each other; what one node says of one file
        keeps its order."""
        if isinstance(message, m.Propose | m.ManifestIs | m.Proof | m.Withdraw):
            opening = self._opening.get((link.peer.node, message.tag))
            if opening is not None:
                await opening.wait()
        match message:
            case m.Propose():
                await self._propose(link, message)
            case m.ManifestIs():
                await self._begin_opening(link, message)
            case m.Proof():
                await self._proof(link, message)
            case m.Withdraw():
                await self._intake.withdraw(message.tag, link.peer.node)
            case m.Keep() | m.Remove():
                await self._care(link, message)
            case _:
                log.debug("message of no use here", type=type(message).__name__, node=link.peer.node)

    def offered(self, link: Link, tag: Tag) -> None:
        """``link`` offers ``tag``: it takes part in the job, or hears that there is no need to."""
        if tag in self._shelf.stored:
            link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=False, reason=""))
        else:
            self._intake.join(link, tag)

    def gone(self, link: Link) -> None:
        """``link`` has ended. Its jobs stay open: others may have the bytes, and it may come back."""
        self._intake.leave(link)
        for key, expected in list(self._expected.items()):
            if expected.link is link:
                self._forget_expected(key)

    # --- Propose ---

    async def _propose(self, link: Link, propose: m.Propose) -> None:
        node, tag = link.peer.node, propose.tag
        async with self._intake.turns.of(tag):
            if self._know is not None and not await self._know(tag):
                reason = "another storage node has its job; ask the tracker again"
                self._refuse(link, propose.request, CODE_BUSY, reason)
                return
            situation = await self._situation(node, propose)
            if situation.size_is_open and situation.job_live:
                self._shelf.live[tag].swarm.dispute(node, propose.size_bytes)
            answer = answer_to(propose, situation)
            try:
                if answer is m.DeskState.PARTLY:
                    await self._join_job(node, propose)
            except StorageFull as error:
                answer = Refusal(CODE_NO_SPACE, f"no room: {error}")
            except LeaseLost as error:
                answer = Refusal(CODE_BUSY, f"{error}; propose again")
            if answer is m.DeskState.NEW:
                self._expect(link, propose)
            elif answer is m.DeskState.STORED:
                self._challenge(link, propose)
                return
            if isinstance(answer, Refusal):
                self._refuse(link, propose.request, answer.code, answer.reason)
                return
            durable = self._shelf.durable(tag)
            link.post(
                m.DeskAnswer(
                    request=propose.request,
                    tag=tag,
                    state=answer,
                    bitmap=b"" if durable is None else durable.to_bytes(),
                    nonce=b"",
                    ranges=(),
                )
            )
            # After the answer: the first thing an uploader hears of a job is whether it has one.
            self._intake.join(link, tag)

    async def _situation(self, node: NodeId, propose: m.Propose) -> Situation:
        tag = propose.tag
        self._expire()
        over_quota = None
        if self._usage is not None:
            over_quota = await self._usage.excess(node, propose.name, tag, propose.size_bytes)
        free_bytes = await self._room.free_bytes() + self._room.promised(tag)
        # From here on nothing waits: what is decided is true when it is carried out.
        live = self._shelf.live.get(tag)
        resting = self._shelf.resting.get(tag)
        jobs = self._shelf.live_jobs_of(node) + sum(who == node for who, _ in self._expected)
        if (live is not None and node in live.job.uploaders) or (node, tag) in self._expected:
            jobs -= 1
        return Situation(
            known_size_bytes=self._shelf.known_size_bytes(tag),
            size_is_open=self._size_is_open(propose),
            stored=tag in self._shelf.stored,
            job_live=live is not None,
            job_rests=resting is not None,
            job_has_room=resting is not None and bool(resting.job.durable),
            claims_full=live is not None and not live.job.may_claim(node, propose.name),
            free_bytes=free_bytes,
            node_jobs=jobs,
            node_jobs_max=self._node_jobs_max,
            over_quota=over_quota,
        )

    def _size_is_open(self, propose: m.Propose) -> bool:
        """Whether a job here has another size than is proposed, and either could be the file's."""
        job = self._shelf.job_of(propose.tag)
        return job is not None and job.manifest.leaves_open(propose.size_bytes, job.durable)

    async def _join_job(self, node: NodeId, propose: m.Propose) -> None:
        entry = self._shelf.live.get(propose.tag)
        if entry is not None:
            await self._intake.claim(entry, node, propose.name)
        else:
            resting = self._shelf.resting[propose.tag]
            await self._intake.open_job(resting.job.manifest, node, (propose.name,))

    def _expect(self, link: Link, propose: m.Propose) -> None:
        key = (link.peer.node, propose.tag)
        earlier = self._expected.pop(key, None)
        names = dict.fromkeys((*(earlier.names if earlier is not None else ()), propose.name))
        self._expected[key] = _Expected(
            link,
            tuple(names)[-NAMES_PER_CLAIM_MAX:],
            propose.size_bytes,
            self._runtime.clock.monotonic() + MANIFEST_SECONDS_MAX,
        )
        self._room.promise(propose.tag, propose.size_bytes)

    def _expire(self) -> None:
        now = self._runtime.clock.monotonic()
        # Oldest first: all live equally long.
        for key, expected in list(self._expected.items()):
            if expected.expires_at > now:
                return
            self._forget_expected(key)

    def _forget_expected(self, key: tuple[NodeId, Tag]) -> None:
        del self._expected[key]
        if not any(tag == key[1] for _, tag in self._expected):
            self._room.release(key[1])

    # --- ManifestIs ---

    async def _begin_opening(self, link: Link, message: m.ManifestIs) -> None:
        node, tag = link.peer.node, message.tag
        expected = self._expected.get((node, tag))
        if expected is None:
            log.debug("manifest that was not expected", tag=str(tag), node=node)
            return
        while len(theirs := [done for (opener, _), done in self._opening.items() if opener == node]) >= OPENINGS_MAX:
            await theirs[0].wait()
        self._opening[node, tag] = trio.Event()
        self._intake.beside(self._open_beside, link, message, expected)

    async def _open_beside(self, link: Link, message: m.ManifestIs, expected: _Expected) -> None:
        try:
            await self._manifest(link, message, expected)
        finally:
            self._opening.pop((link.peer.node, message.tag)).set()

    async def _manifest(self, link: Link, message: m.ManifestIs, expected: _Expected) -> None:
        node, tag = link.peer.node, message.tag
        async with self._intake.turns.of(tag):
            try:
                if len(message.digests) <= _CHECKED_AT_ONCE_BYTES:
                    manifest = Manifest.checked(tag, message.size_bytes, message.digests)
                else:
                    manifest = await self._runtime.run_sync(Manifest.checked, tag, message.size_bytes, message.digests)
                if manifest.size_bytes != expected.size_bytes:
                    raise IntegrityError(f"{expected.size_bytes} bytes were proposed, not {manifest.size_bytes}")
                await self._open(link, manifest, self._expected.get((node, tag), expected).names)
            except (IntegrityError, StorageFull) as error:
                log.warning("job not opened", tag=str(tag), node=node, reason=str(error))
                link.post(
                    m.JobClosed(tag=tag, state=m.JobState.FAILED, proven=False, reason=sentence(f"refused: {error}"))
                )
            except LeaseLost as error:
                log.info("another storage node was quicker", tag=str(tag), node=node, reason=str(error))
                link.close("busy", "another storage node has this job")
            finally:
                if (node, tag) in self._expected:
                    self._forget_expected((node, tag))
        if link.alive:
            self._intake.join(link, tag)

    async def _open(self, link: Link, manifest: Manifest, names: tuple[str, ...]) -> None:
        """Open the job; somebody else may have opened or even finished it since "new" was said."""
        node, tag = link.peer.node, manifest.tag
        entry = self._shelf.live.get(tag)
        if tag in self._shelf.stored:
            link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=False, reason=""))
        elif entry is None:
            await self._intake.open_job(manifest, node, names)
        else:
            for name in names:
                if entry.job.may_claim(node, name):
                    await self._intake.claim(entry, node, name)

    # --- Proof ---

    def _challenge(self, link: Link, propose: m.Propose) -> None:
        token = self._runtime.token_bytes
        challenge = self._challenges.issue(
            link.peer.node,
            propose.tag,
            propose.name,
            propose.size_bytes,
            nonce=token(NONCE_BYTES),
            seed=token(SEED_BYTES),
            now=self._runtime.clock.monotonic(),
        )
        if challenge is None:
            self._refuse(
                link, propose.request, CODE_BUSY, "too many possession challenges are open; answer those first"
            )
            return
        link.post(
            m.DeskAnswer(
                request=propose.request,
                tag=propose.tag,
                state=m.DeskState.STORED,
                bitmap=b"",
                nonce=challenge.nonce,
                ranges=challenge.ranges,
            )
        )

    async def _proof(self, link: Link, proof: m.Proof) -> None:
        node, tag = link.peer.node, proof.tag
        asked: dict[Challenge, list[bytes]] = {}
        try:
            for challenge in self._challenges.open_for(node, tag, self._runtime.clock.monotonic()):
                async with await self._backend.open(tag) as opened:
                    ranges = [(span.offset, span.length) for span in challenge.ranges]
                    asked[challenge] = await opened.read_ranges(ranges)
        except ChunkMissing as error:
            await self._unreadable(link, proof, str(error))
            return
        except StorageUnavailable as error:
            self._refuse(link, proof.request, CODE_BUSY, f"the store does not answer: {error}; propose again")
            return
        granted = self._challenges.redeem(proof.digest, asked, self._runtime.clock.monotonic())
        if granted is None:
            log.warning("possession proof failed", tag=str(tag), node=node, challenges=len(asked))
            reason = "your answer does not show that you have this file" if asked else "no challenge is open for this"
            self._refuse(link, proof.request, CODE_REFUSED, f"{reason}; propose again")
            return
        try:
            async with self._intake.turns.of(tag):
                files = await self._ledger.add_name(tag, node, granted.name, self._runtime.clock.wall())
                self._shelf.put_stored(files)
        except StorageFull as error:
            self._refuse(link, proof.request, CODE_NO_SPACE, f"no room: {error}")
            return
        if not any(file.tag == tag for file in files):
            self._refuse(link, proof.request, CODE_BUSY, "it was removed in this moment; propose again")
            return
        log.info("stored already, possession proven", tag=str(tag), node=node, name=granted.name)
        link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=True, reason=""))

    async def _care(self, link: Link, message: m.Keep | m.Remove) -> None:
        """Do what a member wants done with what it put."""
        assert self._keeper is not None
        node = link.peer.node
        removed: tuple[Tag, ...] = ()
        kept: tuple[Tag, ...] = ()
        try:
            if isinstance(message, m.Keep):
                await self._keeper.keep(message.tag, message.name, node, message.seconds or None)
            else:
                gone = await self._keeper.remove(message.tag if message.tag is not None else message.name, node)
                removed, kept = tuple(gone.tags)[:RECORDS_PER_ANSWER_MAX], tuple(gone.kept)[:RECORDS_PER_ANSWER_MAX]
        except CommandError as error:
            self._refuse(link, message.request, error.code, error.sentence)
        except StorageFull as error:
            self._refuse(link, message.request, CODE_NO_SPACE, f"no room: {error}")
        else:
            link.post(m.Kept(request=message.request, removed=removed, kept=kept))

    async def _unreadable(self, link: Link, proof: m.Proof, reason: str) -> None:
        """A stored file could not be read. Only the store's word that it is not there, in this size, gives it up: one
        read may fail for many reasons. What is there is read again at once, and mended if it is rotten."""
        tag = proof.tag
        try:
            async with self._intake.turns.of(tag):
                file = self._shelf.stored.get(tag)
                if file is not None and await self._backend.size_of(tag) != file.size_bytes:
                    await self._lose(tag, reason)
                elif file is not None:
                    log.warning("a stored file could not be read; it is read again", tag=str(tag), reason=reason)
                    self._reread(tag)
        except StorageUnavailable as error:
            reason = str(error)
        self._refuse(link, proof.request, CODE_BUSY, f"the stored copy could not be read: {reason}; propose again")

    async def _lose(self, tag: Tag, reason: str) -> None:
        manifest = await self._ledger.manifest(tag)
        await lose(self._runtime, self._ledger, tag, reason)
        self._shelf.drop_stored(tag)
        await self._holdings.forget(tag)
        if manifest is not None:
            job = Job(manifest, state=m.JobState.FAILED, reason=reason)
            self._shelf.put_resting(job, self._runtime.clock.wall())

    def _refuse(self, link: Link, request: int, code: str, reason: str) -> None:
        log.info("refused at the desk", node=link.peer.node, code=code, reason=reason)
        link.post(m.Failure(request=request, code=code, reason=sentence(reason)))

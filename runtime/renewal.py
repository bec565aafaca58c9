"""Whom we trust and by which certificate we are trusted, kept up by what our tracker tells.

Decides when our certificate is renewed, and believes of revocations and of new authorities what those we trust already
have signed (identity.py), and nothing else. ``TrackerLink`` (heartbeat.py) runs it while the tracker is linked, and
hands it what comes. Specification: docs/protocol.md#membership.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio
from cryptography import x509

from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotTrusted, RemoteProtocolError, StorageFull
from runtime.identity import Credentials
from runtime.links import Links
from runtime.seam import Runtime

log = structlog.get_logger()

RENEW_RETRY_SECONDS = 60.0
RENEW_CHECK_SECONDS_MAX = 3600.0


class Renewal:
    """``ask`` asks the tracker (``TrackerLink.ask``); ``keep_credentials`` makes what is new durable."""

    def __init__(
        self,
        runtime: Runtime,
        links: Links,
        random: Random,
        ask: Callable[[Callable[[int], m.Message]], Awaitable[m.Message]],
        keep_credentials: Callable[[Credentials], Awaitable[None]] | None,
    ) -> None:
        self._runtime = runtime
        self._links = links
        self._random = random
        self._ask = ask
        self._keep_credentials = keep_credentials
        self._renew_soon = trio.Event()

    async def revoke(self, message: m.Revocations) -> None:
        """Shut out who was revoked. Raises ``RemoteProtocolError`` when that is not signed by whom we trust."""
        before = self._links.credentials
        try:
            after = before.with_revocations(message.revocations)
        except NotTrusted as error:
            raise RemoteProtocolError(str(error)) from error
        if after is not before:
            log.info("revocations", number=after.revocations_number, revoked=len(after.revoked_serials))
            await self._use(after)

    async def learn_authorities(self, told: m.Authorities) -> None:
        """Go by these authorities from now on. Raises as ``revoke``."""
        before = self._links.credentials
        try:
            after = before.with_authorities(told.authorities, told.proof, told.revocations)
        except NotTrusted as error:
            raise RemoteProtocolError(str(error)) from error
        if after.authorities != before.authorities:
            log.warning("authorities of the swarm changed", count=len(after.authorities))
        if after is not before:
            await self._use(after)
        if not after.of_the_newest:
            self._renew_soon.set()

    async def run(self, spread_seconds: Callable[[], float]) -> None:
        """Renew our certificate in time, while the tracker is linked. ``spread_seconds``: over how long a swarm spreads
        that was told in one moment to come for new ones."""
        while True:
            due = renewal_due(self._links.credentials.certificate) - self._runtime.clock.wall()
            if self._renew_soon.is_set():
                # The whole swarm was told in this moment.
                await trio.sleep(self._random.uniform(0, spread_seconds()))
                due = 0.0
            self._renew_soon = trio.Event()
            if due <= 0:
                try:
                    await self._renew_once()
                except (LinkLost, CommandError, NotTrusted) as error:
                    log.warning("certificate not renewed", reason=str(error))
                due = RENEW_RETRY_SECONDS
            with trio.move_on_after(min(max(due, RENEW_RETRY_SECONDS), RENEW_CHECK_SECONDS_MAX)):
                await self._renew_soon.wait()

    async def _renew_once(self) -> None:
        answer = await self._ask(lambda number: m.Renew(request=number))
        assert isinstance(answer, m.Renewed)
        before = self._links.credentials
        after = before.with_certificate(answer.certificate)
        if after.peer != before.peer:
            raise NotTrusted(f"a certificate for {after.peer.role} {after.node[:8]}, not for us")
        log.info("certificate renewed")
        await self._use(after)

    async def _use(self, credentials: Credentials) -> None:
        self._links.renew(credentials)
        if self._keep_credentials is not None:
            try:
                await self._keep_credentials(credentials)
            except StorageFull as error:
                # In force all the same; at the next start the tracker tells it again.
                log.warning("credentials not kept", reason=str(error))


def renewal_due(certificate: bytes) -> float:
    """Return when ``certificate`` (DER) should be renewed, in wall-clock seconds: after two thirds of its life."""
    parsed = x509.load_der_x509_certificate(certificate)
    begins = parsed.not_valid_before_utc.timestamp()
    ends = parsed.not_valid_after_utc.timestamp()
    return begins + (ends - begins) * 2 / 3

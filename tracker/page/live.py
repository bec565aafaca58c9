"""Pages that change while they are looked at: server-sent events, one picture a second for all who look at it.

Each view that somebody has open has a channel. It paints at most once a second, whoever many look, and never for more
than a twentieth of the time: a swarm so large that painting it is work is painted less often. A reader gets the whole
picture when it comes, then changes. Nothing is queued: a reader that has missed a change, because it reads slowly, gets
the whole newest picture instead. One that reads nothing at all is cut off by the server's socket (runtime/http.py).

Specification of what is sent: docs/operations.md#live.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import structlog
import trio
from starlette.types import Receive, Scope, Send

from runtime.seam import Clock
from tracker.page.picture import Change, Picture, difference, whole

log = structlog.get_logger()

PAINT_SECONDS = 1.0
# Painting may take this part of one core.
PAINT_SHARE = 0.05
# So often a reader that has nothing new to hear hears that we are there.
SIGN_SECONDS = 10.0
READERS_MAX = 1000
CHANNELS_MAX = 100
# What a browser waits before it comes back.
RETRY_MILLISECONDS = 2000
# Many readers are told one after the other within so long. All at once, they would keep heartbeats waiting while they
# are sent to.
SPREAD_SECONDS = 0.5
SPREAD_READERS_MIN = 8
_GOLDEN = 0.618034  # multiples of it, modulo 1, are spread evenly however many there are

SIGN = b": here\n\n"
GONE = b"event: gone\ndata: {}\n\n"

Paint = Callable[[str, str], Awaitable[Picture | None]]


def event_of(name: str, change: Change) -> bytes:
    """Return a change as it is sent: JSON has no line breaks, so one line is enough."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(change) + b"\n\n"


class Channel:
    """One view, for all who look at it. ``version`` counts pictures that look different, from 1."""

    def __init__(self) -> None:
        self.version = 0
        self.readers = 0
        self.ended = False
        self.gone = False  # it ended because there is no such thing (any more)
        self.changed = trio.Event()
        self._picture: Picture | None = None
        self._change: bytes | None = None  # from the picture before
        self._whole: bytes | None = None

    def show(self, picture: Picture) -> None:
        """This is how it looks now."""
        if self._picture is not None:
            change = difference(self._picture, picture)
            if change.empty:
                return
            self._change = event_of("change", change)
        self._picture, self._whole = picture, None
        self.version += 1
        self._tell()

    def end(self, *, gone: bool = False) -> None:
        """Nothing more comes; readers come back, unless what they look at is ``gone``."""
        self.ended = True
        self.gone = self.gone or gone
        self._tell()

    def news_for(self, version: int) -> bytes | None:
        """Return what a reader needs who has seen ``version`` (0: nothing); None: it is the same."""
        if version == self.version:
            return None
        if version and version == self.version - 1:
            return self._change
        if self._whole is None:
            assert self._picture is not None
            self._whole = event_of("whole", whole(self._picture))
        return self._whole

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Live:
    """All channels. ``run`` paints; it must be running while readers are served."""

    def __init__(self, clock: Clock, paint: Paint) -> None:
        self._clock = clock
        self._paint = paint
        self._channels: dict[tuple[str, str], Channel] = {}
        self._painters: trio.Nursery | None = None
        self._joined = 0

    @property
    def readers(self) -> int:
        """How many pages are open."""
        return sum(channel.readers for channel in self._channels.values())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Paint until cancelled; readers are sent away then."""
        async with trio.open_nursery() as painters:
            self._painters = painters
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._painters = None
                for channel in self._channels.values():
                    channel.end()

    def has_room(self, view: str, what: str) -> bool:
        """Whether one more reader can be served."""
        known = (view, what) in self._channels or len(self._channels) < CHANNELS_MAX
        return known and self.readers < READERS_MAX and self._painters is not None

    async def read(self, view: str, what: str) -> AsyncGenerator[bytes, None]:
        """Yield what a reader is to be sent, for ever; ``has_room`` must have said yes."""
        channel = self._join(view, what)
        self._joined += 1
        phase = self._joined * _GOLDEN % 1
        seen = 0
        try:
            yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
            while not channel.ended:
                # The event first: what is shown while we send is not missed.
                changed = channel.changed
                news, seen = channel.news_for(seen), channel.version
                if news is not None:
                    yield news
                    continue
                with trio.move_on_after(SIGN_SECONDS) as waiting:
                    await changed.wait()
                if waiting.cancelled_caught:
                    yield SIGN
                elif channel.readers >= SPREAD_READERS_MIN:
                    await trio.sleep(SPREAD_SECONDS * phase)
            if channel.gone:
                yield GONE
        finally:
            channel.readers -= 1

    def _join(self, view: str, what: str) -> Channel:
        channel = self._channels.get((view, what))
        if channel is None:
            assert self._painters is not None
            channel = self._channels[(view, what)] = Channel()
            self._painters.start_soon(self._work, view, what, channel, name=f"paint {view}")
        channel.readers += 1
        return channel

    async def _work(self, view: str, what: str, channel: Channel) -> None:
        try:
            while channel.readers:
                begun = self._clock.monotonic()
                picture = await self._paint(view, what)
                if picture is None:
                    channel.end(gone=True)
                    return
                channel.show(picture)
                took = self._clock.monotonic() - begun
                await trio.sleep(max(PAINT_SECONDS, took / PAINT_SHARE))
        except Exception:  # a page that cannot be painted must not end the tracker it shows
            log.exception("page not painted", view=view, what=what)
        finally:
            del self._channels[(view, what)]
            channel.end()


class LiveAnswer:
    """The ASGI side of one view; the rest of the path says of what."""

    def __init__(self, live: Live, view: str) -> None:
        self._live = live
        self._view = view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        what = scope["path_params"].get("what", "")
        if not self._live.has_room(self._view, what):
            headers = [(b"content-type", b"text/plain"), (b"retry-after", b"30")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": b"Too many pages are open.\n"})
            return
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        async with trio.open_nursery() as serving:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                serving.cancel_scope.cancel()

            serving.start_soon(watch, name="is the reader there")
            events = self._live.read(self._view, what)
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                # By hand: an async generator that is left is closed by the garbage collector, which trio minds.
                with trio.CancelScope(shield=True):
                    await events.aclose()
            serving.cancel_scope.cancel()

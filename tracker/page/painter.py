"""From snapshots to pictures: which regions a view has, and which piece of HTML shows what.

A piece's id is made of ids alone, never of a name. The templates in templates/parts.html make the HTML; they escape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from protocol.ids import NodeId, Tag, parse_node_id
from runtime.terminal import escape_controls
from tracker import statistics as s
from tracker.page.cells import cells_of, chunks_per_cell
from tracker.page.picture import Picture, Pieces
from tracker.page.words import make_environment
from tracker.sight import Sight


class Painter:
    """Paints views, and whole pages around them."""

    def __init__(self, sight: Sight, assets: dict[str, str]) -> None:
        self._sight = sight
        self._environment: Environment = make_environment()
        self._environment.globals["asset"] = assets.__getitem__
        self._parts: Any = self._environment.get_template("parts.html").module

    async def picture(self, view: str, what: str) -> Picture | None:
        """Return a view: overview, job, node or file. ``what``: a tag, a node id, or nothing. None: there is no such
        thing."""
        if view == "overview":
            return self.overview(await self._sight.overview(), self._sight.history())
        if view == "node":
            try:
                node = await self._sight.node(parse_node_id(what))
            except ValueError:
                return None
            return None if node is None else self.node(node)
        try:
            tag = Tag.parse(what)
        except ValueError:
            return None
        if view == "file":
            file = await self._sight.file(tag)
            return None if file is None else self.file(file)
        job, shown = await self._sight.job(tag), await self._sight.job_map(tag)
        return None if job is None or shown is None else self.job(job, shown)

    async def page(self, view: str, what: str) -> str | None:
        """Return a view as a whole page. None: there is no such thing."""
        picture = await self.picture(view, what)
        if picture is None:
            return None
        overview = await self._sight.overview()
        extra: dict[str, Any] = {}
        if view == "file":
            file = await self._sight.file(Tag.parse(what))
            extra["link"] = file.link if file is not None else ""
        if view == "overview":
            extra["history"] = self._sight.history()
        live = "/live/overview" if view == "overview" else f"/live/{view}s/{what}"
        return self._render(f"{view}.html", picture=picture, about=overview.about, live=live, what=what, **extra)

    async def nodes(self, after: NodeId | None) -> str:
        """Return a page of the list of nodes."""
        return await self._list("nodes.html", await self._sight.nodes(after), after)

    async def files(self, after: Tag | None) -> str:
        """Return a page of the list of files."""
        return await self._list("files.html", await self._sight.files(after), after)

    async def sorry(self, sentence: str) -> str:
        """Return a page that says why there is nothing to see."""
        overview = await self._sight.overview()
        picture = Picture(title="Not found", regions={})
        return self._render("sorry.html", picture=picture, about=overview.about, live="", sentence=sentence)

    async def _list(self, template: str, shown: s.NodeList | s.FileList, after: object) -> str:
        overview = await self._sight.overview()
        picture = Picture(title="Nodes" if isinstance(shown, s.NodeList) else "Files", regions={})
        return self._render(template, picture=picture, about=overview.about, live="", shown=shown, after=after)

    def _render(self, template: str, **values: Any) -> str:
        picture: Picture = values["picture"]

        def region(name: str, tag: str = "div", kind: str = "") -> Markup:
            # The pieces were made by our own templates, which escaped what is not ours.
            pieces = Markup("\n").join(Markup(html) for _, html in picture.regions[name])
            return Markup('<{0} data-region="{1}" class="{2}">{3}</{0}>').format(tag, name, kind, pieces)

        return self._environment.get_template(template).render(parts=self._parts, region=region, **values)

    # --- views ---

    def overview(self, shown: s.TrackerStatistics, history: s.History) -> Picture:
        """Return everything at a glance."""
        parts = self._parts
        busy = f"{shown.job_count} open · " if shown.job_count else ""
        jobs = [self._piece(_job_id(job), parts.job_card, job) for job in shown.jobs]
        if not jobs:
            jobs = [self._piece("jobs-none", parts.no_jobs)]
        elif shown.job_count > len(shown.jobs):
            jobs.append(self._piece("jobs-more", parts.more, shown.job_count - len(shown.jobs)))
        nodes = [self._piece(f"row-{node.node}", parts.node_row, node) for node in shown.nodes]
        files = [self._piece(f"row-{tag.tag}", parts.file_row, tag) for tag in shown.tags]
        return Picture(
            title=f"{busy}{escape_controls(shown.about.name)}",
            regions={
                "rate": (self._piece("rate-now", parts.rate_now, shown),),
                "tiles": tuple(
                    self._piece(f"tile-{name}", parts.tile, name, shown)
                    for name in ("uploads", "nodes", "files", "room", "orders", "uptime")
                ),
                "jobs": tuple(jobs),
                "ended": tuple(self._piece(f"ended-{_job_id(job)}", parts.ended_row, job) for job in shown.ended_jobs)
                or (self._piece("ended-none", parts.none_row, "Nothing has ended yet.", 5),),
                "storages": tuple(
                    self._piece(f"store-{node.node}", parts.storage_card, node) for node in shown.storages
                )
                or (self._piece("storages-none", parts.no_storages),),
                "nodes": tuple(nodes) or (self._piece("nodes-none", parts.no_nodes, 5),),
                "nodes-more": self._more("nodes-rest", shown.node_count - len(nodes), "/nodes", "All nodes"),
                "files": tuple(files) or (self._piece("files-none", parts.none_row, "Nobody holds anything yet.", 5),),
                "files-more": self._more("files-rest", shown.tag_count - len(files), "/files", "All files"),
                "foot": (self._piece("foot-counts", parts.foot, shown),),
            },
            values={"graph": {str(point.at): point.bytes_per_second for point in history.points}},
        )

    def job(self, shown: s.JobDetail, chunks: s.MapStatistics) -> Picture:
        """Return one upload, with each of its chunks."""
        parts, job = self._parts, shown.job
        places = {one.node: one.place for one in job.pushed}
        names = {str(one.place): escape_controls(one.name or one.node[:10]) for one in job.pushed}
        return Picture(
            title=f"{_percent(job)}{_plain(job.name, job.tag)}",
            regions={
                "head": (self._piece("job-head", parts.job_head, job),),
                "tiles": tuple(
                    self._piece(f"tile-{name}", parts.job_tile, name, job, shown)
                    for name in ("rate", "left", "copies", "helpers", "storage", "time")
                ),
                "map-note": (self._piece("map-counts", parts.map_note, chunks, chunks_per_cell(chunks.chunks)),),
                "pushed": tuple(self._piece(f"push-{one.node}", parts.push_row, one, job) for one in job.pushed)
                or (self._piece("push-none", parts.none_row, "Nobody has pushed anything yet.", 4),),
                "holders": self._holders(shown.holders, job.chunks, shown.holder_count),
                "events": self._events(shown.events),
            },
            values={
                "cells": {str(place): cell for place, cell in enumerate(cells_of(chunks, places))},
                "names": names,
                "map": {
                    "chunks": chunks.chunks,
                    "per_cell": chunks_per_cell(chunks.chunks),
                    "chunk_bytes": chunks.chunk_bytes,
                },
            },
        )

    def node(self, shown: s.NodeDetail) -> Picture:
        """Return one node."""
        parts, node = self._parts, shown.node
        return Picture(
            title=_plain(node.name, node.node),
            regions={
                "head": (self._piece("node-head", parts.node_head, node),),
                "tiles": tuple(
                    self._piece(f"tile-{name}", parts.node_tile, name, shown)
                    for name in ("rate", "heard", "holds", "room", "version", "trip")
                ),
                "orders": tuple(
                    self._piece(f"order-{order.tag}-{order.storage}", parts.order_row, order) for order in shown.orders
                )
                or (self._piece("orders-none", parts.none_row, "No order is in force.", 4),),
                "jobs": tuple(self._piece(_job_id(job), parts.job_card, job) for job in shown.jobs)
                or (self._piece("jobs-none", parts.none_note, "It uploads nothing now, and stores nothing."),),
                "held": tuple(self._piece(f"held-{one.tag}", parts.held_row, one) for one in shown.held)
                or (self._piece("held-none", parts.none_row, "It holds nothing.", 4),),
                "held-more": self._more("held-rest", node.tags - len(shown.held), "", ""),
                "events": self._events(shown.events, of_node=True),
            },
        )

    def file(self, shown: s.FileDetail) -> Picture:
        """Return one file."""
        parts, file = self._parts, shown.file
        return Picture(
            title=_plain(file.names[0] if file.names else "", file.tag),
            regions={
                "head": (self._piece("file-head", parts.file_head, file),),
                "tiles": tuple(
                    self._piece(f"tile-{name}", parts.file_tile, name, shown)
                    for name in ("size", "copies", "holders", "storage")
                ),
                "jobs": () if shown.job is None else (self._piece(_job_id(shown.job), parts.job_card, shown.job),),
                "holders": self._holders(file.holders, file.chunks, file.holders_complete + file.holders_partial),
                "events": self._events(shown.events),
            },
        )

    # --- pieces ---

    def _piece(self, piece: str, macro: Any, *values: Any) -> tuple[str, str]:
        return piece, str(macro(piece, *values)).strip()

    def _more(self, piece: str, count: int, path: str, words: str) -> Pieces:
        return (self._piece(piece, self._parts.more_link, count, path, words),) if count > 0 else ()

    def _holders(self, holders: Iterable[s.HolderStatistics], chunks: int, count: int) -> Pieces:
        pieces = [self._piece(f"holder-{one.node}", self._parts.holder_row, one, chunks) for one in holders]
        if count > len(pieces):
            pieces.append(self._piece("holders-more", self._parts.none_row, f"and {count - len(pieces)} more", 3))
        return tuple(pieces) or (self._piece("holders-none", self._parts.none_row, "Nobody holds any of it.", 3),)

    def _events(self, events: Iterable[s.EventStatistics], *, of_node: bool = False) -> Pieces:
        pieces: dict[str, tuple[str, str]] = {}
        for event in events:
            # The same thing may happen twice in a second; then it is shown once.
            piece = f"event-{event.at}-{event.what}-{event.node or ''}-{event.tag or ''}"
            pieces[piece] = self._piece(piece, self._parts.event_row, event, of_node)
        return tuple(pieces.values()) or (self._piece("events-none", self._parts.none_item, "Nothing happened yet."),)


def _job_id(job: s.JobStatistics) -> str:
    return f"job-{job.tag}-{job.storage}"


def _plain(name: str, identity: str) -> str:
    return escape_controls(name) or identity[:10]


def _percent(job: s.JobStatistics) -> str:
    return f"{100 * job.chunks_stored // job.chunks} % · " if job.state in ("open", "committing") else ""

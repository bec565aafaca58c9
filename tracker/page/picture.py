"""A page as it looks at one moment, and what must change to make another moment of it. Pure.

A picture has regions, each a row of pieces of HTML with ids, and values, which a script draws. A page without scripts
is a picture put into a template; a live page is sent a whole picture and then changes, which name only the pieces that
look different. Applying a change to the picture it starts from gives the other one: ``applied``, which tests hold the
script to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Pieces = tuple[tuple[str, str], ...]  # id and HTML of each piece, in their order
Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """See the module."""

    title: str
    regions: Mapping[str, Pieces]
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs. ``title`` None: the same. ``order``: for regions whose pieces are others, their ids. ``html``:
    pieces that are new or look different. ``set`` and ``gone``: values by name."""

    title: str | None
    order: dict[str, list[str]]
    html: dict[str, str]
    set: dict[str, dict[str, Any]]
    gone: dict[str, list[str]]

    @property
    def empty(self) -> bool:
        """Whether both pictures are the same."""
        return self.title is None and not (self.order or self.html or self.set or self.gone)


def whole(picture: Picture) -> Change:
    """Return what makes ``picture`` of nothing."""
    return difference(Picture(title="", regions={}), picture)


def difference(old: Picture, new: Picture) -> Change:
    """Return what makes ``new`` of ``old``. Regions do not vanish."""
    before = {piece: html for pieces in old.regions.values() for piece, html in pieces}
    order, html = {}, {}
    for region, pieces in new.regions.items():
        ids = [piece for piece, _ in pieces]
        if region not in old.regions or ids != [piece for piece, _ in old.regions[region]]:
            order[region] = ids
        html.update({piece: text for piece, text in pieces if before.get(piece) != text})
    changed, gone = {}, {}
    for name, values in new.values.items():
        known = old.values.get(name, {})
        different = {key: value for key, value in values.items() if key not in known or known[key] != value}
        if different:
            changed[name] = different
        missing = [key for key in known if key not in values]
        if missing:
            gone[name] = missing
    return Change(title=None if old.title == new.title else new.title, order=order, html=html, set=changed, gone=gone)


def applied(old: Picture, change: Change) -> Picture:
    """Return what ``change`` makes of ``old``, as the page's script does it."""
    html = {piece: text for pieces in old.regions.values() for piece, text in pieces} | change.html
    ids = {region: [piece for piece, _ in pieces] for region, pieces in old.regions.items()} | change.order
    values = {name: dict(values) for name, values in old.values.items()}
    for name, keys in change.gone.items():
        for key in keys:
            del values[name][key]
    for name, different in change.set.items():
        values.setdefault(name, {}).update(different)
    return Picture(
        title=old.title if change.title is None else change.title,
        regions={region: tuple((piece, html[piece]) for piece in pieces) for region, pieces in ids.items()},
        values=values,
    )

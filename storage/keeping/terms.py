"""What is due to go: names whose time is over, and files that no name leads to any more. Pure: ``now`` is handed in.

    a name            holds until its put said, else for ``expires_seconds``; put again it holds anew
    when it ends      all its versions end with it: an earlier one must not come back under a name that is over
    earlier versions  end ``unnamed_seconds`` after a newer one took their place, or when their put said
    a file            goes when the last name that led to it has ended
    never named       put without a name: goes after ``unnamed_seconds``

Both settings may be None: then nothing ends by them. Times are the wall clock's, because they must outlast a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.ids import Tag
from storage.ledger.base import Binding
from storage.ledger.keeping import FOR_EVER


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings of a storage node. None: for ever."""

    expires_seconds: float | None = None
    unnamed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """``positions``: names that end now; ``tags``: files that go if no name is left for them; ``next_at``: when to look
    again, at the latest."""

    positions: tuple[int, ...]
    tags: tuple[Tag, ...]
    next_at: float


def ends_at(binding: Binding, terms: Terms) -> float:
    """Return when a name ends that no newer file has taken."""
    if binding.until is not None:
        return math.inf if binding.until == FOR_EVER else binding.until
    return math.inf if terms.expires_seconds is None else binding.stored_at + terms.expires_seconds


def due(bindings: Iterable[Binding], stored: Mapping[Tag, int], terms: Terms, now: float) -> Due:
    """Return what goes now. ``bindings`` in the order of their positions; ``stored``: since when files are."""
    unnamed_seconds = math.inf if terms.unnamed_seconds is None else terms.unnamed_seconds
    versions: dict[str, list[Binding]] = {}
    for binding in bindings:
        versions.setdefault(binding.name, []).append(binding)
    ended: list[Binding] = []
    kept: list[Binding] = []
    next_at = math.inf
    for rows in versions.values():
        name_ends_at = ends_at(rows[-1], terms)
        for row, newer in zip(rows, [*rows[1:], None], strict=True):
            end = name_ends_at
            if newer is not None:
                # The node's own default is about names; a version has only what its put said of it.
                own = math.inf if row.until in (None, FOR_EVER) else row.until
                assert own is not None
                end = min(end, own, newer.stored_at + unnamed_seconds)
            if end <= now:
                ended.append(row)
            else:
                kept.append(row)
                next_at = min(next_at, end)
    named = {row.tag for row in kept}
    losing = {row.tag for row in ended}
    tags = []
    for tag, since in stored.items():
        if tag in named:
            continue
        end = now if tag in losing else since + unnamed_seconds
        if end <= now:
            tags.append(tag)
        else:
            next_at = min(next_at, end)
    return Due(tuple(sorted(row.position for row in ended)), tuple(sorted(tags)), next_at)

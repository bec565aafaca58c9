"""Who is to put which chunk into the store now, who is too slow, who is served the normal way again. Pure.

A helper has a few grants at a time. One that idles doubles what another one has had for far too long; one that says
nothing for minutes loses its grant; one that fails twice in a row is asked for blocks instead. What only one helper has
goes first.

Who is given a chunk that another one has been given, too, is not credited with it: whose bytes the store got, it does
not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.bitmap import Bitmap
from protocol.ids import NodeId

# One travels while the next one's way is paved; before the first has come we do not know whether it can at all.
AT_ONCE_FIRST = 1
AT_ONCE = 3
# Nothing said for so long: it is taken back.
SILENT_SECONDS_MAX = 120.0
# An idle helper doubles what another one has had for so many times the usual, and at least so long.
SLOW_TIMES = 3.0
SLOW_SECONDS_MIN = 2.0
# So many in a row did not come: this helper is asked for blocks instead.
FAILURES_MAX = 2


@dataclass(slots=True)
class Helper:
    """A link that may put parts. ``out``: its grants, and since when; ``seconds``: how long one takes it."""

    node: NodeId
    out: dict[int, float] = field(default_factory=dict)
    put: int = 0
    seconds: float | None = None
    failures: int = 0

    @property
    def normal(self) -> bool:
        """Whether it is served the normal way."""
        return self.failures >= FAILURES_MAX

    @property
    def room(self) -> int:
        """How many more grants it may have."""
        return (AT_ONCE if self.put else AT_ONCE_FIRST) - len(self.out)


class Grants:
    """The grants of one job. Helpers are numbered by whoever asks; all methods take ``now`` in seconds."""

    def __init__(self) -> None:
        self.helpers: dict[int, Helper] = {}
        self._nodes: dict[int, set[NodeId]] = {}  # chunk -> to whom it was granted since it was last fresh

    def join(self, number: int, node: NodeId) -> None:
        """A link may put parts."""
        self.helpers.setdefault(number, Helper(node))

    def leave(self, number: int) -> list[int]:
        """A link is gone. Return the chunks that nobody is putting any more."""
        helper = self.helpers.pop(number, None)
        return [] if helper is None else [chunk for chunk in helper.out if not self._is_out(chunk)]

    def next(self, fresh: Mapping[int, Bitmap], held: Mapping[int, Bitmap], now: float) -> list[tuple[int, int]]:
        """Return (helper, chunk) to be granted now.

        ``fresh``: what of each helper's chunks nobody brings yet; ``held``: all it has.
        """
        granted: list[tuple[int, int]] = []
        taken: set[int] = set()
        moved = True
        while moved:
            moved = False
            for number, helper in self.helpers.items():
                if helper.normal or helper.room <= 0:
                    continue
                chunk = self._rarest(fresh.get(number), fresh, taken)
                if chunk is None:
                    chunk = self._slowest(number, helper, held.get(number), now)
                if chunk is None:
                    continue
                helper.out[chunk] = now
                self._nodes.setdefault(chunk, set()).add(helper.node)
                taken.add(chunk)
                granted.append((number, chunk))
                moved = True
        return granted

    def came(self, number: int, chunk: int, now: float) -> tuple[NodeId | None, list[int]]:
        """The store has shown a part that this helper says it put. Return whose work it is, if that is certain, and the
        others that still have the grant."""
        helper = self.helpers.get(number)
        if helper is not None and chunk in helper.out:
            seconds = now - helper.out.pop(chunk)
            helper.seconds = seconds if helper.seconds is None else 0.7 * helper.seconds + 0.3 * seconds
            helper.put += 1
            helper.failures = 0
        makers = self._nodes.pop(chunk, set())
        others = [other for other, known in self.helpers.items() if chunk in known.out]
        maker = next(iter(makers)) if len(makers) == 1 else None
        return maker, others

    def failed(self, number: int, chunk: int) -> bool:
        """This helper does not put it. Return whether nobody does now."""
        helper = self.helpers.get(number)
        if helper is None or helper.out.pop(chunk, None) is None:
            return False
        helper.failures += 1
        return not self._is_out(chunk)

    def refused(self, number: int) -> None:
        """This helper will not do it at all."""
        helper = self.helpers.get(number)
        if helper is not None:
            helper.failures = FAILURES_MAX

    def dropped(self, number: int, chunk: int) -> None:
        """This helper left a grant that was recalled."""
        helper = self.helpers.get(number)
        if helper is not None:
            helper.out.pop(chunk, None)

    def silent(self, now: float) -> list[tuple[int, int]]:
        """Return the grants that are to be taken back."""
        return [
            (number, chunk)
            for number, helper in self.helpers.items()
            for chunk, since in helper.out.items()
            if now - since > SILENT_SECONDS_MAX
        ]

    def _is_out(self, chunk: int) -> bool:
        out = any(chunk in helper.out for helper in self.helpers.values())
        if not out:
            self._nodes.pop(chunk, None)
        return out

    def _rarest(self, mine: Bitmap | None, fresh: Mapping[int, Bitmap], taken: set[int]) -> int | None:
        if not mine:
            return None
        # What nobody else has comes first.
        alone = mine
        for other in fresh.values():
            if other is not mine:
                alone = alone - other
        for chunks in (alone, mine):
            for chunk in chunks:
                if chunk not in taken:
                    return chunk
        return None

    def _slowest(self, number: int, helper: Helper, held: Bitmap | None, now: float) -> int | None:
        """What an idle helper may double."""
        if held is None or helper.out:
            return None
        usual = helper.seconds if helper.seconds is not None else SLOW_SECONDS_MIN
        late: list[tuple[float, int]] = []
        for other, known in self.helpers.items():
            for chunk, since in known.out.items():
                if other == number or chunk not in held or len(self._nodes.get(chunk, ())) > 1:
                    continue
                if now - since > max(SLOW_SECONDS_MIN, SLOW_TIMES * usual):
                    late.append((since, chunk))
        return min(late)[1] if late else None

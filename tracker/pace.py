"""How often nodes beat, and what a tracker with too much to do leaves undone. Pure: it is told the time and the load.

Beats cost a tracker the most, and they are the one load it can choose: by the interval it gives with each answer. So
many beats a second are aimed at (``beats_per_second_max``), and the interval grows with the number of nodes to hold to
it. When the tracker falls behind all the same (its own wake-ups come late), the interval is stretched further, quickly,
and let go slowly. Each node is given a little less than the interval, by lot and more of it the more nodes there are
for it to spread: those that came back together after a restart must not stay together.

Beats are what keeps nodes known; inventories can wait. Behind by more than ``LATE_SECONDS``, none is asked for in full,
and none that comes is applied; the next beat after it shows the gap, and then, when there is time, everything is asked
for. Not so with a few nodes: something else on the machine made us late, and until their next beats nobody would find
what they put just now.

Considered: measuring the processor instead. Another program beside us makes us late all the same, and we would not see
it; and a tracker that uses all of its core and is late for nothing has nothing to correct.
"""

from __future__ import annotations

from dataclasses import dataclass

# What one core does with ease, beside everything else it has to do; docs/benchmarks.md has what it can do at most.
BEATS_PER_SECOND_MAX = 2000.0
# A wake-up that is so late means that everybody waits so long: half of what a person notices.
LATE_SECONDS = 0.25
STRAIN_MAX = 8.0
STRAIN_STEP = 2.0
RELIEF_STEP = 0.9
# Nodes take up to a fifth off by themselves.
JITTER_MAX = 0.3
# A tracker that has less than this share of what it aims at has nobody to spread, and is not late because of its nodes.
QUIET = 0.05


@dataclass(frozen=True, slots=True)
class Pace:
    """What holds now. ``interval_seconds``: beat so often; ``jitter``: up to this share sooner; ``inventories``:
    whether there is time for them."""

    interval_seconds: float
    jitter: float
    inventories: bool
    strain: float = 1.0

    def interval_for(self, lot: float) -> float:
        """Return the interval of one answer; ``lot``: a draw from 0 to 1."""
        return self.interval_seconds * (1 - self.jitter * lot)


def begin(interval_seconds: float) -> Pace:
    """Return the pace of a tracker that nobody asks anything of; ``interval_seconds`` is what the operator wants."""
    return Pace(interval_seconds, 0.0, inventories=True)


def next_pace(
    before: Pace,
    *,
    wanted_seconds: float,
    most_seconds: float,
    links: int,
    late_seconds: float,
    beats_per_second_max: float = BEATS_PER_SECOND_MAX,
) -> Pace:
    """Return the pace from now on. Called about once a second: ``links`` are open now, and our last wake-up came
    ``late_seconds`` too late. Between ``wanted_seconds`` and ``most_seconds`` is what the interval may be."""
    if late_seconds > LATE_SECONDS:
        strain = min(STRAIN_MAX, before.strain * STRAIN_STEP)
    else:
        strain = max(1.0, before.strain * RELIEF_STEP)
    needed = links / beats_per_second_max
    interval = min(most_seconds, max(wanted_seconds, needed) * strain)
    # A swarm that fills the aim is spread as far as may be; a few nodes need no spreading.
    crowd = links / (wanted_seconds * beats_per_second_max)
    fullness = max(crowd, (strain - 1) / (STRAIN_MAX - 1))
    jitter = JITTER_MAX * min(1.0, fullness) if fullness >= QUIET else 0.0
    return Pace(interval, jitter, inventories=crowd < QUIET or late_seconds <= LATE_SECONDS, strain=strain)

"""How the crowd grows: production pickers with 5 to 1,000 nodes in virtual time (tests/support).

    python -m bench.growth [NODES...] [--scenario NAME] [--sparse]

    alone      nobody helps
    holders    everybody has the file, lines of 20 Mbit/s
    unequal    everybody has it, lines of 5, 10, 20, 50 and 100 Mbit/s in turn
    relays     one has it, the others lend; they fetch over ports of a LAN of 1 Gbit/s, from each other too. The tracker
               asks no more than 32 for one job, so that the others are no lines of use
    crowd      everybody downloads what one puts, no LAN: each of them from eight others too, and from storage
    free       the same; the uploader vanishes at the moment when every chunk is somewhere else

The file grows with the lines that are of use, so that the bound stays at some twenty seconds. Latencies: 20 to 100 ms
for those who only push, 10 to 40 ms in the others. Columns: seconds to "stored" over the bound, to "all have it" over
the bound, to "free to go" over the time the uploader's own line needs; what left the uploader, in parts of the file;
what storage received in vain; and processor seconds of the whole simulation.

``--sparse``: a word of a connection that has nothing else to send goes right into the line's queue. Otherwise it waits
until each other connection of its node had its turn: a second, where a thousand of them share a line of 1 Gbit/s.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from support.crowd_lines import WORD_BYTES
from support.crowd_world import CrowdWorld, Member
from support.picker_world import MBIT, Sender, World

from protocol.limits import MIB
from tracker.matchmaking import RELAYS_PER_JOB_MAX

NODES = (5, 9, 50, 200, 1000)
SCENARIOS = ("alone", "holders", "unequal", "relays", "crowd", "free")
BOUND_SECONDS = 20.0
UP = 20 * MBIT
LAN = 1000 * MBIT


@dataclass(frozen=True)
class Row:
    """One simulated crowd."""

    scenario: str
    nodes: int
    mib: int
    ratio: float
    wasted_share: float
    all_ratio: float | None = None
    free_ratio: float | None = None
    uploader_share: float | None = None


def latency(place: int) -> float:
    """Return 20, 75, 30, 85, ... 100 ms: neighbours differ."""
    return 0.02 + 0.08 * (place * 11 % 16) / 15


def size_of(rate: float) -> int:
    """Return the bytes of a file that takes the bound at ``rate`` bytes per second, in whole MiB."""
    return max(1, round(rate * BOUND_SECONDS / MIB)) * MIB


def push(scenario: str, nodes: int) -> Row:
    """Who has the file pushes it."""
    rates = [(5, 10, 20, 50, 100)[place % 5] if scenario == "unequal" else 20 for place in range(nodes)]
    size = size_of(sum(rates) * MBIT)
    outcome = World(size, [Sender(rate * MBIT, latency(place)) for place, rate in enumerate(rates)]).run()
    return Row(scenario, nodes, size // MIB, outcome.ratio, outcome.wasted_share)


def spread(scenario: str, nodes: int, sparse_bytes: int) -> Row:
    """One has it; the others fetch it, for themselves or for storage."""
    lending = scenario == "relays"
    lines = min(nodes, RELAYS_PER_JOB_MAX + 1) if lending else nodes
    members = [
        Member(
            UP,
            latency(place) * 0.4,
            lan=LAN if lending else None,
            has=place == 0,
            lends=lending and place > 0,
            wants=not lending and place > 0,
        )
        for place in range(lines)
    ]
    size = size_of(UP * lines if lending else UP)
    bound_seconds = size / (UP * lines if lending else UP)
    outcome = CrowdWorld(size, members, leave_when_free=scenario == "free", sparse_bytes=sparse_bytes).run()
    return Row(
        scenario,
        nodes,
        size // MIB,
        outcome.stored_seconds / bound_seconds,
        outcome.wasted_bytes / size,
        None if lending else outcome.all_seconds / bound_seconds,
        outcome.free_seconds / (size / UP),
        (outcome.uploader_to_storage_bytes + outcome.uploader_to_peers_bytes) / size,
    )


def shown(row: Row, seconds: float) -> str:
    """Return a row of the table of docs/benchmarks.md."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    return (
        f"| {row.scenario} | {row.nodes} | {row.mib} | {row.ratio:.3f} | {cell(row.all_ratio)} | {cell(row.free_ratio)}"
        f" | {cell(row.uploader_share)} | {100 * row.wasted_share:.2f} % | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="*", type=int, default=NODES)
    parser.add_argument("--scenario", choices=SCENARIOS)
    parser.add_argument("--sparse", action="store_true", help="words of connections that are idle wait for no turn")
    options = parser.parse_args()
    print("| scenario | nodes | MiB | stored | all | free | uploader sent | wasted | CPU s |")
    print("|" + " --- |" * 9)
    for scenario in [options.scenario] if options.scenario else SCENARIOS:
        for nodes in [1] if scenario == "alone" else options.nodes:
            began = time.process_time()
            if scenario in ("relays", "crowd", "free"):
                row = spread(scenario, nodes, WORD_BYTES * options.sparse)
            else:
                row = push(scenario, nodes)
            print(shown(row, time.process_time() - began), flush=True)


if __name__ == "__main__":
    main()

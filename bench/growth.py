"""How the crowd grows: the production picker with 5 to 1,000 senders, in virtual time (tests/support/picker_world.py).

    python -m bench.growth [NODES...]

    holders    everybody has the file, lines of 20 Mbit/s
    unequal    everybody has it, lines of 5, 10, 20, 50 and 100 Mbit/s in turn
    relays     one has it, the others lend; they fetch over a LAN of 10 Gbit/s, the uploader's port

The file grows with the crowd, so that the bound stays at some twenty seconds. Latencies are 20 to 100 ms. Also printed:
processor seconds that the picker itself took, which a storage node with that many links has to spend.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.picker_world import MBIT, Sender, World  # the path comes first

from protocol.limits import MIB

NODES = (5, 9, 50, 200, 1000)
BOUND_SECONDS = 20.0
LAN_BYTES_PER_SECOND = 10_000 * MBIT


class RelayWorld(World):
    """The first sender has everything, the others lend: what they are assigned comes to them over one LAN."""

    def __init__(self, size_bytes: int, senders: list[Sender]) -> None:
        super().__init__(size_bytes, senders)
        self._lan_free_at = 0.0
        for number in range(2, len(senders) + 1):
            self.picker.lending.join(number)

    def _tick(self) -> None:
        self._assign()
        super()._tick()

    def _assign(self) -> None:
        for number, chunks in self.picker.assignments(self.now):
            for chunk in chunks:
                begun_at = max(self.now + self._lines[number].sender.latency_seconds, self._lan_free_at)
                self._lan_free_at = begun_at + self.layout.bytes_of(chunk) / LAN_BYTES_PER_SECOND
                self._at(self._lan_free_at, lambda number=number, chunk=chunk: self._fetched(number, chunk))

    def _fetched(self, number: int, chunk: int) -> None:
        self.picker.add_have(number, (chunk,))
        self.picker.lending.offered(number, (chunk,), self.now)
        self._assign()
        self._request_from(number)


def latency(place: int) -> float:
    """Return 20, 75, 30, 85, ... 100 ms: neighbours differ."""
    return 0.02 + 0.08 * (place * 11 % 16) / 15


def world_of(scenario: str, nodes: int) -> World:
    """Return a crowd that takes about twenty seconds."""
    rates = [(5, 10, 20, 50, 100)[place % 5] if scenario == "unequal" else 20 for place in range(nodes)]
    size = max(1, round(sum(rates) * MBIT * BOUND_SECONDS / MIB)) * MIB
    if scenario != "relays":
        return World(size, [Sender(rate * MBIT, latency(place)) for place, rate in enumerate(rates)])
    nothing: tuple[int, ...] = ()
    return RelayWorld(
        size, [Sender(rate * MBIT, latency(place), None if place == 0 else nothing) for place, rate in enumerate(rates)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="*", type=int, default=NODES)
    parser.add_argument("--scenario", choices=["holders", "unequal", "relays"])
    options = parser.parse_args()
    print(f"{'scenario':<10}{'nodes':>6}{'MiB':>8}{'bound s':>9}{'ratio':>8}{'wasted %':>10}{'CPU s':>8}")
    for scenario in [options.scenario] if options.scenario else ["holders", "unequal", "relays"]:
        for nodes in options.nodes:
            world = world_of(scenario, nodes)
            began = time.process_time()
            outcome = world.run()
            seconds = time.process_time() - began
            print(
                f"{scenario:<10}{nodes:>6}{world.layout.size_bytes // MIB:>8}{outcome.bound_seconds:>9.2f}"
                f"{outcome.ratio:>8.3f}{100 * outcome.wasted_share:>10.2f}{seconds:>8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

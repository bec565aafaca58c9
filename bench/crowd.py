"""Many uplinks, one upload: real programs on shaped lines (testbed.py), and how near they come to the bound.

    python -m bench.crowd [SCENARIO...] [--mib 64] [--runs 1] [--mbit 20] [--down MBIT] [--nodes 5] [--rival]
                          [--json FILE] [--lines]

    bound      bytes of the file / payload bytes per second of all uplinks that can be of use
    stored     seconds from the accepted command to "stored": hashing, asking, committing included
    sent       payload bytes that left each node for storage, and for other peers, in parts of the file
    wasted     bytes that storage received twice, or in vain
    cpu        processor seconds of each program from the command on; soft interrupts: part of all of them
    free       when the uploader first heard that it may leave

The medians come last, once more as rows of a table: in brackets how many runs, and their spread.

``--rival`` runs libtorrent (``pip install .[bench]``) in the same topology after each run, and curl PUT where one
uploader is alone. ``--lines`` shows who was idle when. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from bench.scenarios import SCENARIOS, Options, Result, run_scenario
from bench.stories import STORIES
from bench.testbed import CannotBuild


def shown(result: Result) -> str:
    """Return one line for people."""
    words = [
        f"{result.scenario:<14}{result.contestant:<11}{result.mib:>5} MiB",
        f"bound {result.bound_seconds:7.2f} s",
        f"stored {result.stored_seconds:7.2f} s" if result.stored_seconds else "never stored",
        f"ratio {result.ratio:5.3f}" if result.stored_seconds else "",
        f"(before sending {result.before_seconds:.2f} s)" if result.before_seconds is not None else "",
    ]
    if result.all_seconds is not None and result.all_bound_seconds:
        words.append(f"all {result.all_seconds:.2f} s = {result.all_seconds / result.all_bound_seconds:.3f}")
    if result.free_seconds is not None:
        words.append(f"free {result.free_seconds:.2f} s")
    words.append(f"wasted {100 * result.wasted_bytes / (result.mib << 20):.2f} %")
    sent = ", ".join(
        f"{name} {to_storage / (result.mib << 20):.3f}+{to_peers / (result.mib << 20):.3f}"
        for name, (to_storage, to_peers) in result.sent.items()
    )
    note = f"  [{result.note}]" if result.note else ""
    text = "  ".join(word for word in words if word) + f"\n      sent {sent}  load {result.load:.1f}{note}"
    if result.cpu:
        used = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result.cpu.items())
        text += f"\n      cpu seconds {used}"
    return text


def summary(results: list[Result]) -> str:
    """Return medians, a line for each scenario and contestant."""
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.scenario, result.contestant, result.mib), []).append(result)
    lines = ["", "medians"]
    for (scenario, contestant, mib), group in groups.items():
        done = [result for result in group if result.stored_seconds]
        words = [f"{scenario:<14}{contestant:<11}{mib:>5} MiB  {len(done)} of {len(group)} stored"]
        if done:
            words.append(f"ratio {statistics.median(result.ratio for result in done):.3f}")
            whole = [r.all_seconds / r.all_bound_seconds for r in done if r.all_seconds and r.all_bound_seconds]
            if whole:
                words.append(f"all {statistics.median(whole):.3f}")
            free = [r.free_seconds for r in done if r.free_seconds is not None]
            if free:
                words.append(f"free {statistics.median(free):.2f} s")
            words.append(f"uploader sent {statistics.median(r.uploader_share for r in done):.3f}")
            words.append(f"wasted {statistics.median(100 * r.wasted_bytes / (mib << 20) for r in done):.2f} %")
        lines.append("  ".join(words))
    return "\n".join(lines)


def rows(results: list[Result], options: Options) -> str:
    """Return the same as rows of a table of docs/benchmarks.md."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.scenario, result.contestant), []).append(result)
    lines = [
        "",
        "| scenario | nodes | Mbit/s up | Mbit/s down | MiB | contestant | stored | all have it | free, s"
        " | uploader sent | wasted |",
        "|" + " --- |" * 11,
    ]
    for (scenario, contestant), group in groups.items():
        done = [result for result in group if result.stored_seconds]
        cells = [
            spread([result.ratio for result in done], len(group)),
            spread([r.all_seconds / r.all_bound_seconds for r in done if r.all_seconds and r.all_bound_seconds]),
            spread([result.free_seconds for result in done if result.free_seconds is not None], digits=2),
            spread([result.uploader_share for result in group]),
            f"{statistics.median(100 * result.wasted_bytes / (result.mib << 20) for result in group):.2f} %",
        ]
        lines_mbit = [f"{options.mbit:g}", f"{options.downlink(options.mbit):g}"]
        head = [scenario, str(options.nodes), *lines_mbit, str(options.mib), contestant]
        lines.append(f"| {' | '.join([*head, *cells])} |")
    return "\n".join(lines)


def spread(values: list[float], of: int | None = None, digits: int = 3) -> str:
    """Return the median, and in brackets how many there are (``of`` so many, if fewer) and from where to where."""
    if not values:
        return "" if of is None else f"never ({of})"
    count = f"{len(values)} of {of}" if of is not None and of != len(values) else str(len(values))
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({count})" if len(values) == 1 else f"{middle} ({count}: {low} to {high})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join([*SCENARIOS, *STORIES])}; all by default"
    )
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--mbit", type=float, default=20.0)
    parser.add_argument("--down", type=float, metavar="MBIT", help="downlinks; 100, or the uplink if that is more")
    parser.add_argument("--nodes", type=int, default=5, help="uploader and helpers")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rival", action="store_true")
    parser.add_argument("--json", type=Path, help="append one line of JSON a run")
    parser.add_argument("--lines", action="store_true", help="show each line's use over time")
    parser.add_argument("--keep-logs", type=Path, help="copy the programs' logs there")
    options = parser.parse_args()
    every = [*SCENARIOS, *STORIES]
    unknown = [name for name in options.scenarios if name not in every]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(every)}")
    results: list[Result] = []
    failed: list[str] = []
    chosen = Options(options.mib, options.mbit, options.nodes, options.rival, options.keep_logs, options.down)
    try:
        for _ in range(options.runs):
            for name in options.scenarios or every:
                try:
                    for result in STORIES[name](chosen) if name in STORIES else run_scenario(name, chosen):
                        results.append(result)
                        print(shown(result), flush=True)
                        if options.lines:
                            print(result.lines, flush=True)
                        if options.json is not None:
                            with options.json.open("a", encoding="utf-8") as file:
                                file.write(json.dumps(result.to_json()) + "\n")
                except (AssertionError, OSError) as error:
                    # One that could not be brought to its end; the others are measured all the same.
                    failed.append(name)
                    print(f"{name:<14}failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    except CannotBuild as error:
        print(f"bench.crowd: {error}", file=sys.stderr)
        return 1
    print(f"{summary(results)}\n{rows(results, chosen)}")
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure one link of this machine, beside the others: ``make bench``.

    python -m bench.run [ROW...] [--mib 2048] [--runs 3] [--no-rivals] [--results FILE] [--list]

Prints a table for each row and keeps all figures in one JSON file, into which later runs of single rows are merged; a
plot is drawn beside it (matplotlib of the "bench" extra). Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.contest import merge, table
from bench.plot import draw
from bench.rows import ROWS, Plan
from runtime.logs import setup_logs

RESULTS = Path(__file__).parent / "results" / "link.json"


def main() -> None:
    setup_logs("warning")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(ROWS)}; all when none is given")
    parser.add_argument("--mib", type=int, default=2048, help="size of the file; a multiple of 64")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fast", type=Path, default=Path("/dev/shm"), help="a folder in memory")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="a folder on a disk")
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="say what each row measures, and end")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown or options.mib % 64 or options.mib <= 0:
        parser.error(f"rows are {', '.join(ROWS)}; --mib is a multiple of 64")
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:10} {row.__doc__}")
        return
    plan = Plan(options.mib, options.runs, options.fast, options.disk, with_rivals=not options.no_rivals)
    for name in options.rows or ROWS:
        results = merge(options.results, [ROWS[name](plan)])
        print(table(results["rows"][name]), flush=True)
    plot = draw(options.results, options.results.with_suffix(".svg"))
    print(f"figures: {options.results}" + (f", plot: {plot}" if plot else "; no plot: matplotlib is not installed"))


if __name__ == "__main__":
    main()

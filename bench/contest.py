"""Contestants measured side by side: alternately, on warm memory, with their processor time; and the table of it.

Decides how a figure is made of runs (median; spread from the slowest to the fastest run) and what it is compared with
(the first contestant is ours; ``ratio`` is ours over theirs). What is measured, rows.py and its neighbours say.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. ``amount``: what was done, in the row's unit (MiB, files, s). CPU in seconds; None: not known."""

    seconds: float
    amount: float
    cpu_send: float | None = None
    cpu_receive: float | None = None
    size_bytes: int = 0
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contestant:
    """``run`` does it once. ``warm_mib``: memory to touch before each run."""

    name: str
    run: Callable[[], Sample]
    verifies: str = "every chunk"
    warm_mib: int = 0


@dataclass(slots=True)
class Row:
    """What several contestants did. ``unit``: of the rate, such as MiB/s, or "s" when the seconds themselves count."""

    name: str
    title: str
    unit: str
    aims: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    verifies: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def figure(self, sample: Sample) -> float:
        """Return the one number of a run."""
        return sample.seconds if self.unit == "s" else sample.amount / sample.seconds

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with medians."""
        medians = {name: statistics.median(map(self.figure, runs)) for name, runs in self.samples.items()}
        ours = next(iter(medians.values()))
        found = []
        for name, runs in self.samples.items():
            figures = [self.figure(sample) for sample in runs]
            ratio = medians[name] / ours if self.unit == "s" else ours / medians[name]
            entry: dict[str, Any] = {
                "name": name,
                "median": round(medians[name], 3),
                "low": round(min(figures), 3),
                "high": round(max(figures), 3),
                "ratio": round(ratio, 3),
                "runs": [round(figure, 3) for figure in figures],
                "verifies": self.verifies[name],
                "cpu_send_per_gib": _per_gib(runs, "cpu_send"),
                "cpu_receive_per_gib": _per_gib(runs, "cpu_receive"),
            }
            for note in runs[0].notes:
                entry[note] = round(statistics.median(sample.notes[note] for sample in runs), 3)
            found.append(entry)
        return {
            "title": self.title,
            "unit": self.unit,
            "aims": self.aims,
            "missing": self.missing,
            "measured_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "load": round(os.getloadavg()[0], 2),
            "contestants": found,
        }


def _per_gib(runs: list[Sample], what: str) -> float | None:
    values = [
        getattr(sample, what) / sample.size_bytes * GIB
        for sample in runs
        if getattr(sample, what) is not None and sample.size_bytes
    ]
    return round(statistics.median(values), 2) if values else None


def hold(row: Row, contestants: Iterable[Contestant], runs: int, folder: Path) -> Row:
    """Let all run in turn, ``runs`` times."""
    contestants = list(contestants)
    for number in range(runs):
        for contestant in contestants:
            if contestant.warm_mib:
                warm(folder, contestant.warm_mib)
            sample = contestant.run()
            row.samples.setdefault(contestant.name, []).append(sample)
            row.verifies[contestant.name] = contestant.verifies
            cpu = "".join(
                f"  {label} {value:.2f} s"
                for label, value in (("cpu send", sample.cpu_send), ("receive", sample.cpu_receive))
                if value is not None
            )
            print(f"  {row.name} {number + 1}/{runs}  {contestant.name:34} {row.figure(sample):10.2f} {row.unit}{cpu}")
    return row


def warm(folder: Path, mib: int) -> None:
    """Touch and free as much memory as a run writes: on a virtual machine the first touch of a page costs a fault in
    the host, and whoever comes first pays for all."""
    path = folder / "warm"
    piece = b"\1" * MIB
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(piece)
    path.unlink()


def cpu_seconds(pid: int) -> float:
    """Return what a process, with its children that live or were waited for, has used so far."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def table(row: dict[str, Any]) -> str:
    """Return a row's JSON as a table for people."""
    unit = row["unit"]
    lines = [
        f"{row['title']}  ({row['measured_at']}, load {row['load']})",
        f"  {'':36} {unit:>9} {'spread':>17} {'ratio':>6}  {'CPU s/GiB send + receive':>24}  verifies",
    ]
    for entry in row["contestants"]:
        cpu = [entry["cpu_send_per_gib"], entry["cpu_receive_per_gib"]]
        costs = " + ".join("–" if value is None else f"{value:.2f}" for value in cpu) if any(cpu) else "–"
        spread = (
            f"{entry['low']:.1f} – {entry['high']:.1f}" if unit != "s" else f"{entry['low']:.3f} – {entry['high']:.3f}"
        )
        median = f"{entry['median']:.1f}" if unit != "s" else f"{entry['median']:.3f}"
        lines.append(
            f"  {entry['name']:36} {median:>9} {spread:>17} {entry['ratio']:>6.2f}  {costs:>24}  {entry['verifies']}"
        )
        known = {
            "name",
            "median",
            "low",
            "high",
            "ratio",
            "runs",
            "verifies",
            "cpu_send_per_gib",
            "cpu_receive_per_gib",
        }
        notes = ", ".join(f"{key} {value:g}" for key, value in entry.items() if key not in known)
        if notes:
            lines.append(f"      {notes}")
    lines.extend(f"  aim: {aim}" for aim in row["aims"])
    lines.extend(f"  not measured: {what}" for what in row["missing"])
    return "\n".join(lines)


def merge(path: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """Put ``rows`` into the results at ``path``, beside those of other rows, and return all."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results["machine"] = machine()
    for row in rows:
        results["rows"][row.name] = row.as_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
    }

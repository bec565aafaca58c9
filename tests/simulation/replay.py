"""Run seeds, and say of one that fails all that is needed to see it fail again."""

from __future__ import annotations

import platform
import pprint
import subprocess
import sys
from pathlib import Path

import apsw
import trio
from simulation.chaos import run_chaos
from simulation.hosts import leaves_of
from simulation.schedule import Schedule, draw
from simulation.world import Run


class SeedFailed(AssertionError):
    """A world in which a promise was broken; the text says how to go back there."""


def live_through(seed: int, schedule: Schedule | None = None) -> Run:
    """Run the world of ``seed``.

    Raises:
        SeedFailed: what went wrong there, and how to replay it.
    """
    try:
        return run_chaos(seed, schedule)
    except Exception as error:
        raise SeedFailed(account_of(seed, schedule, error)) from error


def account_of(seed: int, schedule: Schedule | None, error: BaseException) -> str:
    """Return what happened, where, and how to see it again."""
    causes = "\n".join(f"  {type(leaf).__name__}: {leaf}" for leaf in leaves_of(error))
    plan = pprint.pformat(schedule or draw(seed), width=110)
    replay = f"make sim SEED={seed} TRACE=1" if schedule is None else "run_chaos(seed, schedule) with this schedule"
    return (
        f"seed {seed} failed\n{causes}\n"
        f"replay: {replay}\n"
        f"commit: {commit()}\n"
        f"python {platform.python_version()}, trio {trio.__version__}, SQLite {apsw.sqlite_lib_version()}\n"
        f"schedule: {plan}"
    )


def commit() -> str:
    """Return which version of the code this is; with a plus when files were changed since."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git here)"
    return head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def show(seed: int) -> int:
    """Print the trace of one world, and what became of it; return an exit code."""
    lines: list[str] = []
    try:
        done = run_chaos(seed, trace=lines)
    except Exception as error:
        sys.stdout.write("\n".join(lines) + "\n" + account_of(seed, None, error) + "\n")
        return 1
    sys.stdout.write("\n".join(lines) + f"\nseed {seed} held: {done.seconds:.0f} s, trace {done.trace}\n")
    return 0

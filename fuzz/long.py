"""Long runs: atheris, guided by coverage of our own code, one process for each target, one after the other.

    make fuzz                       every target, RUNS=10000000 inputs each
    python -m fuzz.long --runs N [--seconds S] [TARGET...]

The process of a target may take ``RSS_MB_MAX`` of memory and ``INPUT_SECONDS_MAX`` for one input; more is a finding as
much as an exception is. Prints one line of JSON a target: inputs, seconds, memory at its highest, findings. What
atheris learns goes into build/fuzz/TARGET and is used again by the next run; inputs worth keeping are copied from there
into corpus/ by ``--keep``: the smallest that reach what the seeds do not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

WORK = Path(__file__).parents[1] / "build" / "fuzz"
RSS_MB_MAX = 1024
# Inputs take microseconds; so long, because whoever shares the machine may stop us for minutes, and the clock goes on.
INPUT_SECONDS_MAX = 900
# What a link may say is endless; its words are tried one by one, and longer, by ``messages``. So here are many short
# talks, and not few long ones.
BYTES_MAX = {"frames": 512}
# Ours, and nothing that only costs time: what decides must be seen.
_INSTRUMENTED = ["protocol", "runtime.config", "runtime.discovery", "runtime.identity", "runtime.terminal"]
_INSTRUMENTED += ["storage.ranges", "storage.backends.s3answers", "storage.tus.headers", "tracker.page.guard"]
_INSTRUMENTED += ["daemon.naming", "daemon.parameters", "daemon.timetable", "runtime.sealed"]


def fuzz_here(target: str, arguments: list[str]) -> None:
    """Become atheris; ends the process."""
    import atheris

    # Only what is imported here for the first time is instrumented: nothing above may import our own code.
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def run(target: str, runs: int, seconds: float) -> dict[str, object]:
    """Run one target in a process of its own; return what was reached."""
    from fuzz.mutation import INPUT_BYTES_MAX
    from fuzz.targets import corpus

    folder = WORK / target
    learnt, artifacts = folder / "learnt", folder / "findings"
    for one in (learnt, artifacts):
        one.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(corpus(target)):
        (learnt / f"seed-{number:03}").write_bytes(seed)
    arguments = [
        str(learnt),
        f"-runs={runs}",
        f"-max_len={BYTES_MAX.get(target, INPUT_BYTES_MAX)}",
        f"-rss_limit_mb={RSS_MB_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-artifact_prefix={artifacts}/",
        "-print_final_stats=1",
        "-reload=0",
        # Whoever shares the machine may stop us for minutes; a slow input is not a finding then.
        f"-report_slow_units={INPUT_SECONDS_MAX}",
        *([f"-max_total_time={seconds:.0f}"] if seconds else []),
    ]
    begin = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(
            [sys.executable, "-m", "fuzz.long", "--here", target, *arguments], stdout=log, stderr=log, check=False
        ).returncode
    text = (folder / "log.txt").read_text("utf-8", "replace")
    return {
        "target": target,
        "inputs": _number(r"number_of_executed_units:\s*(\d+)", text),
        "seconds": round(time.monotonic() - begin, 1),
        "rss_mb": _number(r"peak_rss_mb:\s*(\d+)", text),
        "features": _number(r"ft: (\d+)", text),
        "findings": sorted(path.name for path in artifacts.iterdir()),
        "exit_code": code,
    }


def _number(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def keep(target: str, inputs_max: int = 40, bytes_max: int = 400) -> None:
    """Add to the seeds of ``target`` the smallest inputs of earlier runs that reach what its seeds do not."""
    from fuzz.targets import CORPUS, corpus

    folder = WORK / target
    seeds, chosen = folder / "seeds", folder / "chosen"
    for one in (seeds, chosen):
        one.mkdir(exist_ok=True)
        for old in one.iterdir():
            old.unlink()
    known = corpus(target)
    for number, seed in enumerate(known):
        (chosen / f"{number:03}").write_bytes(seed)
    for path in (folder / "learnt").iterdir():
        if path.stat().st_size <= bytes_max and not path.name.startswith("seed-"):
            (seeds / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "fuzz.long", "--here", target, str(chosen), str(seeds), "-merge=1"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    learnt = sorted({path.read_bytes() for path in chosen.iterdir()} - set(known), key=lambda data: (len(data), data))
    with (CORPUS / f"{target}.txt").open("a", encoding="ascii") as file:
        file.writelines(f"learnt {data.hex()}\n" for data in learnt[:inputs_max] if data)


def main() -> None:
    """Run targets, and print what was reached."""
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="Long fuzzing runs with atheris.")
    parser.add_argument("--runs", type=int, default=10_000_000, help="inputs for each target")
    parser.add_argument("--seconds", type=float, default=0, help="at most so long for each target; 0: no bound")
    parser.add_argument(
        "--keep", action="store_true", help="keep what earlier runs learnt as seeds, instead of running"
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    failed = False
    for target in options.targets or list(TARGETS):
        if options.keep:
            keep(target)
            continue
        result = run(target, options.runs, options.seconds)
        failed = failed or bool(result["findings"]) or result["exit_code"] != 0
        print(json.dumps(result), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

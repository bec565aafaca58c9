"""Moving files: put, get, share, unshare; and steering what moves: pause, resume, cancel, limit.

The daemon moves them. Here paths are made absolute, its progress is shown, and its answer becomes words and an exit
code: 0 only when what was asked for has happened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from upswarm.client import Client, Notice, Wait, absolute
from upswarm.console import (
    DURATION,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_UNFINISHED,
    RATE,
    TYPED_PATH,
    TYPED_TEXT,
    Console,
    Terminated,
    as_json,
    verb,
)
from upswarm.paths import check_folder, check_there, current_folder, is_there
from upswarm.progress import Progress, progress_on
from upswarm.rpc import PutOutcome, Skipped
from upswarm.text import duration_text, pushed_text, rate_text, shown, size_text

if TYPE_CHECKING:
    from protocol.invite import Link

LINK_CHARACTERS_MAX = 16 * 1024
IDS_TOLD_MAX = 10  # of an interrupted put of many files; `status` and --json have all
QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=TYPED_PATH)
@click.option("--name", help="Store it under this name instead of the file's own.")
@click.option(
    "--wait",
    type=click.Choice(["stored", "safe", "no"]),
    default="stored",
    show_default=True,
    help="Return when all is stored; when this machine may leave; or at once.",
)
@click.option(
    "--expires",
    type=DURATION,
    help="How long the name holds once the file is stored, as 30d; then the file goes, if it has no other.",
)
@click.option(
    "--encrypt",
    is_flag=True,
    help="Seal each file first with a new key, which is in its link and nowhere else: helpers, storage and tracker see"
    " neither bytes nor name. Whoever loses the link has lost the file.",
)
@QUIET
@verb
def put(
    console: Console,
    paths: tuple[Path, ...],
    name: str | None,
    wait: str,
    expires: float | None,
    encrypt: bool,
    quiet: bool,
) -> None:
    """Store files; a folder means every file below it."""
    if name is not None and len(paths) > 1:
        raise click.UsageError("--name fits one PATH only")
    for path in paths:
        check_there(path)
    with console.client() as daemon, progress_on(sys.stderr, quiet=quiet) as progress:
        waiting = _Waiting(progress)
        try:
            if encrypt:
                outcome = _put_sealed(console, daemon, paths, name, cast(Wait, wait), expires, waiting.notice)
            else:
                outcome = daemon.put(
                    paths, name=name, wait=cast(Wait, wait), expires_seconds=expires, progress=waiting.notice
                )
        except (KeyboardInterrupt, Terminated) as reason:
            daemon.close()
            progress.__exit__(None, None, None)
            _interrupted(console, "upload", waiting.ids, reason)
    results: list[dict[str, Any]] = [dict(result) for result in outcome["results"]]
    one = len(results) == 1 and not outcome.get("skipped")
    console.give(results[0] if one else outcome, lambda _: _results_text(results))
    if not console.as_json:
        for result in results:
            console.note(_put_note(result))
        for name in _names_of_several(results):
            console.note(f"{shown(name)}: several files have this name; it means one of them, each link its own")
    _tell_skipped(console, outcome)
    sys.exit(put_exit_code(results, wait))


def _put_sealed(
    console: Console,
    daemon: Client,
    paths: tuple[Path, ...],
    name: str | None,
    wait: Wait,
    expires_seconds: float | None,
    notice: Notice,
) -> PutOutcome:
    """Seal what ``paths`` mean, say the links at once, and put it."""
    from daemon.walking import Found, find_files
    from runtime.real import RealDisk
    from upswarm.sealing import FOLDER, Sealed, put_sealed

    found: dict[Path, Found] = {}
    skipped: list[Skipped] = []
    for path in paths:
        files, without = find_files(RealDisk(), Path(absolute(path)), name)
        found.update((file.path, file) for file in files)
        skipped += [{"path": str(one.path), "reason": one.reason} for one in without]

    def sealed(one: Sealed) -> None:
        # Said before anything is sent: whoever is interrupted from here on still has it.
        console.note(f"sealed {shown(one.source)}; only this link opens it: {one.link}")

    folder = console.places("daemon").state / FOLDER
    named = [(file.path, file.name) for file in found.values()]
    outcome = put_sealed(daemon, folder, named, wait, sealed=sealed, progress=notice, expires_seconds=expires_seconds)
    outcome["skipped"] = [*outcome.get("skipped", []), *skipped]
    return outcome


def _names_of_several(results: list[dict[str, Any]]) -> list[str]:
    """Return the names that different files of one put have: equal but for the folders one named, or for how an accent
    is written."""
    tags: dict[str, set[str]] = {}
    for result in results:
        tags.setdefault(str(result.get("name")), set()).add(str(result.get("tag") or ""))
    return [name for name, those in tags.items() if len(those - {""}) > 1]


def put_exit_code(results: list[dict[str, Any]], wait: str) -> int:
    """Return 0 when all happened that ``wait`` asked for, else the first failure's code."""
    for result in results:
        if result.get("error") or result.get("state") in ("failed", "cancelled"):
            return _failure_of(result)[1]
    if wait == "no":
        return 0
    ended = all(result.get("state") == "stored" or (wait == "safe" and _is_safe(result)) for result in results)
    return 0 if ended else EXIT_UNFINISHED


def _is_safe(result: Mapping[str, Any]) -> bool:
    # It was asked to answer when it is safe; only its own "no" makes that untrue.
    return result.get("safe") is not False


def _failure_of(result: Mapping[str, Any]) -> tuple[str, int]:
    """Return sentence and exit code of a result that failed."""
    error = result.get("error")
    if isinstance(error, Mapping):
        code = error.get("exit_code", EXIT_FAILED)
        return str(error.get("message", "failed")), code if isinstance(code, int) and 1 <= code <= 255 else EXIT_FAILED
    code = result.get("exit_code", EXIT_FAILED)
    return str(error or result.get("state")), code if isinstance(code, int) and 1 <= code <= 255 else EXIT_FAILED


def _results_text(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        where = result.get("link") or result.get("tag") or "-"
        lines.append(f"{shown(result.get('state'))}  {shown(where)}  {shown(result.get('name'))}")
    return "\n".join(lines)


def _tell_skipped(console: Console, outcome: Mapping[str, Any]) -> None:
    for one in outcome.get("skipped") or []:
        console.note(f"skipped {shown(one['path'])}: {shown(one['reason'])}")


def _put_note(result: Mapping[str, Any]) -> str:
    name = shown(result.get("name"))
    if result.get("error"):
        return f"{name}: {shown(_failure_of(result)[0])}"
    size, seconds = int(result.get("size") or 0), float(result.get("seconds") or 0)
    words = f"{name}: {size_text(size)} {shown(result.get('state'))}"
    if result.get("instant"):
        return f"{words}; it was there already, nothing was sent"
    if seconds > 0:
        words += f" in {duration_text(seconds)} ({rate_text(size / seconds)})"
    pushed = result.get("pushed") or {}
    return f"{words} | pushed: {pushed_text(pushed)}" if pushed else words


def _interrupted(console: Console, what: str, ids: Iterable[str], reason: BaseException) -> NoReturn:
    """Say that the jobs go on, and end."""
    known = list(ids)
    console.note(f"upswarm: no longer waiting; the {what} goes on in the daemon")
    console.note("  see it:  upswarm status")
    for one in known[:IDS_TOLD_MAX] or ["ID"]:
        console.note(f"  stop it: upswarm cancel {shown(one)}")
    if len(known) > IDS_TOLD_MAX:
        console.note(f"  and {len(known) - IDS_TOLD_MAX} more")
    if console.as_json:
        click.echo(as_json({"state": "interrupted", "ids": known}))
    sys.exit(EXIT_TERMINATED if isinstance(reason, Terminated) else EXIT_INTERRUPTED)


class _Waiting:
    """Shows progress, and remembers which jobs it was about."""

    def __init__(self, progress: Progress) -> None:
        self.ids: dict[str, None] = {}
        self._progress = progress

    def notice(self, method: str, params: dict[str, Any]) -> None:
        if params.get("id"):
            self.ids[str(params["id"])] = None
        self._progress.notice(method, params)


@click.command()
@click.argument("what", metavar="TAG|NAME|LINK")
@click.option("-o", "--output", "typed", type=TYPED_TEXT, help="File or folder to put it; here when not given.")
@QUIET
@verb
def get(console: Console, what: str, typed: str | None, quiet: bool) -> None:
    """Fetch a file, from all who have it; "-" reads what from stdin, where no process list shows a link's key."""
    if what == "-":
        what = sys.stdin.read(LINK_CHARACTERS_MAX).strip()
    link = _keyed_link(what)
    if typed is not None:
        check_folder(typed)
    output = Path(typed) if typed is not None else None
    with console.client() as daemon, progress_on(sys.stderr, quiet=quiet) as progress:
        waiting = _Waiting(progress)
        try:
            # A daemon has its own working folder; "here" is ours.
            target = output if output is not None else current_folder()
            if link is None:
                result = daemon.get(what, target, progress=waiting.notice)
            else:
                from upswarm.sealing import get_sealed

                result = get_sealed(daemon, link, target.absolute(), progress=waiting.notice)
        except (KeyboardInterrupt, Terminated) as reason:
            daemon.close()
            progress.__exit__(None, None, None)
            _interrupted(console, "download", waiting.ids, reason)
    console.give(result, lambda data: shown(data["path"]))
    if result.get("error") or result["state"] != "done":
        words, code = _failure_of(result)
        console.note(f"upswarm: {shown(words)}")
        sys.exit(code)
    if not console.as_json:
        size, seconds = int(result["size"]), float(result["seconds"] or 0)
        rate = f" ({rate_text(size / seconds)})" if seconds > 0 else ""
        console.note(f"{shown(result['name'])}: {size_text(size)} in {duration_text(seconds)}{rate}, verified")
        if result.get("from"):
            console.note(f"from: {pushed_text(result['from'])}")


def _keyed_link(what: str) -> Link | None:
    """Return the link of a sealed file; None: it is something that the daemon can do by itself."""
    from protocol.invite import LINK_SCHEME, Link

    if not what.startswith(f"{LINK_SCHEME}:") or "#" not in what:
        return None
    try:
        link = Link.parse(what)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return link if link.key is not None else None


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=TYPED_PATH)
@QUIET
@verb
def share(console: Console, paths: tuple[Path, ...], quiet: bool) -> None:
    """Offer files for download, and to help others upload them, without storing them."""
    for path in paths:
        check_there(path)
    with console.client() as daemon, progress_on(sys.stderr, quiet=quiet) as progress:
        outcome = daemon.share(paths, progress=progress.notice)
    results = list(outcome["results"])
    one = len(results) == 1 and not outcome.get("skipped")
    console.give(results[0] if one else outcome, lambda _: _results_text(results))
    if not console.as_json:
        for result in results:
            if result.get("error"):
                console.note(_put_note(result))
    _tell_skipped(console, outcome)
    sys.exit(put_exit_code(results, "no"))


@click.command()
@click.argument("what", metavar="TAG|PATH|NAME")
@verb
def unshare(console: Console, what: str) -> None:
    """Offer a file no longer; the file itself stays."""
    path = Path(what)
    with console.client() as daemon:
        console.give(daemon.call("unshare", {"what": absolute(path) if what and is_there(path) else what}))


def _steer(method: str, words: str) -> Callable[[Console, str | None], None]:
    @click.command(name=method, help=words)
    @click.argument("job", metavar="[ID]", required=False)
    @verb
    def steer(console: Console, job: str | None) -> None:
        with console.client() as daemon:
            console.give(daemon.call(method, {} if job is None else {"id": job}))

    return steer


pause = _steer("pause", "Pause one transfer, or all: nothing is sent and nothing requested.")
resume = _steer("resume", "Go on with one paused transfer, or all.")


@click.command()
@click.argument("job", metavar="ID")
@verb
def cancel(console: Console, job: str) -> None:
    """Give up an upload or download."""
    with console.client() as daemon:
        console.give(daemon.call("cancel", {"id": job}))


@click.command()
@click.argument("rates", nargs=-1, metavar="[up=RATE] [down=RATE] [help=RATE] [idle=on|off] | timetable TEXT | off")
@verb
def limit(console: Console, rates: tuple[str, ...]) -> None:
    """Show or set budgets: up (all that leaves), down, help (what we push for others). "off" lifts them. With
    idle=on others are helped only as far as nobody else on this line notices.

    A RATE is 20mbit (bits), or 2M or 500KiB/s (bytes), or off. A timetable lowers them by the hour, as in
    "08:00,512k 12:00,10M 23:00,off" or "Mon-08:00,1M Fri-18:00,off".
    """
    limits = parse_limits(rates)
    with console.client() as daemon:
        console.give(daemon.limit(**limits))


def parse_limits(rates: tuple[str, ...]) -> dict[str, float | str]:
    """Return the budgets that ``rates`` set: bytes per second, or "off".

    Raises:
        click.UsageError: one of them is no budget.
    """
    if rates == ("off",):
        return {"up": "off", "down": "off", "help": "off", "timetable": "off", "idle": "off"}
    if rates[:1] == ("timetable",):
        if len(rates) == 1:
            raise click.UsageError('timetable: "08:00,512k 23:00,off" or off was expected')
        # What is wrong with it the daemon says: it must be able to read it.
        return {"timetable": " ".join(rates[1:])}
    limits: dict[str, float | str] = {}
    for text in rates:
        word, equals, rate = text.partition("=")
        if word == "idle" and rate in ("on", "off"):
            limits[word] = rate
            continue
        if not equals or word not in ("up", "down", "help"):
            kinds = "up=RATE, down=RATE, help=RATE, idle=on|off, timetable TEXT or off"
            raise click.UsageError(f"{text!r}: {kinds} was expected")
        limits[word] = RATE.convert(rate, None, None)
    return limits


VERBS = (put, get, share, unshare, pause, resume, cancel, limit)

"""What ``upswarm doctor`` looks at, one function a question. Changes nothing but a file it writes and removes again.

Each check answers with a sentence that says what is so and, when it is wrong, what would make it right. What the
running daemon knows of itself it adds by its own ``doctor`` method.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import UpswarmError
from runtime.places import PROGRAMS, Places, Program
from upswarm.client import Client, NoProgram
from upswarm.text import duration_text, size_text

PYTHON_MIN = (3, 11)
IMPORT_NAMES = ("upswarm", "daemon", "tracker", "storage", "exchange", "runtime", "protocol")
FREE_BYTES_MIN = 1 << 30
CONNECT_SECONDS_MAX = 3.0
RELEASED = 1_760_000_000  # October 2025
TIME_ERROR = 5
TIMEX_BYTES = 512  # struct timex has 208 on 64 bits


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question."""

    check: str
    ok: bool
    says: str


def examine(home: Path | None) -> list[Finding]:
    """Return all findings about the installation and whatever programs ``home`` has."""
    return list(_examine(home))


def _examine(home: Path | None) -> Iterator[Finding]:
    yield check_python(sys.version_info[:3])
    yield check_packages(_owners())
    yield check_clock(*_clock())
    joined = [program for program in PROGRAMS if (Places.of(home, program).identity / "certificate.pem").exists()]
    for program in joined or ["daemon"]:
        places = Places.of(home, program)
        yield check_writable(places.state)
        yield check_room(places.state)
        yield check_joined(places)
        if program in joined:
            yield check_certificate(places.identity / "certificate.pem", datetime.datetime.now(datetime.UTC))
            yield from check_tracker(places.identity / "tracker.json")
        yield from check_running(places)


def check_python(found: tuple[int, ...]) -> Finding:
    """Is Python new enough?"""
    text = ".".join(map(str, found))
    wanted = ".".join(map(str, PYTHON_MIN))
    return Finding("python", found >= PYTHON_MIN, text if found >= PYTHON_MIN else f"{text}; {wanted} is needed")


def _owners() -> dict[str, list[str]]:
    from importlib.metadata import packages_distributions

    return {name: list(owners) for name, owners in packages_distributions().items() if name in IMPORT_NAMES}


def check_packages(owners: Mapping[str, list[str]]) -> Finding:
    """Does each of our import names belong to us alone? Some are plain words that others install too."""
    for name in IMPORT_NAMES:
        others = sorted(set(owners.get(name, [])) - {"upswarm"})
        if others:
            says = f"{name!r} is also installed by {', '.join(others)}; install upswarm into an environment of its own"
            return Finding("packages", False, says)
    if not any(owners.get(name) for name in IMPORT_NAMES):
        return Finding("packages", True, "run from a checkout that is not installed")
    return Finding("packages", True, "every import name is ours alone")


def _clock() -> tuple[float, bool | None]:
    """Return the wall clock, and whether something keeps it right; None: nobody can say."""
    synchronized = None
    with contextlib.suppress(OSError, AttributeError):
        # adjtimex(2) answers 5, TIME_ERROR, while the kernel's clock follows no other one.
        libc = ctypes.CDLL(None, use_errno=True)
        answer = libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
        synchronized = None if answer < 0 else answer != TIME_ERROR
    return time.time(), synchronized


def check_clock(now: float, synchronized: bool | None) -> Finding:
    """Is the clock plausible? Certificates are judged by it."""
    shown = f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < RELEASED:
        return Finding("clock", False, f"{shown}; that is before this version was written: set the clock")
    kept = {
        True: "kept by another clock",
        False: "kept by no other clock (NTP)",
        None: "nobody can say whether it is kept",
    }
    return Finding("clock", True, f"{shown}, {kept[synchronized]}")


def check_ports(program: str, listen: str, links: list[dict[str, Any]]) -> Iterator[Finding]:
    """Do others reach us, and we them? Told by the links that are up: who has dialled us has reached us."""
    try:
        host, _, port = listen.rpartition(":")
        target = "127.0.0.1" if host in ("0.0.0.0", "", "[::]", "::") else host.strip("[]")
        with socket.create_connection((target, int(port)), timeout=CONNECT_SECONDS_MAX):
            yield Finding(f"{program} port", True, f"{listen} answers on this machine")
    except (OSError, ValueError) as error:
        yield Finding(f"{program} port", False, f"{listen} does not answer on this machine ({error})")
    out = sum(1 for link in links if link.get("dialled"))
    came = len(links) - out
    dialled = f"links that we dialled: {out}" if out else "no link that we dialled, so far"
    yield Finding("reaching others", True, dialled)
    hint = f"nobody has dialled us, so far; if others should, let TCP port {listen.rpartition(':')[2]} through"
    yield Finding("being reached", True, f"links that others dialled: {came}" if came else f"{hint} ({_firewall()})")


def _firewall() -> str:
    """Return how that is said to whatever guards this machine's ports."""
    for command, words in (("ufw", "ufw allow PORT/tcp"), ("firewall-cmd", "firewall-cmd --add-port=PORT/tcp"),
                           ("nft", "see nft list ruleset")):  # fmt: skip
        if shutil.which(command):
            return words
    return "no firewall of this machine is known; the router may have one"


def check_writable(state: Path) -> Finding:
    """May we write where the state belongs?"""
    folder = state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("home", False, f"{folder} is not writable ({error.strerror}); choose another --home")
    return Finding("home", True, f"{state} can be written to")


def check_room(state: Path) -> Finding:
    """Is there room on the disk?"""
    folder = state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    says = f"{size_text(free)} free at {folder}"
    return Finding("disk", free >= FREE_BYTES_MIN, says if free >= FREE_BYTES_MIN else f"{says}; make room")


def check_joined(places: Places) -> Finding:
    """Is this node a member, and its key its own secret?"""
    key, certificate = places.identity / "key.pem", places.identity / "certificate.pem"
    if places.program == "tracker" and not places.identity.exists():
        return Finding("tracker joined", True, "the first start creates the swarm")
    if not certificate.exists():
        return Finding(f"{places.program} joined", False, "no member of a swarm: upswarm join INVITE")
    with contextlib.suppress(OSError):
        if key.stat().st_mode & 0o077:
            return Finding(f"{places.program} joined", False, f"{key} can be read by others: chmod 600 {key}")
    return Finding(f"{places.program} joined", True, f"a member ({places.identity})")


def check_certificate(path: Path, now: datetime.datetime) -> Finding:
    """Is the certificate valid, and for how long?"""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Finding("certificate", False, f"{path}: cannot be read ({error}); leave and join again")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return Finding("certificate", False, f"valid only from {begin:%Y-%m-%d %H:%M}; is this machine's clock right?")
    if now > end:
        return Finding("certificate", False, f"expired {end:%Y-%m-%d}; join again with a new invite")
    age, left = (now - begin).total_seconds(), (end - now).total_seconds()
    return Finding("certificate", True, f"{duration_text(age)} old, valid for another {duration_text(left)}")


def check_tracker(path: Path) -> Iterator[Finding]:
    """Does the port of a tracker answer?"""
    try:
        known = json.loads(path.read_bytes())
        trackers = [known, *known.get("others", [])]
        addresses = [str(address) for tracker in trackers for address in tracker["addresses"]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding("tracker", False, f"{path}: cannot be read ({error}); leave and join again")
        return
    from protocol.ids import parse_address

    reasons = []
    for address in addresses:
        try:
            with socket.create_connection(parse_address(address), timeout=CONNECT_SECONDS_MAX):
                yield Finding("tracker", True, f"{address} answers")
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{address}: {error}")
    yield Finding("tracker", False, f"does not answer ({'; '.join(reasons) or 'no address known'})")


def check_running(places: Places) -> Iterator[Finding]:
    """Does the program run, and what does it say of itself?"""
    program: Program = places.program
    try:
        with Client(places.control_socket, program) as client:
            yield Finding(program, True, "runs")
            if program == "daemon":
                yield from _told(client.call("doctor"))
                with contextlib.suppress(UpswarmError):
                    listen = str(client.status().get("listen") or "")
                    yield from check_ports(program, listen, list(client.call("peers").get("links") or []))
    except NoProgram:
        yield Finding(program, False, f"does not run here: upswarm {program}")
    except UpswarmError as error:
        yield Finding(program, False, str(error))


def _told(answer: Any) -> Iterator[Finding]:
    checks = answer.get("checks", answer) if isinstance(answer, dict) else answer
    if isinstance(checks, dict):
        checks = [{"check": key, "ok": value is not False, "says": str(value)} for key, value in checks.items()]
    for one in checks if isinstance(checks, list) else []:
        if isinstance(one, dict):
            name = str(one.get("check", one.get("name", "daemon")))
            yield Finding(f"daemon: {name}", bool(one.get("ok", True)), str(one.get("says", one.get("detail", ""))))


_INVITE = re.compile(r"upswarm-invite-\S*")
_SECRET_KEY = re.compile(r"secret|password|passwd|token|credential|private|access_key|api_key", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")


def redacted(thing: Any) -> Any:
    """Return ``thing`` without what a report must not carry: secrets, logins in addresses, invites, the user's name."""
    if isinstance(thing, Mapping):
        return {
            str(key): "(left out)" if _SECRET_KEY.search(str(key)) and value else redacted(value)
            for key, value in thing.items()
        }
    if isinstance(thing, list | tuple):
        return [redacted(item) for item in thing]
    if isinstance(thing, str | os.PathLike):
        text = _LOGIN.sub("(left out)@", _INVITE.sub("(an invite)", str(thing)))
        own = str(Path.home())
        return text.replace(own, "~") if len(own) > 1 else text
    return thing

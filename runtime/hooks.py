"""What others are told when a transfer has ended: a command that is run, an address that is posted to.

The command is run without a shell, with the event as JSON on its stdin and its plain fields as UPSWARM_<FIELD>; what it
prints goes nowhere. A hook that fails or hangs is a line in the log and nothing else: no transfer waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
import trio

from protocol.errors import LinkLost

log = structlog.get_logger()

HOOK_SECONDS_MAX = 60.0


class Hooks:
    """``command``: program and arguments, or nothing; ``url``: where to post, or nothing."""

    def __init__(self, command: Sequence[str], url: str) -> None:
        self._command = tuple(command)
        self._url = url

    async def tell(self, event: Mapping[str, Any]) -> None:
        """Run and post what is configured, for one event; never raises because of them."""
        async with trio.open_nursery() as hooks:
            if self._command:
                hooks.start_soon(self._run, event, name="hook command")
            if self._url:
                hooks.start_soon(self._post, event, name="hook url")

    async def _run(self, event: Mapping[str, Any]) -> None:
        fields = {
            f"UPSWARM_{key.upper()}": str(value)
            for key, value in event.items()
            if isinstance(value, str | int | float) and "\0" not in str(value)
        }
        try:
            with trio.fail_after(HOOK_SECONDS_MAX):
                done = await trio.run_process(
                    list(self._command),
                    stdin=json.dumps(event).encode("ascii"),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **fields},
                    check=False,
                )
        except (OSError, ValueError, trio.TooSlowError) as error:
            log.warning("hook not run", command=self._command[0], reason=str(error) or "too slow; ended")
            return
        if done.returncode != 0:
            log.warning("hook failed", command=self._command[0], exit_code=done.returncode)

    async def _post(self, event: Mapping[str, Any]) -> None:
        # It takes a fifth of a second to load, and most never need it.
        from runtime.web import open_web

        try:
            async with open_web() as web:
                answer = await web.ask(
                    "POST",
                    self._url,
                    {"content-type": "application/json"},
                    json.dumps(event).encode("ascii"),
                    seconds_max=HOOK_SECONDS_MAX,
                )
        except LinkLost as error:
            log.warning("hook not reached", reason=str(error))
            return
        if not 200 <= answer.status < 300:
            log.warning("hook refused", status=answer.status)

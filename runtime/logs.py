"""Log lines: an event name, then fields. Always to stderr; stdout belongs to the data.

For people (key=value, in colours) when stderr is a terminal, else one JSON object a line. Decides nothing about what
is logged. Lines of libraries that use ``logging`` go the same way.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog

from protocol.errors import ConfigError
from runtime.terminal import escape_controls

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send log lines of at least ``level`` to ``stream`` (default: stderr as it is now).

    Raises:
        ConfigError: there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r}: {', '.join(LEVELS)} are possible")
    target = sys.stderr if stream is None else stream
    render: Callable[..., Any]
    if target.isatty():
        render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        last: list[Callable[..., Any]] = [_escape_fields, render]
    else:
        # JSON writes every control character as \uNNNN by itself.
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        # Loggers are made when modules are imported, before this runs; caching would freeze what they had then.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_ToStructlog()]
    # Libraries tell of their inner life at debug; we asked for ours.
    root.setLevel(max(LEVELS[level], logging.INFO))


class _ToStructlog(logging.Handler):
    """Hands the lines of ``logging`` to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _escape_fields(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if fields.get("exc_info"):
        # Formatted here, not by the renderer: an exception's text may come from the network as well.
        fields = structlog.processors.format_exc_info(_logger, _method, fields)
        fields["exception"] = escape_controls(str(fields["exception"]), keep="\n\t")
    return {
        escape_controls(key): value
        if isinstance(value, int | float | bool) or value is None or key == "exception"
        else escape_controls(value if isinstance(value, str) else repr(value))
        for key, value in fields.items()
    }

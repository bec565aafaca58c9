"""What callers of the control socket give, checked: a value of the right kind, or a sentence on what is wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.naming import UnsafeName, safe_parts
from protocol.errors import CommandError
from protocol.ids import Tag
from protocol.invite import LINK_SCHEME
from protocol.invite import Link as FileLink
from protocol.limits import NAME_BYTES_MAX

PATHS_MAX = 10_000
# A thousand years: far beyond that dates are numbers no more.
SECONDS_MAX = 1000 * 365 * 86_400


def only(params: Mapping[str, Any], *known: str) -> None:
    """Refuse parameters that nobody reads: a misspelt one must not be lost silently."""
    for key in params:
        if key not in known:
            raise CommandError("usage", f"unknown parameter {key[:40]!r}; {', '.join(known) or 'none'} are known", 2)


def flag(params: Mapping[str, Any], key: str) -> bool:
    """Return true or false; false when not given."""
    value = params.get(key, False)
    if not isinstance(value, bool):
        raise CommandError("usage", f"{key}: true or false was expected", 2)
    return value


def text(params: Mapping[str, Any], key: str) -> str:
    """Return a text that must be there."""
    value = optional_text(params, key)
    if not value:
        raise CommandError("usage", f"{key} is needed", 2)
    return value


def optional_text(params: Mapping[str, Any], key: str) -> str | None:
    """Return a text, or None when not given."""
    value = params.get(key)
    if value is None or isinstance(value, str):
        return value
    raise CommandError("usage", f"{key}: a text was expected", 2)


def optional_seconds(params: Mapping[str, Any], key: str) -> int | None:
    """Return a duration in whole seconds, at least one, or None when not given."""
    value = params.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= SECONDS_MAX:
        raise CommandError("usage", f"{key}: a number of seconds from 1 on was expected", 2)
    return int(value)


def absolute_path(value: Any, key: str) -> Path:
    """Return an absolute path: the daemon's working folder is not the caller's."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise CommandError("usage", f"{key}: a path was expected", 2)
    path = Path(value)
    if not path.is_absolute() or ".." in path.parts:
        raise CommandError("usage", f"{key}: {value[:200]!r} is not absolute (and without '..')", 2)
    return path


def absolute_paths(params: Mapping[str, Any], key: str) -> list[Path]:
    """Return one or more absolute paths."""
    values = params.get(key)
    if not isinstance(values, list) or not 1 <= len(values) <= PATHS_MAX:
        raise CommandError("usage", f"{key}: a list of 1 to {PATHS_MAX} paths was expected", 2)
    return list(dict.fromkeys(absolute_path(value, key) for value in values))


def optional_name(params: Mapping[str, Any], key: str) -> str | None:
    """Return a name that a file is to be given, or None when not given. It must be one that others can get it under."""
    value = optional_text(params, key)
    if value is None:
        return None
    try:
        return "/".join(safe_parts(value))
    except UnsafeName as error:
        raise CommandError("usage", f"{key}: {error.flaw}", 2) from error


def tag_or_name(what: str) -> tuple[Tag | str, str]:
    """Return what a tag, link or name stands for: a tag or a name, and the name that a link gives ("" for none)."""
    if what.startswith(f"{LINK_SCHEME}:"):
        try:
            link = FileLink.parse(what)
        except ValueError as error:
            raise CommandError("usage", str(error), 2) from error
        if link.key is not None:
            raise CommandError("usage", "the key of a link is for nobody but who opens it: use upswarm get LINK", 2)
        return link.tag, link.name
    try:
        return Tag.parse(what), ""
    except ValueError:
        pass  # Then it is a name.
    name = unicodedata.normalize("NFC", what)
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise CommandError("usage", f"{what!r}: not UTF-8", 2) from None
    if size > NAME_BYTES_MAX:
        raise CommandError("usage", f"a name of {size} bytes; at most {NAME_BYTES_MAX} are possible", 2)
    return name, ""

"""Settings of a program: flag, else environment, else file, else default; read once, into one frozen dataclass.

The dataclass is the schema. A field's type says what is allowed, the unit at the end of its name how a text is read:
``_bytes_per_second`` ("20mbit", "2M"), ``_bytes`` ("20MiB"), ``_seconds`` ("24h"). Its section's keys in the file are
the fields' names; in the environment they are UPSWARM_<SECTION>_<FIELD>. What is unknown or of the wrong kind is a
ConfigError that says where, and what would be right: a setting that is silently ignored is worse than none.

Reads no environment itself; it is handed in. Imports no trio.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from protocol.errors import ConfigError


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


C = TypeVar("C", bound=_Dataclass)

CONFIG_BYTES_MAX = 1 << 20  # A file of settings beyond this is some other file.
SECTIONS = ("daemon", "tracker", "storage")

_NUMBER_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*")
_SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", 1):
    # K, M, G as people say them for files are powers of 1024 with an i and of 1000 without one.
    _SIZES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class Secret:
    """A setting that is never shown: it prints as stars, or as nothing when there is none. ``reveal`` for whoever must
    have it. Not read from the config file, which others may read."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def __repr__(self) -> str:
        return "***" if self._text else ""

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """Return it."""
        return self._text


NO_SECRET = Secret()


def parse_size_bytes(text: str) -> int:
    """Return bytes of "20MiB", "3 GB", "500k" or "4096".

    Raises:
        ValueError: it is no size; the sentence says what one looks like.
    """
    number, unit = _split(text, "a size, as in 20MiB, 3GB or 4096")
    factor = _SIZES.get(unit.lower())
    if factor is None:
        raise ValueError(f"{text!r}: unit {unit!r} is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return int(number * factor)


def parse_rate(text: str) -> float:
    """Return bytes per second of "20mbit" (bits), "2M", "500KiB/s" or "1000".

    Raises:
        ValueError: it is no rate, or zero; the sentence says what one looks like.
    """
    number, unit = _split(text, "a rate, as in 20mbit, 2M or 500KiB/s")
    word = unit.lower().removesuffix("/s")
    if word.endswith(("bit", "bps")):
        factor = _SIZES.get(word.removesuffix("bit").removesuffix("bps"), 0) / 8
    else:
        factor = float(_SIZES.get(word, 0))
    if not factor:
        raise ValueError(f"{text!r}: unit {unit!r} is none of bit, kbit, mbit, gbit (bits), k, M, KiB, MiB (bytes)")
    if not number:
        raise ValueError(f"{text!r}: a rate of zero never ends; pause instead")
    return number * factor


def parse_duration_seconds(text: str) -> float:
    """Return seconds of "90", "30s", "15min", "24h" or "7d".

    Raises:
        ValueError: it is no duration; the sentence says what one looks like.
    """
    number, unit = _split(text, "a duration, as in 30s, 15min, 24h or 7d")
    factor = _SECONDS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{text!r}: unit {unit!r} is none of ms, s, min, h, d, w")
    return number * factor


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of a config file; {} when there is none.

    Raises:
        ConfigError: it cannot be read, is no TOML, or has a section that no program reads.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_file(data, path)


def parse_file(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of a config file of this content; ``path`` is for the sentence of an error.

    Raises:
        ConfigError: it is too long, is no TOML, or has a section that no program reads.
    """
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: more than {CONFIG_BYTES_MAX} bytes, that is no config file")
    try:
        sections = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for name, section in sections.items():
        if name not in SECTIONS:
            raise ConfigError(f"{path}: unknown section [{name}]{_did_you_mean(name, SECTIONS)}")
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name} must be a section: write [{name}] on a line of its own")
    return sections


def load_config(
    kind: type[C],
    section: str,
    *,
    file: Path,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    fixed: Mapping[str, object] | None = None,
) -> C:
    """Return the settings of one program.

    ``flags``: what the command line gave, by field name; None says "not given", texts are read like the
    environment's. ``fixed``: fields that only the caller sets (a folder that follows from --home, say).

    Raises:
        ConfigError: a setting is unknown, of the wrong kind, or impossible.
    """
    return settings_of(
        kind, section, read_file(file), file=file, environment=environment, flags=flags, fixed=dict(fixed or {})
    )


def settings_of(
    kind: type[C],
    section: str,
    sections: Mapping[str, dict[str, Any]],
    *,
    file: Path,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    fixed: Mapping[str, object],
) -> C:
    """Return the settings of one program from a file that was read (``sections``); else as ``load_config``.

    Raises:
        ConfigError: a setting is unknown, of the wrong kind, or impossible.
    """
    hints = _hints_of(typing.cast(typing.Hashable, kind))
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name not in fixed]
    values: dict[str, object] = {}
    prefix = f"UPSWARM_{section.upper()}_"
    sources: list[tuple[Mapping[str, object], Callable[[str], str], bool]] = [
        (sections.get(section, {}), lambda key: f"{file}: [{section}] {key}", False),
        (
            {key.removeprefix(prefix).lower(): text for key, text in environment.items() if key.startswith(prefix)},
            lambda key: f"environment {prefix}{key.upper()}",
            True,
        ),
        (
            {key: value for key, value in flags.items() if value is not None},
            lambda key: f"--{key.replace('_', '-')}",
            True,
        ),
    ]
    for given, where, is_text in sources:
        for key, raw in given.items():
            if key not in names:
                raise ConfigError(f"{where(key)}: unknown setting{_did_you_mean(key, names)}")
            try:
                values[key] = _value(raw, hints[key], key, is_text=is_text)
            except ValueError as error:
                raise ConfigError(f"{where(key)}: {error}") from error
    try:
        return kind(**values, **fixed)
    except ValueError as error:
        raise ConfigError(f"[{section}]: {error}") from error
    except TypeError as error:
        missing = [name for name in names if name not in values and name in str(error)]
        if not missing:
            raise
        flag = missing[0].replace("_", "-")
        raise ConfigError(f"[{section}] {missing[0]} is needed: give --{flag}, or write it into {file}") from error


@cache
def _hints_of(kind: typing.Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(raw: object, hint: Any, name: str, *, is_text: bool) -> object:
    """Return ``raw`` as ``hint`` says. ``is_text``: from a flag or the environment, where numbers are texts too."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _value(raw, typing.get_args(hint)[0], name, is_text=is_text)
    if origin is typing.Literal:
        if raw in typing.get_args(hint):
            return raw
        raise ValueError(f"{raw!r} is none of {', '.join(map(str, typing.get_args(hint)))}")
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if len(kinds) < len(typing.get_args(hint)) and raw in ("off", "none", None):
            return None
        return _value(raw, kinds[0], name, is_text=is_text)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if is_text and isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if not isinstance(raw, list | tuple):
            raise ValueError(f"{raw!r}: a list was expected")
        return tuple(_value(part, item, name, is_text=is_text) for part in raw)
    if hint is bool:
        return _flag(raw, is_text=is_text)
    if hint in (int, float):
        return _number(raw, hint, name, is_text=is_text)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        words = {str(member.value): member for member in hint}
        if isinstance(raw, hint):
            return raw
        if raw not in words:
            raise ValueError(f"{raw!r} is none of {', '.join(words)}")
        return words[str(raw)]
    if hint is Path:
        if isinstance(raw, Path):
            return raw.expanduser().absolute()
        if isinstance(raw, str) and raw and "\0" not in raw:
            try:
                return Path(raw).expanduser().absolute()
            except RuntimeError as error:  # pathlib's word for ~NAME of nobody
                raise ValueError(f"{raw!r}: there is no such user's home") from error
        raise ValueError(f"{raw!r}: a path was expected")
    if hint is Secret:
        if not is_text:
            raise ValueError("a secret has no place in this file; set it in the environment, or use a file of its own")
        return Secret(str(raw))
    if hint is str:
        if isinstance(raw, str):
            return raw
        raise ValueError(f"{raw!r}: a text was expected")
    raise AssertionError(f"config field {name}: no reader for {hint!r}")


def _flag(raw: object, *, is_text: bool) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if is_text and isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError(f"{raw!r}: true or false was expected")


def _number(raw: object, kind: type[int] | type[float], name: str, *, is_text: bool) -> int | float:
    if isinstance(raw, str):
        if name.endswith("_bytes_per_second"):
            raw = parse_rate(raw)
        elif name.endswith("_bytes"):
            raw = parse_size_bytes(raw)
        elif name.endswith("_seconds"):
            raw = parse_duration_seconds(raw)
        elif is_text:
            try:
                raw = kind(raw)
            except ValueError:
                raise ValueError(f"{raw!r}: a number was expected") from None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"{raw!r}: a number was expected")
    if kind is int:
        if raw != int(raw):
            raise ValueError(f"{raw!r}: a whole number was expected")
        return int(raw)
    return float(raw)


def _split(text: str, wanted: str) -> tuple[float, str]:
    match = _NUMBER_UNIT.fullmatch(text)
    if match is None or len(match[1]) > 20:
        raise ValueError(f"{text[:80]!r} is not {wanted}")
    return float(match[1]), match[2]


def _did_you_mean(word: str, known: typing.Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are: {', '.join(known)}"

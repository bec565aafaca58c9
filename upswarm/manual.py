"""The manual pages, made from the commands themselves: what a verb says of itself is said in one place.

Text in, roff out; writes nothing. scripts/write_manual.py writes man/, and a test compares.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

EXIT_CODES = (
    (0, "What was asked for has happened."),
    (1, "Failed."),
    (2, "Wrong usage or settings."),
    (3, "No daemon (or tracker, or storage node) runs here."),
    (4, "Not found."),
    (5, "Temporary: trying again may help."),
    (6, "Refused."),
    (7, "Unfinished."),
    (8, "Bytes are not what their digest says."),
    (9, "No space."),
    (10, "Timeout."),
    (130, "Interrupted."),
    (143, "Terminated."),
)
ENVIRONMENT = (
    ("UPSWARM_HOME", "The folder of config, state and sockets, as --home."),
    ("UPSWARM_DAEMON_*, UPSWARM_TRACKER_*, UPSWARM_STORAGE_*", "Settings; they go before upswarm.toml(5)."),
    ("NO_COLOR", "Draw progress without colours."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: where a program says that it is ready and alive."),
)
FILES = (
    ("~/.config/upswarm/upswarm.toml", "Settings, see upswarm.toml(5)."),
    ("~/.local/state/upswarm/", "What the programs keep: keys, records, what is stored."),
    ("$XDG_RUNTIME_DIR/upswarm/", "Control sockets."),
    ("/var/lib/upswarm/", "All of that, for services of the system."),
)


def command_page(cli: click.Group) -> str:
    """Return upswarm(1): every verb with its options."""
    lines = [
        '.\\" Made by scripts/write_manual.py; do not edit.',
        '.TH UPSWARM 1 "" "Upswarm" "Upswarm"',
        ".SH NAME",
        f"upswarm \\- {_plain(_summary(cli))}",
        ".SH SYNOPSIS",
        ".B upswarm",
        ".RI [--home\\~ DIR ]",
        ".RI [--json]",
        ".I VERB",
        ".RI [ ARGUMENT .\\|.\\|.]",
        ".SH DESCRIPTION",
        "Data goes to stdout, everything else to stderr. With",
        ".B \\-\\-json",
        "a verb prints exactly one object, or one a line when it follows something, also when it fails.",
        ".SH VERBS",
    ]
    for name, command in verbs(cli):
        lines += _verb(name, command)
    lines += [".SH ENVIRONMENT", *_list(ENVIRONMENT), ".SH FILES", *_list(FILES)]
    lines += [".SH EXIT STATUS", *_list([(str(code), says) for code, says in EXIT_CODES])]
    lines += [".SH SEE ALSO", ".BR upswarm.toml (5),", ".BR systemctl (1)"]
    return "\n".join(lines) + "\n"


def config_page(example: str) -> str:
    """Return upswarm.toml(5): the example of docs/, which a test holds to what programs read."""
    lines = [
        '.\\" Made by scripts/write_manual.py; do not edit.',
        '.TH UPSWARM.TOML 5 "" "Upswarm" "Upswarm"',
        ".SH NAME",
        "upswarm.toml \\- settings of Upswarm's programs",
        ".SH DESCRIPTION",
        "Every setting with its default. An unknown one is an error.",
        ".PP",
        ".nf",
        *(_plain(line) for line in example.splitlines()),
        ".fi",
        ".SH SEE ALSO",
        ".BR upswarm (1)",
    ]
    return "\n".join(lines) + "\n"


def verbs(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every verb with its full name; a group's verbs instead of the group."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


def _verb(name: str, command: click.Command) -> list[str]:
    arguments = [_argument(parameter) for parameter in command.params if isinstance(parameter, click.Argument)]
    lines = [f'.SS "{_plain(" ".join([name, *arguments]))}"']
    # Each paragraph of a help text is one paragraph here.
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))):
        lines += [*([".PP"] if number else []), _plain(" ".join(paragraph.split()))]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not {"--home", "--json"} & set(parameter.opts):
            lines += [".TP", f".B {_plain(_option(parameter))}", _plain(_option_help(parameter))]
    return lines


def _argument(argument: click.Argument) -> str:
    name = argument.make_metavar(click.Context(click.Command("x")))
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: click.Option) -> str:
    words = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return words
    return f"{words} {option.make_metavar(click.Context(click.Command('x')))}"


def _option_help(option: click.Option) -> str:
    words = [option.help or ""]
    if option.multiple:
        words.append("May be given several times.")
    if option.show_default and option.default is not None:
        words.append(f"Default: {option.default}.")
    return " ".join(word for word in words if word) or "See above."


def _summary(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\n")[0].rstrip(".").lower()


def _list(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    return [line for term, says in rows for line in (".TP", f".B {_plain(term)}", _plain(says))]


def _plain(text: str) -> str:
    """Return ``text`` so that roff prints exactly that."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    )
    text = text.replace('"', "\\(dq")
    # A line that begins with one of these would be a request; \& is nothing, and ends that.
    return f"\\&{text}" if text[:1] in (".", "'") else text

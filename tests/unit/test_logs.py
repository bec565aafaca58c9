from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from protocol.errors import ConfigError
from runtime.logs import setup_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_no_terminal_gets_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    setup_logs("info", stream)
    structlog.get_logger().info("chunk stored", chunk=3, name="a\x1b[2J\nb")
    line = stream.getvalue()
    assert line.count("\n") == 1 and "\x1b" not in line
    record = json.loads(line)
    assert (record["event"], record["level"], record["chunk"]) == ("chunk stored", "info", 3)
    assert record["timestamp"].endswith("Z")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_key_and_value_and_no_control_characters_of_others() -> None:
    stream = Terminal()
    setup_logs("info", stream)
    structlog.get_logger().warning("refused", name="\x1b]0;owned\x07", who=("x\x9b",))
    text = stream.getvalue()
    assert "\\x1b]0;owned\\x07" in text and "\x07" not in text and "\x9b" not in text and "who" in text


def test_an_exceptions_text_is_escaped_on_a_terminal_and_whole_in_json() -> None:
    for stream in (Terminal(), io.StringIO()):
        setup_logs("info", stream)
        try:
            raise RuntimeError("from\x1b[31moutside")
        except RuntimeError:
            structlog.get_logger().exception("failed")
        assert "\x1b[31moutside" not in stream.getvalue()
        assert "RuntimeError" in stream.getvalue()


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    setup_logs("warning", stream)
    structlog.get_logger().info("small talk")
    assert stream.getvalue() == ""


def test_lines_of_other_libraries_go_the_same_way() -> None:
    stream = io.StringIO()
    setup_logs("info", stream)
    logging.getLogger("zeroconf").warning("odd %s", "packet")
    record = json.loads(stream.getvalue())
    assert (record["event"], record["logger"], record["level"]) == ("odd packet", "zeroconf", "warning")


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="debug, info, warning, error"):
        setup_logs("loud")

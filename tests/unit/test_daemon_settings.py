from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from support.daemon_node import World

from daemon.config import DaemonConfig
from daemon.timetable import Caps
from daemon.transfercommands import TransferCommands
from protocol.errors import CommandError, ConfigError
from runtime.places import Places


async def test_settings_that_are_read_again_hold_at_once_and_the_others_are_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.daemon("anna", up_bytes_per_second=1e6) as daemon:
        new = replace(daemon.config, up_bytes_per_second=2e6, help_bytes_per_second=3e6, lend=True, name="other")
        assert await daemon.reconfigure(new) == ["name"]
        settings = daemon.settings.settings
        assert (settings.up, settings.help, settings.down) == (2e6, 3e6, None)
        assert daemon.config.lend and daemon.config.name != "other", "what waits for a restart stays as it is"


async def test_what_limit_changed_goes_before_what_is_configured(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.daemon("anna", up_bytes_per_second=1e6) as daemon:
        await daemon.settings.change(up=5e6)
        await daemon.reconfigure(replace(daemon.config, up_bytes_per_second=2e6, down_bytes_per_second=7e6))
        assert (daemon.settings.settings.up, daemon.settings.settings.down) == (5e6, 7e6)
    async with world.daemon("anna", up_bytes_per_second=2e6) as daemon:
        assert daemon.settings.settings.up == 5e6, "in later lives too"


async def no_notice(method: str, params: dict[str, object]) -> None:
    raise AssertionError("limit says nothing on the way")


async def test_of_a_timetable_and_a_cap_the_lower_one_holds(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.daemon("anna", up_bytes_per_second=2e6, timetable="08:00,1M:off:3M 18:00,off") as daemon:
        monday = datetime(2026, 11, 23)
        assert daemon.settings.caps_at(monday.replace(hour=9).timestamp()) == Caps(1e6, None, 3e6)
        assert daemon.settings.caps_at(monday.replace(hour=20).timestamp()) == Caps(2e6, None, None)
        assert daemon.settings.seconds_to_next(monday.replace(hour=17, minute=59).timestamp()) == 60


async def test_a_timetable_is_set_shown_and_taken_away_by_limit(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.daemon("anna") as daemon:
        limit = TransferCommands(daemon).limit
        answer = await limit({"timetable": "00:00,5M:7M"}, no_notice)
        assert answer["timetable"] == "00:00,5M:7M" and answer["up"] == "off"
        assert answer["now"] == {"up": 5e6, "down": 7e6, "help": "off"}
        assert daemon.statistics().to_json()["limits"] == {"up": 5e6, "down": 7e6, "help": None}
        with pytest.raises(CommandError, match="no unit"):
            await limit({"timetable": "00:00,5"}, no_notice)
    async with world.daemon("anna") as daemon:
        limit = TransferCommands(daemon).limit
        assert (await limit({}, no_notice))["now"]["up"] == 5e6, "it lasts beyond a restart"
        assert (await limit({"timetable": "off"}, no_notice))["now"]["up"] == "off"


def test_a_timetable_that_is_none_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"timetable: .*weekday"):
        DaemonConfig(places=Places.of(tmp_path, "daemon"), timetable="Sunny-08:00,1M")

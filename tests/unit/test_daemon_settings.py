from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.daemon_node import World


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

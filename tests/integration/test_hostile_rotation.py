"""The authority is rotated under way, over real sockets: both count for a while, and then the old one does not."""

from __future__ import annotations

import json
from pathlib import Path

from support.crew import Crew, put
from support.processes import Program, Swarm, wait_until
from support.strangers import keyring_of, knock


def rotate(tracker: Program, *arguments: str, code: int = 0) -> dict:
    done = tracker.upswarm("rotate", "--json", *arguments, check=False)
    assert done.exit_code == code, done
    return json.loads(done.stdout)


def authorities_of(program: Program) -> int:
    return (Path(program.identity) / "authority.pem").read_text().count("BEGIN CERTIFICATE")


def test_an_authority_is_rotated_while_the_swarm_works(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=3)
    first, second, away = crew.daemons
    assert put(first, crew.file("before.bin", 300_000, seed=1))["state"] == "stored"
    stolen = keyring_of(first.identity).credentials
    early = swarm.invite()
    away.stop()
    assert rotate(crew.tracker, "--finish", code=1)["error"]["code"] == "not-rotating"

    begun = rotate(crew.tracker)
    assert begun["next"] and begun["next"] != begun["authority"] and away.node in begun["waiting"]
    wait_until(lambda: rotate(crew.tracker)["waiting"] == [away.node], "all who are here have renewed")
    assert rotate(crew.tracker)["next"] == begun["next"], "asking again begins nothing"
    assert all(authorities_of(program) == 2 for program in (crew.storage, first, second))
    # Both count: the copy of an old certificate, and a node that was away and knows the old one only.
    assert knock(crew.storage.address, stolen)
    refused = rotate(crew.tracker, "--finish", code=7)
    assert away.node[:8] in refused["error"]["message"]
    crew.tracker.restart()
    assert rotate(crew.tracker)["next"] == begun["next"], "a rotation outlives a restart"
    away.start()
    wait_until(lambda: rotate(crew.tracker)["waiting"] == [], "who was away has renewed, too")
    assert put(away, crew.file("between.bin", 300_000, seed=2))["state"] == "stored"

    finished = rotate(crew.tracker, "--finish")
    assert finished == {"authority": begun["next"], "next": None, "waiting": []}
    programs = (crew.storage, first, second, away)
    wait_until(lambda: all(authorities_of(program) == 1 for program in programs), "nobody trusts the old one")
    for program in (crew.tracker, *programs):
        wait_until(lambda program=program: knock(program.address, stolen) == b"", f"{program} refuses the old one's")
    assert put(second, crew.file("after.bin", 300_000, seed=3))["state"] == "stored"
    # What was given out before is void, and said so; what is given out now works.
    done = swarm.upswarm("--home", crew.folder / "late", "join", early)
    assert done.exit_code == 6 and "another swarm" in done.stderr, done
    fresh = swarm.daemon("fresh")
    assert put(fresh, crew.file("fresh.bin", 300_000, seed=4))["state"] == "stored"
    assert authorities_of(fresh) == 1
    for program in programs:
        program.restart()
    assert put(first, crew.file("restarted.bin", 300_000, seed=5))["state"] == "stored"


def test_who_was_away_all_the_time_is_out_and_told_how_to_come_back(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    here, away = crew.daemons
    away.stop()
    rotate(crew.tracker)
    wait_until(lambda: rotate(crew.tracker)["waiting"] == [away.node], "all others have renewed")
    rotate(crew.tracker, "--finish", code=7)
    assert rotate(crew.tracker, "--finish", "--force")["next"] is None
    away.start()
    away.wait_logged("tracker not connected")
    assert put(here, crew.file("on.bin", 100_000, seed=6))["state"] == "stored"
    away.stop()
    away.upswarm("leave", "--yes")
    swarm.join(away)
    away.start()
    assert put(away, crew.file("back.bin", 100_000, seed=7))["state"] == "stored"


def test_who_joins_in_the_middle_and_never_comes_is_named_and_not_shut_out_unsaid(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    rotate(crew.tracker)
    wait_until(lambda: rotate(crew.tracker)["waiting"] == [], "all who are here have renewed")
    late = swarm.join(swarm.add_daemon("late"))
    node = keyring_of(late.identity).credentials.node
    assert rotate(crew.tracker)["waiting"] == [node], "its certificate is one of the old authority"
    refused = rotate(crew.tracker, "--finish", code=7)
    assert node[:8] in refused["error"]["message"]
    # It comes after all, hears of the next authority, and then nobody is left out.
    late.start()
    wait_until(lambda: rotate(crew.tracker)["waiting"] == [], "it has renewed")
    assert rotate(crew.tracker, "--finish")["next"] is None
    assert put(late, crew.file("late.bin", 100_000, seed=8))["state"] == "stored"

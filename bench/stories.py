"""Scenarios that are no single upload: many at once, a small one beside a large one, NAT on both sides.

As in scenarios.py each builds its own small internet. Upswarm alone: libtorrent has no word for most of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from support.files import make_file
from support.processes import Refused

from bench.cast import Cast, Got, Watched, wait_for
from bench.scenarios import MIB, Options, Result, own_folder, servers
from bench.testbed import Host, Testbed, usable


def many(options: Options) -> Iterator[Result]:
    """Eight files from four uploaders, two each; two helpers hold all of them. All lines are alike."""
    names = ("uploader", "uploader2", "uploader3", "uploader4", "helper1", "helper2")
    hosts = tuple(Host(name, up=options.mbit, down=options.downlink()) for name in names)
    size = options.mib * MIB // 8
    with own_folder() as folder, Testbed((*servers(), *hosts)) as testbed, Cast.opened(testbed) as cast:
        files = [make_file(folder / f"file{number}.bin", size, seed=number) for number in range(8)]
        for file in files:
            for name in names[4:]:
                cast.share_own(name, file)
        cast.share(names[4:], files[0])
        cpu = cast.cpu()
        began_at = time.monotonic()
        puts = [Watched(cast.daemons[names[number % 4]], file) for number, file in enumerate(files)]
        for put in puts:
            put.join()
        times = sorted(put.seconds() or float("inf") for put in puts)
        bound = 8 * size / usable(options.mbit * len(names))
        note = "each stored after " + ", ".join(f"{seconds:.1f}" for seconds in times) + " s"
        stored = time.monotonic() - began_at if times[-1] < float("inf") else None
        load = os.getloadavg()[0]
        cast.keep_logs(options.keep_logs, "many")
        sent, wasted, used = cast.sent(), cast.wasted(), cast.cpu_since(cpu)
        yield Result("many", "upswarm", options.mib, bound, stored, sent, wasted, note=note, load=load, cpu=used)


def small(options: Options) -> Iterator[Result]:
    """A file of 256 KiB put when a large one of the same uploader is a third on its way. The bound: its own bytes."""
    hosts = (Host("uploader", up=options.mbit, down=options.downlink()),)
    with own_folder() as folder, Testbed((*servers(), *hosts)) as testbed, Cast.opened(testbed) as cast:
        large = Watched(cast.daemons["uploader"], make_file(folder / "large.bin", options.mib * MIB, seed=1))
        third = options.mib * MIB / usable(options.mbit) / 3
        wait_for(lambda: time.monotonic() - large.began_at > third, "a third", third + 60)
        put = Watched(cast.daemons["uploader"], make_file(folder / "small.bin", MIB // 4, seed=2))
        put.join()
        large.join()
        bound = MIB / 4 / usable(options.mbit)
        note = f"the large one after {large.seconds() or float('inf'):.1f} s"
        load = os.getloadavg()[0]
        yield Result("small", "upswarm", options.mib, bound, put.seconds(), cast.sent(), 0, note=note, load=load)


def meeting(options: Options) -> Iterator[Result]:
    """A holder behind NAT; somebody downloads from it: the holder is ordered to dial. Then one behind another NAT asks
    as well: it can have it from the first one. The bound is that of the first."""
    hosts = (
        Host("uploader", up=options.mbit, down=options.downlink(), nat=True),
        Host("open", up=options.mbit, down=options.downlink()),
        Host("hidden", up=options.mbit, down=options.downlink(), nat=True),
    )
    with own_folder() as folder, Testbed((*servers(), *hosts)) as testbed, Cast.opened(testbed) as cast:
        tag = cast.share(("uploader",), make_file(folder / "file.bin", options.mib * MIB, seed=1))
        got = Got(cast.daemons["open"], tag, folder / "open.got", time.monotonic())
        got.join()
        second = Got(cast.daemons["hidden"], tag, folder / "hidden.got", time.monotonic())
        second.join()
        bound = options.mib * MIB / usable(options.mbit)
        note = f"the one behind NAT after another {second.seconds or float('inf'):.1f} s"
        load = os.getloadavg()[0]
        yield Result("meeting", "upswarm", options.mib, bound, got.seconds, cast.sent(), 0, note=note, load=load)


def apart(options: Options) -> Iterator[Result]:
    """Holder and downloader, each behind a NAT of its own, and nobody else: what the downloader is told, and when."""
    hosts = tuple(Host(name, up=options.mbit, down=options.downlink(), nat=True) for name in ("uploader", "hidden"))
    with own_folder() as folder, Testbed((*servers(), *hosts)) as testbed, Cast.opened(testbed) as cast:
        tag = cast.share(("uploader",), make_file(folder / "file.bin", options.mib * MIB, seed=1))
        began_at = time.monotonic()
        try:
            cast.daemons["hidden"].call("get", 300, what=tag, output=str(folder / "hidden.got"))
            told = "it got it"
        except Refused as refused:
            told = f"told after {time.monotonic() - began_at:.1f} s: {refused}"
        bound = options.mib * MIB / usable(options.mbit)
        load = os.getloadavg()[0]
        yield Result("apart", "upswarm", options.mib, bound, None, cast.sent(), 0, note=told, load=load)


STORIES: dict[str, Callable[[Options], Iterator[Result]]] = {
    story.__name__: story for story in (many, small, meeting, apart)
}

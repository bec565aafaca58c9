"""What is known of complete files, beside a plain dict of path to file."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemon.filerows import KnownFile, Origin, file_of, row_of
from daemon.known import KnownFiles
from protocol.ids import Tag
from runtime.seam import FileStatus

PATHS = [Path("/film"), Path("/film copy"), Path("/a/b"), Path("/\udcff not utf-8")]
TAGS = [Tag(bytes([number]) * 32, 1) for number in range(3)]
ORIGINS: list[Origin] = ["put", "share", "get"]

statuses = st.builds(
    FileStatus,
    st.just("file"),
    st.just(7),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    # As some file systems have them, beyond what SQLite's integers hold.
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
files = st.builds(
    KnownFile,
    st.sampled_from(PATHS),
    st.sampled_from(TAGS),
    statuses,
    st.sampled_from(["", "one", "two"]),
    st.sampled_from(ORIGINS),
    st.booleans(),
    st.integers(0, 3),
)


class KnownFilesBesideADict(RuleBasedStateMachine):
    """Order within a tag: who came first, and has not left since, stands first."""

    def __init__(self) -> None:
        super().__init__()
        self.known = KnownFiles()
        self.model: dict[Path, KnownFile] = {}

    @rule(file=files)
    def enter(self, file: KnownFile) -> None:
        before = self.model.get(file.path)
        if before is not None and before.tag != file.tag:
            self.leave(file.path)
        self.known.enter(file)
        self.model[file.path] = file

    @rule(path=st.sampled_from(PATHS))
    def leave(self, path: Path) -> None:
        file = self.known.get(path)
        assert file == self.model.pop(path, None)
        if file is not None:
            self.known.leave(file)

    @rule()
    def restart(self) -> None:
        """Known again from the rows alone, in the order of the paths."""
        self.model = dict(sorted(self.model.items(), key=lambda item: bytes(item[0])))
        self.known = KnownFiles([row_of(file) for file in self.model.values()])

    @invariant()
    def agrees(self) -> None:
        assert len(self.known) == len(self.model)
        assert self.known.files() == [self.model[path] for path in sorted(self.model, key=bytes)]
        assert [file_of(row) for row in self.known.rows()] == list(self.model.values())
        assert set(self.known.tags()) == {file.tag for file in self.model.values()}
        assert len(self.known.tags()) == len(set(self.known.tags()))
        for path in PATHS:
            assert self.known.get(path) == self.model.get(path)
        for name in ("one", "two"):
            assert self.known.named(name) == [file for file in self.model.values() if file.name == name]
        for tag in TAGS:
            of_tag = [file for file in self.model.values() if file.tag == tag]
            assert self.known.of(tag) == of_tag and (tag in self.known) == bool(of_tag)
            assert self.known.first(tag) == next(iter(of_tag), None)
            assert self.known.is_shared(tag) == any(file.shared for file in of_tag)
            assert self.known.size_bytes(tag) == (7 if of_tag else None)
            if of_tag:
                newest = sorted(of_tag, key=lambda file: (-file.since, bytes(file.path)))
                names = list(dict.fromkeys(file.name for file in newest if file.name))
                assert self.known.names(tag) == (newest[0].since, names)


TestKnownFiles = KnownFilesBesideADict.TestCase


def test_a_row_is_still_known_until_a_newer_one_stands_for_its_path() -> None:
    file = KnownFile(PATHS[0], TAGS[0], FileStatus("file", 1, 2, 3, 4, 5), "", "put", False, 0)
    known = KnownFiles()
    known.enter(file)
    (row,) = known.rows()
    assert known.still(row)
    known.enter(file)
    assert not known.still(row), "an equal one, but entered later: what was found out about the first is old"

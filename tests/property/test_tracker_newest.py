"""The newest tags are those that sorting everything finds, whatever came and went before."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from support.pairs import some_tag

from protocol.ids import Tag
from tracker.index import newest
from tracker.index.newest import KEPT, NewestTags

TAGS = [some_tag(str(number), 2) for number in range(40)]
moves = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 39), st.integers(0, 6)),
        st.tuples(st.just("drop"), st.integers(0, 39), st.just(0)),
        st.tuples(st.just("look"), st.integers(1, 12), st.just(0)),
    ),
    max_size=120,
)


@given(moves)
def test_the_newest_are_those_that_sorting_everything_finds(steps: list[tuple[str, int, int]]) -> None:
    dates: dict[Tag, int] = {}
    kept = newest.KEPT
    newest.KEPT = 4
    try:
        book = NewestTags(lambda tag, _now: dates.get(tag))
        for what, number, since in steps:
            if what == "hold":
                dates[TAGS[number]] = since
                book.note(TAGS[number], since)
            elif what == "drop":
                dates.pop(TAGS[number], None)
            else:
                plain = sorted((-date, tag) for tag, date in dates.items())
                assert book.first(number, 0.0, list(dates)) == [tag for _, tag in plain[:number]]
    finally:
        newest.KEPT = kept


def test_everything_is_looked_through_once_and_not_for_every_page() -> None:
    dates = {some_tag(str(number), 2): number for number in range(20 * KEPT)}
    book = NewestTags(lambda tag, _now: dates.get(tag))
    for tag, since in dates.items():
        book.note(tag, since)
    for _ in range(10):
        assert len(book.first(20, 0.0, Untouched())) == 20


class Untouched:
    """All tags, which nobody may read."""

    def __iter__(self) -> Iterator[Tag]:
        raise AssertionError("everything was read")

"""What objects are called: whatever a file's name is, its key is plain, has its tag, and is read back as that tag."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.pairs import some_tag

from protocol.ids import Tag
from protocol.limits import NAME_BYTES_MAX
from storage.backends.s3keys import BY_CONTENT, KEY_BYTES_MAX, KeyTemplate, metadata_of, safe_name

TEMPLATES = (
    BY_CONTENT,
    "files/{name}/{tag}",
    "files/{folder}{stem}.{tag}{suffix}",
    "f/{tag}/{name}",
    "all/{folder}{tag}{suffix}",
)
BY_HASH = st.integers(0, 9).map(lambda number: str(some_tag(str(number), 3)))
names = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab./-_ é\n%\\"), max_size=40),
    st.builds(lambda tag, end: f"{tag}{end}", BY_HASH, st.text(max_size=5)),
)
tags = st.builds(lambda seed, chunks: Tag(some_tag(str(seed), 1).root, chunks), st.integers(0, 9), st.integers(1, 8192))


@given(st.sampled_from(TEMPLATES), tags, names)
@example("files/{name}/{tag}", some_tag("1", 2), f"{some_tag('2', 2)}/x")
@example("files/{folder}{stem}.{tag}{suffix}", some_tag("1", 2), ".hidden")
def test_a_key_is_plain_and_is_read_back_as_its_tag(text: str, tag: Tag, name: str) -> None:
    template = KeyTemplate(text)
    key = template.key_of(tag, name)
    assert re.fullmatch(r"[A-Za-z0-9!_.*'()/-]+", key) and len(key) <= KEY_BYTES_MAX
    assert not key.startswith("/") and all(part not in (".", "..") for part in key.split("/"))
    assert template.tag_of(key) == tag


@given(st.sampled_from(TEMPLATES), st.text(max_size=120))
def test_what_others_keep_there_is_not_ours(text: str, key: str) -> None:
    assert KeyTemplate(text).tag_of(key) is None


@given(names)
def test_the_name_goes_with_the_object_as_it_is(name: str) -> None:
    headers = metadata_of(some_tag("1", 2), name)
    text = headers["x-amz-meta-upswarm-name"]
    assert text.isascii() and text.isprintable()
    if len(text) < NAME_BYTES_MAX:
        assert unquote(text) == name


def test_names_that_people_use_stay_readable() -> None:
    tag = some_tag("1", 2)
    assert (
        KeyTemplate("f/{folder}{stem}.{tag}{suffix}").key_of(tag, "films/new cut.mp4") == f"f/films/new_cut.{tag}.mp4"
    )
    assert KeyTemplate("f/{name}/{tag}").key_of(tag, "films/cut.mp4") == f"f/films/cut.mp4/{tag}"
    assert KeyTemplate(BY_CONTENT).key_of(tag, "x") == f"objects/{tag}"
    assert safe_name("../../etc//./passwd") == "etc/passwd"


@pytest.mark.parametrize(
    "text",
    [
        *("", "objects", "{name}", "{tag}", "{name}/{tag}", "f/{tag}{tag}", "f/{tag!r}", "f/{tag:5}", "f/{who}/{tag}"),
        *("f/a{tag}", "/{tag}", "ü/{tag}", "f/{", "f/{name}{tag}", "f/{tag}{name}"),
    ],
)
def test_a_template_without_a_readable_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tag|right would be"):
        KeyTemplate(text)

"""Invites and links: what was copied whole is read, what was altered anywhere is refused, and no secret is repeated."""

from __future__ import annotations

import base64
import hashlib
import string
import traceback

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.wire import addresses, tags, texts

from protocol.ids import Role, Tag
from protocol.invite import INVITE_PREFIX, Invite, Link
from protocol.limits import FILE_BYTES_MAX, NAME_BYTES_MAX

invites = st.builds(
    Invite,
    addresses=st.lists(addresses, min_size=1, max_size=8).map(tuple),
    authority=st.binary(min_size=32, max_size=32),
    token=st.binary(min_size=32, max_size=32),
    role=st.sampled_from(Role),
    expires=st.integers(0, 2**53),
)
links = st.builds(Link, tag=tags, name=texts(NAME_BYTES_MAX), size_bytes=st.integers(0, FILE_BYTES_MAX))
INVITE = Invite(
    addresses=("127.0.0.1:4100",),
    authority=bytes(32),
    token=b"secret token of thirty-two bytes",
    role=Role.PEER,
    expires=1,
)


def spelled(body: bytes) -> str:
    data = body + hashlib.sha256(body).digest()[:4]
    return INVITE_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


@given(invites)
def test_an_invite_comes_back(invite: Invite) -> None:
    assert Invite.parse(str(invite)) == invite
    assert Invite.parse(f"  {invite}\n") == invite


@given(invites, st.data())
def test_an_invite_altered_anywhere_is_refused(invite: Invite, data: st.DataObject) -> None:
    text = str(invite)
    index = data.draw(st.integers(0, len(text) - 1))
    replacement = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_+/=. "))
    altered = text[:index] + replacement + text[index + 1 :]
    assume(altered.strip() != text)
    with pytest.raises(ValueError, match="invite"):
        Invite.parse(altered)


def test_each_character_of_an_invite_counts() -> None:
    text = str(INVITE)
    alphabet = string.ascii_letters + string.digits + "-_+/="
    for index in range(len(text)):
        for replacement in alphabet:
            if replacement != text[index]:
                with pytest.raises(ValueError, match="invite"):
                    Invite.parse(text[:index] + replacement + text[index + 1 :])


@given(invites, st.data())
def test_an_invite_cut_anywhere_is_refused(invite: Invite, data: st.DataObject) -> None:
    text = str(invite)
    with pytest.raises(ValueError, match="invite"):
        Invite.parse(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_an_invite_or_a_value_error(text: str, with_prefix: bool) -> None:
    with pytest.raises(ValueError, match="invite"):
        Invite.parse(INVITE_PREFIX * with_prefix + text)


@given(st.binary(max_size=100))
def test_any_body_under_a_right_checksum_is_an_invite_or_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="invite"):
        Invite.parse(spelled(body))


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        [["127.0.0.1:1"], bytes(32), INVITE.token, "peer"],
        [["nowhere"], bytes(32), INVITE.token, "peer", 1],
        [["127.0.0.1:1"], bytes(31), INVITE.token, "peer", 1],
        [["127.0.0.1:1"], bytes(32), INVITE.token[1:], "peer", 1],
        [["127.0.0.1:1"], bytes(32), INVITE.token, "king", 1],
        [["127.0.0.1:1"], bytes(32), INVITE.token, ["peer"], 1],
        [["127.0.0.1:1"], bytes(32), INVITE.token, "peer", -1],
        [["127.0.0.1:1"] * 9, bytes(32), INVITE.token, "peer", 1],
        [{}, bytes(32), INVITE.token, "peer", 1],
    ],
)
def test_a_wrong_invite_is_refused_without_repeating_its_token(raw: object) -> None:
    with pytest.raises(ValueError, match="not an invite") as raised:
        Invite.parse(spelled(msgpack.packb(raw)))
    shown = "".join(traceback.format_exception(raised.value))
    assert "secret" not in shown and INVITE.token.hex() not in shown


def test_an_invite_does_not_show_its_token() -> None:
    assert "secret" not in repr(INVITE) and "secret" not in f"{INVITE!r}"


def test_what_a_newer_tracker_adds_to_an_invite_is_ignored() -> None:
    newer = [list(INVITE.addresses), INVITE.authority, INVITE.token, "peer", 1, "new"]
    assert Invite.parse(spelled(msgpack.packb(newer))) == INVITE


@pytest.mark.parametrize(
    "text", ["", "upswarm-invite-2-AAAA", INVITE_PREFIX, INVITE_PREFIX + "A" * 5000, INVITE_PREFIX + "ä"]
)
def test_what_is_no_invite_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invite"):
        Invite.parse(text)


@given(links)
def test_a_link_comes_back(link: Link) -> None:
    assert Link.parse(str(link)) == link
    # Nothing in it needs quoting in a mail or a shell's double quotes.
    assert set(str(link)) <= set(string.ascii_letters + string.digits + "-_.~%:?=&")


@given(st.text(max_size=300), st.booleans())
def test_any_text_is_a_link_or_a_value_error(text: str, with_scheme: bool) -> None:
    try:
        link = Link.parse("upswarm:" * with_scheme + text)
    except ValueError:
        return
    assert Link.parse(str(link)) == link


@given(links, st.data())
def test_an_altered_link_is_another_link_or_a_value_error(link: Link, data: st.DataObject) -> None:
    text = str(link)
    index = data.draw(st.integers(0, len(text)))
    try:
        altered = Link.parse(text[:index] + data.draw(st.sampled_from("%&=?#:/;@[]\0é1a")) + text[index + 1 :])
    except ValueError:
        return
    assert Link.parse(str(altered)) == altered


TAG = Tag(bytes(32), 1)


@pytest.mark.parametrize(
    "text",
    ["", "upswarm:", f"http:{TAG}", f"upswarm://{TAG}", f"upswarm://host/{TAG}", f"upswarm:{TAG}#x", f"upswarm:{TAG}-2",
     f"upswarm:{TAG}?size=-1", f"upswarm:{TAG}?size=x", f"upswarm:{TAG}?size={FILE_BYTES_MAX + 1}",
     f"upswarm:{TAG}?size=" + "9" * 5000, f"upswarm:{TAG}?name=" + "x" * (NAME_BYTES_MAX + 1),
     f"upswarm:{TAG}?" + "a=1&" * 100, f"upswarm:{TAG}?name=" + "x" * 10000],
)  # fmt: skip
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Link.parse(text)


def test_a_link_without_name_and_size_still_names_a_file() -> None:
    assert Link.parse(f"upswarm:{TAG}") == Link(tag=TAG, name="", size_bytes=0)

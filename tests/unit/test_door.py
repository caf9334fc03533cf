"""Who is let in to the page of a run, and where it is."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime.door import Door

TOKEN = "not-a-secret-at-all"  # noqa: S105


@pytest.fixture(scope="module")
def own():
    """The door of a page for the machine itself."""
    with Door("0") as door:
        yield door


@pytest.fixture(scope="module")
def locked():
    with Door("0", TOKEN) as door:
        yield door


def status(door, method="GET", query="", **headers):
    """What a request is refused with; None for one that is let in."""
    refusal = door.refusal(method, {"host": "127.0.0.1:8080", **headers}, query)
    return refusal and refusal[0]


@pytest.mark.parametrize("method", ["GET", "POST", "WEBSOCKET"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "10.0.0.1", "::"],
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(own, host, method):
    assert status(own, method, host=host, origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:9", "[::1]:9", "127.9.9.9"])
def test_the_names_of_the_machine_itself_are_let_in(own, host):
    assert status(own, host=host) is None  # another port: one that ssh forwards
    assert status(own, "POST", host=host, origin=f"http://{host}") is None


def test_the_name_that_was_asked_for_is_let_in():
    with Door("localhost:0") as door:
        assert urlsplit(door.url).hostname == "localhost"
        assert door.token is None


@pytest.mark.parametrize("method", ["POST", "WEBSOCKET"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "file://", "", "127.0.0.1:8080"]
)
def test_another_sites_page_can_do_nothing(own, locked, origin, method):
    assert status(own, method, origin=origin) == 403
    assert status(locked, method, origin=origin, authorization=f"Bearer {TOKEN}") == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[x]:1", "\u00e4"])
def test_an_origin_that_is_none_is_another_sites(own, origin):
    assert status(own, "POST", origin=origin) == 403


@pytest.mark.parametrize("method", ["POST", "WEBSOCKET"])
def test_its_own_page_and_what_is_no_browser_can(own, method):
    assert status(own, method) is None
    assert status(own, method, origin="http://127.0.0.1:8080") is None
    assert status(own, method, origin="https://127.0.0.1:8080") is None  # behind a proxy that encrypts


@pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\u00e4", "\0"])
def test_a_wrong_token_opens_nothing(locked, given):
    port = urlsplit(locked.url).port
    for known in (
        {"query": f"token={given}"},
        {"authorization": f"Bearer {given}"},
        {"authorization": f"Basic {given}"},
        {"cookie": f"edgecrack-{port}={given}"},
        {"cookie": f'a="; =;;\x7f{given}'},
    ):
        assert status(locked, **known) == 401
        assert locked.cookie(known.get("query", "")) is None


def test_the_right_token_opens_it_under_any_name(locked):
    cookie = locked.cookie(f"token={TOKEN}").partition(";")[0]
    assert TOKEN not in cookie
    for known in (
        {"query": f"token={TOKEN}"},
        {"authorization": f"Bearer {TOKEN}"},
        {"cookie": cookie},
        {"cookie": f"a=b; {cookie}"},
        {"cookie": f'state={{"a": [1, "b"]}}; x; {cookie};c=d'},
    ):
        assert status(locked, host="tablet.example", **known) is None


def test_the_cookie_is_of_this_token_and_no_other(locked):
    value = locked.cookie(f"token={TOKEN}").partition(";")[0].partition("=")[2]
    with Door("0", "another-token") as other:
        assert status(other, cookie=f"edgecrack-{urlsplit(other.url).port}={value}") == 401


def test_on_the_machine_itself_no_token_is_asked_for_nor_kept(own):
    assert own.token is None
    assert own.cookie("token=") is None
    assert "token" not in own.url


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_beyond_the_machine_a_token_is_made_up(address):
    try:
        door = Door(address)
    except SourceError as error:
        pytest.skip(f"no such address family here: {error}")
    with door:
        shown = urlsplit(door.url)
        assert shown.hostname not in ("0.0.0.0", "::")  # noqa: S104
        assert shown.query == f"token={door.token}"
        assert len(door.token) >= 20
        with Door(address) as other:
            assert other.token != door.token


@pytest.mark.parametrize(
    "address",
    ["", "x", "-1", "65536", "1:2:3", ":80", "host:", "[::1]", "::1", "a b:x", "80\n", "٣", "http://127.0.0.1:80"],
)
def test_an_address_that_cannot_be(address):
    with pytest.raises(SpecError, match="the page is at PORT or HOST:PORT"):
        Door(address)


def test_a_token_that_is_too_short():
    with pytest.raises(SpecError, match="at least 8 characters, got 4"):
        Door("0", "1234")


@pytest.mark.parametrize("token", ["12345678\udcff", "1234\n5678"])
def test_a_token_that_cannot_be_typed(token):
    with pytest.raises(SpecError, match="text that can be typed"):
        Door("0", token)


def test_a_port_in_use_and_an_address_of_another_machine():
    with Door("0") as door:
        port = urlsplit(door.url).port
        with pytest.raises(SourceError, match=f"the page cannot be at {port}: Address already in use; give --live"):
            Door(str(port))
    with Door(str(port)):  # free again at once
        pass
    with pytest.raises(SourceError, match=r"^the page cannot be at a\.\.b:80: [^\n]*label empty"):
        Door("a..b:80")
    with pytest.raises(SourceError, match=r"the page cannot be at 192\.0\.2\.1:8080"):
        Door("192.0.2.1:8080")

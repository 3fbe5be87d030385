"""`console.door`: who may look."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.door import COOKIE_S, Door, same_origin

TOKEN = "a token of some length"
NOW = 1_800_000_000.0


@pytest.mark.parametrize("host", ["localhost", "localhost:8090", "127.0.0.1:8090", "[::1]:8090"])
def test_without_a_token_whoever_names_this_machine_may_look(host):
    assert Door().lets_in({"host": host}, "", NOW)


@pytest.mark.parametrize(
    "host", ["evil.example:8090", "localhost.evil.example", "", "10.0.0.7", "[::1", "[x]"]
)
def test_without_a_token_a_foreign_name_may_not(host):
    assert not Door().lets_in({"host": host}, "", NOW)
    assert not Door().opens("")


def test_with_a_token_the_token_or_its_cookie_is_needed():
    door = Door(TOKEN)
    assert door.opens(TOKEN)
    assert not door.lets_in({"host": "localhost"}, "", NOW)
    assert door.lets_in({"host": "anything", "authorization": f"Bearer {TOKEN}"}, "", NOW)
    assert not door.lets_in({"authorization": TOKEN}, "", NOW)
    cookie = door.cookie(NOW)
    assert TOKEN not in cookie
    assert door.lets_in({}, cookie, NOW + COOKIE_S - 1)
    assert not door.lets_in({}, cookie, NOW + COOKIE_S)


def test_a_cookie_ends_with_its_token_and_cannot_be_made_longer():
    cookie = Door(TOKEN).cookie(NOW)
    until, _, mac = cookie.partition(".")
    assert not Door("another token, as long").lets_in({}, cookie, NOW)
    assert not Door(TOKEN).lets_in({}, f"{int(until) + 1}.{mac}", NOW)
    assert not Door(TOKEN).lets_in({}, f"{until}.", NOW)


@given(st.text(max_size=80))
def test_nothing_else_opens(text):
    door = Door(TOKEN)
    assert not door.lets_in({"authorization": f"Bearer {text}x"}, text, NOW)


def test_it_does_not_show_its_token():
    assert TOKEN not in repr(Door(TOKEN))


@pytest.mark.parametrize(
    "origin,host,same",
    [
        ("http://localhost:8090", "localhost:8090", True),
        ("https://Speech.example", "speech.example", True),
        ("http://localhost:8091", "localhost:8090", False),
        ("https://evil.example", "localhost:8090", False),
        ("null", "localhost:8090", False),
        ("", "", False),
    ],
)
def test_what_acts_comes_from_our_own_page(origin, host, same):
    assert same_origin({"origin": origin, "host": host}) is same

"""What a session takes along is read as it was written, by its own version, and by who may."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.carried import Place, Who, digest, movable, pack, unpack_place, unpack_who
from wire.entries import Offer
from wire.errors import EntryError
from wire.params import parse_query

PARAMS = parse_query(
    [
        ("resumable", "true"),
        ("keyterms_prompt", '["Größe"]'),
        ("min_turn_silence", "123"),
        ("sample_rate", "8000"),
    ]
)
WHO = Who(
    {**PARAMS.for_worker(), "resumable": True},
    "2025-05-12",
    1,
    2,
    3.5,
    digest("token"),
    "key",
    "name",
    None,
    4,
)
PLACE = Place("OPEN", "", *range(16))


def test_who_a_session_is_survives():
    back = unpack_who(pack(WHO))
    assert back == WHO
    assert back.session_params() == PARAMS
    assert back.offer("s", "node") == Offer("s", "node", "english", PARAMS.for_worker())


@given(st.builds(Place, **{name: st.integers(-1, 2**60) for name in ("messages", "position", "generation")}))
def test_any_place_survives(place: Place):
    assert unpack_place(pack(place)) == place


def test_the_token_itself_is_nowhere_and_nothing_secret_is_shown():
    assert "token" not in json.loads(pack(WHO))["token"]
    assert digest("token") not in repr(WHO)
    assert "'key'" not in repr(WHO)


@pytest.mark.parametrize(
    "token,key,admitted",
    [
        ("token", "key", True),
        ("token", "other", False),
        ("Token", "key", False),
        ("", "", False),
        ("ä", "ö", False),
    ],
)
def test_who_may_go_on_with_it(token: str, key: str, admitted: bool):
    assert WHO.admits(token, key) is admitted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "7",
        '{"v":1}',
        '{"v":2}',
        json.dumps({"v": 2, **asdict(PLACE)}),
        '{"v":1,"state":[]}',
    ],
)
def test_what_is_none_is_refused(text: str):
    with pytest.raises(EntryError):
        unpack_place(text)


def test_what_a_newer_node_tells_beside_is_ignored():
    assert unpack_place(json.dumps({"v": 1, "news": 1, **asdict(PLACE)})) == PLACE


def test_parameters_that_are_none_are_refused():
    with pytest.raises(EntryError):
        replace(WHO, params={"sample_rate": 1}).session_params()


@pytest.mark.parametrize(
    "query,moves",
    [
        ("resumable=true", True),
        ("resumable=true&encoding=opus", True),
        ("resumable=true&encoding=pcm_mulaw&sample_rate=8000", True),
        ("", False),
        ("resumable=true&encoding=ogg_opus", False),
        ("resumable=true&encoding=aac", False),
        ("resumable=true&webhook_url=https://example.org/", False),
    ],
)
def test_which_sessions_move(query: str, moves: bool):
    pairs = [tuple(pair.split("=", 1)) for pair in query.split("&") if pair]
    assert movable(parse_query(pairs)) is moves  # type: ignore[arg-type]

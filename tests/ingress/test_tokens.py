"""Tokens: what is minted is read, what is not ours or not whole is refused, and time is what we say it is."""

import base64
import json
import string
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.tokens import Claims, TokenRequest, is_token, mint, missing, parse_request, read
from wire.errors import ClientError

SECRET = b"s" * 32
NOW_S = 1_000_000.5
CLAIMS = Claims("mark", 1_000_060, 3_600)
HEADERS = {"typ": "steno+jwt"}
INVALID = "Unauthorized Connection: Invalid API key"
EXPIRED = "Unauthorized Connection: Signature has expired"


def refusal(text: str, now_s: float = NOW_S, secret: bytes = SECRET) -> str:
    with pytest.raises(ClientError) as refused:
        read(text, secret, now_s)
    assert refused.value.code == 1008
    return refused.value.text


def encoded(payload: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")


@given(st.text(), st.integers(1, 600), st.integers(60, 10_800), st.binary(min_size=32, max_size=64))
def test_what_is_minted_is_read(key: str, seconds: int, longest_s: int, secret: bytes):
    claims = Claims(key, int(NOW_S) + seconds, longest_s)
    token = mint(claims, secret, NOW_S)
    assert is_token(token)
    assert read(token, secret, NOW_S) == claims


def test_a_token_goes_into_a_query_and_a_header_as_it_is():
    assert set(mint(CLAIMS, SECRET, NOW_S)) <= set(string.ascii_letters + string.digits + "-_.")


@pytest.mark.parametrize("now_s,good", [(0, True), (1_000_059.999, True), (1_000_060, False), (2e9, False)])
def test_it_is_good_until_it_expires_by_the_time_that_is_given(now_s: float, good: bool):
    token = mint(CLAIMS, SECRET, NOW_S)
    if good:
        assert read(token, SECRET, now_s) == CLAIMS
    else:
        assert refusal(token, now_s) == EXPIRED


def test_another_secret():
    assert refusal(mint(CLAIMS, SECRET, NOW_S), secret=b"t" * 32) == INVALID


def test_a_forged_token_is_invalid_even_when_it_has_expired():
    assert refusal(mint(CLAIMS, b"t" * 32, NOW_S), now_s=2e9) == INVALID


@given(st.data())
def test_no_character_of_it_may_be_changed(data: st.DataObject):
    token = mint(CLAIMS, SECRET, NOW_S)
    # The last character of a segment holds bits that mean nothing: those are left alone.
    ends = {token.index("."), token.rindex("."), len(token)}
    place = data.draw(st.sampled_from([at for at in range(len(token)) if at + 1 not in ends]))
    other = data.draw(st.sampled_from([c for c in string.ascii_letters + "-_." if c != token[place]]))
    assert refusal(token[:place] + other + token[place + 1 :]) == INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "another"},
        {"aud": "another"},
        {"iss": None},
        {"aud": None},
        {"exp": None},
        {"exp": "soon"},
        {"key": None},
        {"max_session": None},
        {"max_session": "long"},
        {"max_session": [1]},
    ],
)
def test_something_else_signed_with_our_secret(change: dict[str, Any]):
    whole = {
        "iss": "steno",
        "aud": "steno/v3/ws",
        "exp": 1_000_060,
        "key": "",
        "max_session": 60,
    }
    read(jwt.encode(whole, SECRET, headers=HEADERS), SECRET, NOW_S)
    payload = {name: value for name, value in (whole | change).items() if value is not None}
    assert refusal(jwt.encode(payload, SECRET, headers=HEADERS)) == INVALID


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_the_algorithm_is_ours_to_choose(algorithm: str):
    payload = {"iss": "steno", "aud": "steno/v3/ws", "exp": 1_000_060, "key": "", "max_session": 60}
    secret = None if algorithm == "none" else b"s" * 64
    token = jwt.encode(payload, secret, algorithm, HEADERS)  # type: ignore[arg-type]  # None signs nothing
    assert not is_token(token)
    assert refusal(token, secret=b"s" * 64) == INVALID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "self-hosted",
        "a.b.c",
        jwt.encode({"iss": "steno"}, SECRET),
        f"{encoded({'typ': 'steno+jwt', 'alg': 'HS256'})}.e30.x",
    ],
)
def test_what_others_make_is_not_taken_for_ours(text: str):
    assert not is_token(text)


@given(st.text(st.characters(), max_size=200))
def test_whatever_follows_our_header_is_refused(rest: str):
    prefix = mint(CLAIMS, SECRET, NOW_S).partition(".")[0]
    assert refusal(f"{prefix}.{rest}") == INVALID


def test_a_payload_that_is_deep_is_never_parsed():
    deep = base64.urlsafe_b64encode(b"[" * 4_000).decode().rstrip("=")
    header = mint(CLAIMS, SECRET, NOW_S).partition(".")[0]
    assert refusal(f"{header}.{deep}.AAAA") == INVALID


# ---------------------------------------------------------------------------------------------------------------------
# asking for one


def test_a_request():
    wanted, faults = parse_request({"expires_in_seconds": "60", "other": "x"})
    assert wanted == TokenRequest(expires_in_seconds=60, max_session_duration_seconds=10_800)
    assert faults == []


@pytest.mark.parametrize(
    "query,fault",
    [
        ({}, missing("query", "expires_in_seconds")),
        (
            {"expires_in_seconds": "0"},
            {
                "type": "greater_than_equal",
                "loc": ["query", "expires_in_seconds"],
                "msg": "Input should be greater than or equal to 1",
                "input": "0",
                "ctx": {"ge": 1},
            },
        ),
        (
            {"expires_in_seconds": "601"},
            {
                "type": "less_than_equal",
                "loc": ["query", "expires_in_seconds"],
                "msg": "Input should be less than or equal to 600",
                "input": "601",
                "ctx": {"le": 600},
            },
        ),
        (
            {"expires_in_seconds": "soon"},
            {
                "type": "int_parsing",
                "loc": ["query", "expires_in_seconds"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "input": "soon",
            },
        ),
    ],
)
def test_faults_have_the_shape_that_clients_know(query: dict[str, str], fault: dict[str, Any]):
    assert parse_request(query) == (None, [fault])


@pytest.mark.parametrize("seconds,good", [("59", False), ("60", True), ("10800", True), ("10801", False)])
def test_the_longest_session(seconds: str, good: bool):
    wanted, faults = parse_request({"expires_in_seconds": "1", "max_session_duration_seconds": seconds})
    assert (wanted is not None) == good
    assert [fault["loc"][1] for fault in faults] == ([] if good else ["max_session_duration_seconds"])


@given(st.dictionaries(st.sampled_from(sorted(TokenRequest.model_fields)), st.text(st.characters())))
def test_any_query_is_decided_and_its_faults_are_json(query: dict[str, str]):
    wanted, faults = parse_request(query)
    assert (wanted is None) == bool(faults)
    json.dumps(faults)


def test_only_plain_integers_are_numbers_of_seconds():
    """As for a session's parameters (protocol 2, general rules)."""
    for text in ("60.0", "6e1", "true", ""):
        wanted, faults = parse_request({"expires_in_seconds": text})
        assert wanted is None
        assert [fault["loc"] for fault in faults] == [["query", "expires_in_seconds"]]

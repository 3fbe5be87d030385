"""Keys: which lines are keys, who gets in with them, what a token of theirs is worth."""

import hashlib
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.credentials import (
    MAX_KEY,
    MAX_KEYS,
    Credentials,
    Grant,
    Key,
    KeysError,
    collect,
    parse_file,
    parse_list,
)
from ingress.tokens import TokenRequest
from wire.errors import ClientError

SECRET = b"s" * 32
NOW_S = 1_000_000.0
INVALID = "Unauthorized Connection: Invalid API key"
MINUTE = TokenRequest(expires_in_seconds=60, max_session_duration_seconds=120)
FILE = "alpha name=one sessions=2\n\n  # nobody\nbeta   # the other\ngamma name=three"
#: A constant set of keys for whatever is presented.
KEYS = collect(parse_file(FILE))
CLOSED = Credentials(KEYS, SECRET)
OPEN = Credentials(None, SECRET)

key_texts = st.text(string.ascii_letters + string.digits + "-_.=/", min_size=1, max_size=20)


def refusal(credentials: Credentials, presented: str, now_s: float = NOW_S) -> str:
    with pytest.raises(ClientError) as refused:
        credentials.grant(presented, now_s)
    assert refused.value.code == 1008
    return refused.value.text


def names(keys: Any) -> list[str]:
    return [key.name for key in keys]


# ---------------------------------------------------------------------------------------------------------------------
# reading keys


def test_a_file_of_keys():
    assert names(KEYS) == ["one", "line 4", "three"]
    assert [key.sessions for key in KEYS] == [2, None, None]
    assert KEYS[1].digest == hashlib.sha256(b"beta").digest()


def test_a_list_of_keys():
    assert names(parse_list("alpha, beta,,gamma,")) == ["key 1", "key 2", "key 4"]
    assert parse_list(" alpha ,")[0].digest == KEYS[0].digest


@pytest.mark.parametrize(
    "text,place",
    [
        ("good\nbad word", "line 2"),
        ("bad name=", "line 1"),
        (f"bad name={'x' * 65}", "line 1"),
        ("bad sessions=0", "line 1"),
        ("bad record=maybe", "line 1"),
        ("bad sessions=-1", "line 1"),
        ("bad sessions=many", "line 1"),
        ("bad sessions=1e3", "line 1"),
        ("bad sessions=٣", "line 1"),
        (f"bad sessions={'9' * 5_000}", "line 1"),
        ("\n\nbäd", "line 3"),
        ("b\x00d", "line 1"),
        (f"bad{'x' * MAX_KEY}", "line 1"),
    ],
)
def test_a_fault_names_its_line_and_shows_nothing_of_it(text: str, place: str):
    with pytest.raises(KeysError) as fault:
        parse_file(text)
    assert str(fault.value).startswith(f"{place}: ")
    assert not any(word in str(fault.value) for word in ("bad", "bäd", "word", "good"))


@pytest.mark.parametrize("text", ["bad word,x", "x,bäd"])
def test_a_fault_of_the_list(text: str):
    with pytest.raises(KeysError, match=r"^key \d: "):
        parse_list(text)


def test_no_key_at_all_is_a_fault_and_not_an_open_door():
    for text in ("", "\n", "# only a comment"):
        with pytest.raises(KeysError, match="no key"):
            collect(parse_file(text))


def test_a_key_given_twice():
    with pytest.raises(KeysError, match=r"^line 1 is the same key as key 2$"):
        collect(parse_list("x,same"), parse_file("same name=other"))


def test_there_is_a_most_of_keys():
    with pytest.raises(KeysError, match=str(MAX_KEYS)):
        collect(parse_list(",".join(f"k{number}" for number in range(MAX_KEYS + 1))))


@given(st.text())
def test_any_file_is_read_or_refused(text: str):
    try:
        found = collect(parse_file(text))
    except KeysError:
        return
    assert found


def test_a_key_is_not_shown_by_mistake():
    assert "alpha" not in repr(KEYS)
    assert KEYS[0].digest.hex()[:8] not in repr(KEYS)
    assert repr(KEYS[0].digest) not in repr(KEYS)


# ---------------------------------------------------------------------------------------------------------------------
# who gets in


@given(st.text(st.characters(), min_size=1))
def test_an_open_door_takes_whatever_is_not_a_token(presented: str):
    assert OPEN.grant(presented, NOW_S) == Grant()


@given(
    st.one_of(
        st.text(st.characters()), st.sampled_from(["alph", "alphaa", "ALPHA", "Bearer alpha", "alpha\n"])
    )
)
def test_with_keys_whatever_is_none_is_refused(presented: str):
    if presented not in ("alpha", "beta", "gamma"):
        assert refusal(CLOSED, presented) == INVALID


@given(st.sets(key_texts, min_size=1, max_size=30), st.data())
def test_exactly_the_keys_get_in(given_keys: set[str], data: st.DataObject):
    texts = sorted(given_keys)
    credentials = Credentials(collect(parse_list(",".join(texts))), SECRET)
    chosen = data.draw(st.integers(0, len(texts) - 1))
    assert credentials.grant(texts[chosen], NOW_S).name == f"key {chosen + 1}"
    other = data.draw(key_texts)
    if other not in given_keys:
        assert refusal(credentials, other) == INVALID


def test_every_key_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch):
    """No early exit: the number of comparisons tells nothing."""
    import hmac

    compared: list[bytes] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr("ingress.credentials.hmac.compare_digest", counting)
    for presented in ("alpha", "gamma", "nobody"):
        compared.clear()
        try:
            CLOSED.grant(presented, NOW_S)
        except ClientError:
            assert presented == "nobody"
        assert compared == [key.digest for key in KEYS]


def test_a_limit_is_the_keys_own_or_everybodys():
    own = CLOSED.grant("alpha", NOW_S)
    assert (own.name, own.holder, own.sessions, own.max_session_s) == ("one", KEYS[0].holder, 2, None)
    assert CLOSED.grant("beta", NOW_S) == Grant("line 4", key=KEYS[1].holder), "no holder: Redis is not asked"
    limited = Credentials(KEYS, SECRET, sessions=7)
    assert limited.grant("alpha", NOW_S).sessions == 2
    assert limited.grant("beta", NOW_S).sessions == 7
    assert limited.grant("beta", NOW_S).holder == KEYS[1].holder


def test_nodes_agree_on_the_holder_without_sharing_a_secret():
    one, other = (Credentials(KEYS, secret, 1) for secret in (b"a" * 32, b"b" * 32))
    assert one.grant("beta", NOW_S).holder == other.grant("beta", NOW_S).holder
    assert len({key.holder for key in KEYS}) == len(KEYS)


# ---------------------------------------------------------------------------------------------------------------------
# tokens


def test_a_token_is_worth_its_key_for_a_limited_time():
    token = CLOSED.mint("alpha", MINUTE, NOW_S)
    assert CLOSED.grant(token, NOW_S) == Grant("one", KEYS[0].holder, 2, 120, KEYS[0].holder)
    assert CLOSED.grant(token, NOW_S + 59) == CLOSED.grant(token, NOW_S), "again, until it expires"
    assert refusal(CLOSED, token, NOW_S + 60) == "Unauthorized Connection: Signature has expired"


def test_a_token_of_an_open_door_has_its_cap():
    token = OPEN.mint("anything", MINUTE, NOW_S)
    assert OPEN.grant(token, NOW_S) == Grant(max_session_s=120)
    assert refusal(OPEN, token, NOW_S + 60) == "Unauthorized Connection: Signature has expired"
    assert refusal(OPEN, token[:-4] + "AAAA") == INVALID


def test_a_key_taken_away_takes_its_tokens_along():
    token = CLOSED.mint("alpha", MINUTE, NOW_S)
    assert refusal(Credentials(KEYS[1:], SECRET), token) == INVALID
    assert Credentials(KEYS[::-1], SECRET).grant(token, NOW_S).name == "one"


def test_a_token_from_before_there_were_keys():
    assert refusal(CLOSED, OPEN.mint("anything", MINUTE, NOW_S)) == INVALID


def test_nodes_that_share_a_secret_accept_each_others_tokens_and_no_others():
    token = CLOSED.mint("beta", MINUTE, NOW_S)
    assert Credentials(KEYS, SECRET).grant(token, NOW_S).name == "line 4"
    assert refusal(Credentials(KEYS, b"t" * 32), token) == INVALID


def test_only_a_key_mints():
    for credentials, presented in ((CLOSED, "nobody"), (CLOSED, "Bearer alpha")):
        with pytest.raises(ClientError, match=INVALID):
            credentials.mint(presented, MINUTE, NOW_S)
    for credentials in (CLOSED, OPEN):
        token = credentials.mint("alpha", MINUTE, NOW_S)
        with pytest.raises(ClientError, match=INVALID):
            credentials.mint(token, MINUTE, NOW_S)


def test_a_key_is_owned_and_a_token_is_not():
    found = CLOSED.owner("beta")
    assert found is not None
    assert found.name == "line 4"
    assert OPEN.owner("anything") is None
    for credentials, presented in ((CLOSED, "nobody"), (CLOSED, CLOSED.mint("beta", MINUTE, NOW_S))):
        with pytest.raises(ClientError, match=INVALID):
            credentials.owner(presented)


def test_a_token_tells_nothing_to_test_a_guessed_key_against():
    import base64

    token = CLOSED.mint("alpha", MINUTE, NOW_S)
    told = base64.urlsafe_b64decode(token.split(".")[1] + "==").decode()
    assert KEYS[0].holder not in told
    assert KEYS[0].digest.hex()[:8] not in told
    assert "alpha" not in told
    assert "one" not in told.replace("steno", "")


def test_a_key_may_have_a_name_that_another_has():
    keys = collect([Key("line 1", "twin", b"1" * 32), Key("line 2", "twin", b"2" * 32)])
    assert len(keys) == 2


def test_a_line_tells_whether_its_sessions_are_recorded():
    keys = collect(parse_file("one record=yes\ntwo name=second record=no\nthree"))
    credentials = Credentials(keys, SECRET)
    assert [credentials.grant(key, NOW_S).record for key in ("one", "two", "three")] == [True, False, None]

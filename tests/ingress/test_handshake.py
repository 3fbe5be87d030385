"""Paths, credentials, parameters and room, and in which order they are asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.credentials import Credentials, Grant, collect, parse_list
from ingress.handshake import Accept, Load, Reject, Resume, Route, admit, issue, route, show, try_another
from ingress.tokens import missing
from wire.errors import Close, unauthorized

ROOM = Load(sessions=0, max_sessions=1)
AUTHORIZED = [("Authorization", "self-hosted")]


def anyone(_presented: str) -> Grant:
    """The check of an open door."""
    return Grant()


def refusal(target: str, headers: list[tuple[str, str]] = AUTHORIZED, load: Load = ROOM) -> tuple[int, str]:
    verdict = admit(target, headers, load, anyone)
    assert isinstance(verdict, Reject)
    return int(verdict.error.code), verdict.error.text


@pytest.mark.parametrize(
    "target,expected",
    [
        ("/", Route.SESSION),
        ("/?sample_rate=16000", Route.SESSION),
        ("?sample_rate=16000", Route.SESSION),
        ("/v3/ws", Route.SESSION),
        ("/v3/ws/", Route.SESSION),
        ("/v3/ws?sample_rate=16000&language=en", Route.SESSION),
        ("/v3/ws/health", Route.HEALTH),
        ("/v3/health", Route.HEALTH),
        ("/v3/health?verbose", Route.HEALTH),
        ("/v3/token", Route.TOKEN),
        ("/v3/token/?expires_in_seconds=60", Route.TOKEN),
        ("/v1/models", Route.MODELS),
        ("/v1/models/?token=t", Route.MODELS),
        ("/v3/models", Route.UNKNOWN),
        ("/v2/ws", Route.UNKNOWN),
        ("/v3", Route.UNKNOWN),
        ("/V3/WS", Route.UNKNOWN),
        ("//[", Route.UNKNOWN),
    ],
)
def test_a_path_asks_for_a_session_or_for_health(target: str, expected: Route):
    assert route(target) is expected


@pytest.mark.parametrize(
    "target,version,model",
    [
        ("/", "ml-default", "universal-streaming-multilingual"),
        ("/?speech_model=u3-rt-pro", "ml-default", "u3-rt-pro"),
        ("/?language=en", "u3-pro", "u3-rt-pro"),
        ("/?language=en", "nonsense", "universal-streaming-english"),
        ("/", "nonsense", "whisper-rt"),
        ("/", "", "whisper-rt"),
    ],
)
def test_what_names_the_model_and_what_comes_first(target: str, version: str, model: str):
    headers = [*AUTHORIZED, ("X-Model-Version", version)]
    verdict = admit(target, headers, ROOM, anyone, default_model="whisper-rt")
    assert isinstance(verdict, Accept)
    assert verdict.params.speech_model == model


@pytest.mark.parametrize(
    "target,headers",
    [
        ("/", [("Authorization", "self-hosted")]),
        ("/", [("authorization", "Bearer x")]),
        ("/v3/ws?token=abc", []),
        ("/v3/ws?token=abc", [("Authorization", "")]),
    ],
)
def test_any_credentials_will_do(target: str, headers: list[tuple[str, str]]):
    assert isinstance(admit(target, headers, ROOM, anyone), Accept)


@pytest.mark.parametrize(
    "target,headers",
    [
        ("/", []),
        ("/", [("Authorization", "")]),
        ("/", [("Authorization", "  ")]),
        ("/?token=", []),
        ("/?token=+", []),
        ("/?sample_rate=1", []),
    ],
)
def test_without_credentials_nothing_else_matters(target: str, headers: list[tuple[str, str]]):
    assert refusal(target, headers, Load(5, 1)) == (
        1008,
        "Unauthorized Connection: Missing Authorization header",
    )


@pytest.mark.parametrize(
    "target,headers,presented",
    [
        ("/", [("Authorization", " key ")], "key"),
        ("/?token=key", [], "key"),
        ("/?token=+key%20", [], "key"),
        ("/?token=&token=key", [], "key"),
        ("/?token=other", [("Authorization", "key")], "key"),
        ("/", [("Authorization", "Bearer key")], "Bearer key"),
    ],
)
def test_what_is_presented_is_checked_as_it_is(target: str, headers: list[tuple[str, str]], presented: str):
    """`Bearer` before a key is no key: the cloud refuses it on the WebSocket (protocol 1.2)."""
    seen: list[str] = []

    def check(text: str) -> Grant:
        seen.append(text)
        return Grant("name", max_session_s=60)

    verdict = admit(target, headers, ROOM, check)
    assert isinstance(verdict, Accept)
    assert verdict.grant == Grant("name", max_session_s=60)
    assert seen == [presented]


def test_nothing_is_not_checked_and_a_refusal_comes_before_everything_else():
    def check(_text: str) -> Grant:
        raise unauthorized("Signature has expired")

    verdict = admit("/?sample_rate=1", AUTHORIZED, Load(5, 1), check)
    assert isinstance(verdict, Reject)
    assert verdict.error.text == "Unauthorized Connection: Signature has expired"
    verdict = admit("/", [], ROOM, check)
    assert isinstance(verdict, Reject)
    assert verdict.error.text == "Unauthorized Connection: Missing Authorization header"


def test_parameters_are_those_of_the_query():
    verdict = admit(
        "/v3/ws?sample_rate=8000&format_turns=True&language=en&max_turn_silence=900", AUTHORIZED, ROOM, anyone
    )
    assert isinstance(verdict, Accept)
    assert verdict.params.sample_rate == 8000
    assert verdict.params.format_turns is True
    assert verdict.params.max_turn_silence == 900


def test_a_wrong_parameter_is_named():
    assert refusal("/?sample_rate=4000") == (
        3006,
        "User Input Validation Error: Invalid 'sample_rate': Value error, sample_rate must be at least 8,000 Hz",
    )


@pytest.mark.parametrize("target", ["/?sample_rate=", "/?sample_rate", "/?sample_rate=16000.0"])
def test_a_parameter_without_a_value_is_wrong_too(target: str):
    assert refusal(target)[0] == Close.INVALID_INPUT


@pytest.mark.parametrize(
    "headers,version",
    [
        ([], None),
        ([("AssemblyAI-Version", "")], None),
        ([("assemblyai-version", " 2025-05-12 ")], "2025-05-12"),
        ([("AssemblyAI-Version", "x" * 1000)], "x" * 32),
    ],
)
def test_the_api_version_is_what_the_client_asked_for(headers: list[tuple[str, str]], version: str | None):
    verdict = admit("/", AUTHORIZED + headers, ROOM, anyone)
    assert isinstance(verdict, Accept)
    assert verdict.api_version == version


@pytest.mark.parametrize(
    "load,code,text",
    [
        (Load(8, 8), 3009, "Unauthorized Connection: Too many concurrent sessions"),
        (Load(0, 8, ready=False), 3005, "Session Cancelled: The server is not ready"),
        (Load(8, 8, draining=True), 3005, "Session Cancelled: The server is shutting down"),
    ],
)
def test_a_node_without_room_refuses(load: Load, code: int, text: str):
    assert refusal("/", load=load) == (code, text)


def test_a_mistake_is_told_even_by_a_full_node():
    assert refusal("/?sample_rate=4000", load=Load(8, 8))[0] == Close.INVALID_INPUT


@pytest.mark.parametrize(
    "load,healthy",
    [
        (Load(0, 8), True),
        (Load(8, 8), True),
        (Load(0, 8, ready=False), False),
        (Load(0, 8, draining=True), False),
    ],
)
def test_health_is_about_the_node_not_about_its_room(load: Load, healthy: bool):
    assert load.healthy is healthy


ASKED = [*AUTHORIZED, ("X-Steno-Try-Another", "1")]


@pytest.mark.parametrize(
    "target,headers,load,expected",
    [
        ("/", ASKED, Load(0, 8), False),
        ("/", ASKED, Load(8, 8), True),
        ("/", ASKED, Load(0, 8, draining=True), True),
        ("/", ASKED, Load(0, 8, ready=False), True),
        ("/", ASKED, Load(0, 8, licensed=False), True),
        ("/", AUTHORIZED, Load(0, 8, draining=True), False),  # nobody is there to try another
        ("/?session_id=a&resume_token=b", ASKED, Load(8, 8, draining=True), False),
    ],
)
def test_a_balancer_that_asks_for_it_is_sent_on(
    target: str, headers: list[tuple[str, str]], load: Load, expected: bool
):
    assert try_another(target, headers, load) is expected


@given(st.text(), st.lists(st.tuples(st.text(), st.text())))
def test_any_request_is_decided(target: str, headers: list[tuple[str, str]]):
    assert route(target) in Route
    assert isinstance(admit(target, headers, ROOM, anyone), (Accept, Reject))


# ---------------------------------------------------------------------------------------------------------------------
# tokens

NOW_S = 1_000_000.0
CLOSED = Credentials(collect(parse_list("key")), b"s" * 32)
OPEN = Credentials(None, b"s" * 32)
WANTED = "/v3/token?expires_in_seconds=60"


@pytest.mark.parametrize("presented", ["key", "Bearer key", "bearer  key", " key "])
def test_a_key_gets_a_token_that_opens_the_door(presented: str):
    target = f"{WANTED}&max_session_duration_seconds=120"
    status, fields = issue(target, [("authorization", presented)], CLOSED, NOW_S)
    assert status == 200
    assert set(fields) == {"token", "expires_in_seconds"}
    assert fields["expires_in_seconds"] == 60
    verdict = admit(f"/?token={fields['token']}", [], ROOM, lambda text: CLOSED.grant(text, NOW_S))
    assert isinstance(verdict, Accept)
    key = CLOSED.grant("key", NOW_S).key
    assert verdict.grant == Grant("key 1", max_session_s=120, key=key)


def test_at_an_open_door_anything_gets_a_token():
    status, fields = issue(WANTED, AUTHORIZED, OPEN, NOW_S)
    assert status == 200
    assert OPEN.grant(fields["token"], NOW_S).max_session_s == 10_800


@pytest.mark.parametrize("presented", ["other", "Basic key", "Bearer other"])
def test_no_token_for_another_key(presented: str):
    status, fields = issue(WANTED, [("Authorization", presented)], CLOSED, NOW_S)
    assert (status, fields) == (401, {"error": "Unauthorized Connection: Invalid API key"})


@pytest.mark.parametrize("headers", [[], [("Authorization", " ")], [("Authorization", "Bearer ")]])
def test_a_missing_header_is_a_fault_like_others(headers: list[tuple[str, str]]):
    status, fields = issue(WANTED, headers, OPEN, NOW_S)
    assert (status, fields) == (422, {"detail": [missing("header", "authorization")]})
    status, fields = issue("/v3/token?expires_in_seconds=0&token=key", headers, OPEN, NOW_S)
    assert status == 422
    assert [fault["loc"] for fault in fields["detail"]] == [
        ["query", "expires_in_seconds"],
        ["header", "authorization"],
    ]


def test_a_fault_is_told_before_the_key_is_looked_at():
    assert issue("/v3/token", [("Authorization", "other")], CLOSED, NOW_S)[0] == 422


#: As the library decodes header values.
HEADER_VALUES = st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("ascii", "surrogateescape")))


@given(st.text(), st.lists(st.tuples(st.sampled_from(["Authorization", "X"]), HEADER_VALUES)))
def test_any_request_for_a_token_is_answered_in_json(query: str, headers: list[tuple[str, str]]):
    for credentials in (OPEN, CLOSED):
        status, fields = issue(f"/v3/token?expires_in_seconds=9&{query}", headers, credentials, NOW_S)
        assert status in (200, 401, 422)
        json.dumps(fields)


# ---------------------------------------------------------------------------------------------------------------------
# going on with a session


def test_who_resumes_asks_for_no_room():
    full = Load(1, 1, draining=True)
    target = "/v3/ws?session_id=one&resume_token=secret&last_sequence=7"
    verdict = admit(target, [("authorization", "key")], full, lambda text: CLOSED.grant(text, NOW_S))
    assert verdict == Resume("one", "secret", 7, CLOSED.grant("key", NOW_S))
    assert "secret" not in repr(verdict)


def test_who_resumes_is_known_by_its_key_as_well():
    verdict = admit("/?session_id=one&resume_token=secret", [], ROOM, lambda text: CLOSED.grant(text, NOW_S))
    assert isinstance(verdict, Reject)


@pytest.mark.parametrize("last", ["-1", "1.0", "x", "\u0661", "1" * 16, "%20"])
def test_a_message_number_that_is_none_is_refused(last: str):
    target = f"/?session_id=one&resume_token=secret&last_sequence={last}"
    verdict = admit(target, [("authorization", "key")], ROOM, lambda text: CLOSED.grant(text, NOW_S))
    assert isinstance(verdict, Reject)
    assert verdict.error.code is Close.INVALID_INPUT
    assert "last_sequence" in verdict.error.text


# ---------------------------------------------------------------------------------------------------------------------
# what is served


@pytest.mark.parametrize(
    "headers,status",
    [
        ([("Authorization", "key")], 200),
        ([("authorization", "Bearer key")], 200),
        ([("Authorization", "other")], 401),
        ([("Authorization", "")], 401),
        ([], 401),
    ],
)
def test_what_is_served_is_shown_to_who_has_a_key(headers: list[tuple[str, str]], status: int):
    code, body = show(headers, Credentials(collect(parse_list("key")), b"s" * 32), {"pools": []})
    assert (int(code), "pools" in body) == (status, status == 200)


def test_what_is_served_is_not_shown_to_who_has_a_token_only():
    for keys in (None, collect(parse_list("key"))):
        credentials = Credentials(keys, b"s" * 32)
        _, body = issue("/v3/token?expires_in_seconds=60", [("Authorization", "key")], credentials, 0.0)
        code, shown = show([("Authorization", body["token"])], credentials, {"pools": []})
        assert (int(code), shown) == (401, {"error": "Unauthorized Connection: Invalid API key"})


def test_what_is_not_known_yet_is_not_made_up():
    code, body = show(AUTHORIZED, Credentials(None, b"s" * 32), None)
    assert (int(code), body) == (503, {"error": "The server is not ready"})

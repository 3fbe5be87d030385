"""Paths, credentials, parameters and room, and in which order they are asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.handshake import Accept, Load, Reject, Route, admit, route
from wire.errors import Close

ROOM = Load(sessions=0, max_sessions=1)
AUTHORIZED = [("Authorization", "self-hosted")]


def refusal(target: str, headers: list[tuple[str, str]] = AUTHORIZED, load: Load = ROOM) -> tuple[int, str]:
    verdict = admit(target, headers, load)
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
        ("/v2/ws", Route.UNKNOWN),
        ("/v3", Route.UNKNOWN),
        ("/V3/WS", Route.UNKNOWN),
        ("//[", Route.UNKNOWN),
    ],
)
def test_a_path_asks_for_a_session_or_for_health(target: str, expected: Route):
    assert route(target) is expected


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
    assert isinstance(admit(target, headers, ROOM), Accept)


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


def test_parameters_are_those_of_the_query():
    verdict = admit(
        "/v3/ws?sample_rate=8000&format_turns=True&language=en&max_turn_silence=900", AUTHORIZED, ROOM
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
    verdict = admit("/", AUTHORIZED + headers, ROOM)
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


@given(st.text(), st.lists(st.tuples(st.text(), st.text())))
def test_any_request_is_decided(target: str, headers: list[tuple[str, str]]):
    assert route(target) in Route
    assert isinstance(admit(target, headers, ROOM), (Accept, Reject))

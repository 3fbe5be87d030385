"""The operator's page: defaults that agree with the protocol, names of the mirrored stack, every field explained."""

import pytest

from ingress.session import Limits
from ingress.settings import IngressSettings
from wire.errors import SettingsError
from wire.service import describe, load


def test_defaults_are_those_of_the_protocol():
    settings = IngressSettings()
    assert settings.port == 8080
    assert settings.max_message_bytes == 128 * 1024  # protocol 1.6
    assert settings.max_session_s == 3 * 3600
    assert settings.idle_timeout_s == 60


def test_the_defaults_of_a_session_are_the_same_without_an_operator():
    assert IngressSettings().limits == Limits()


def test_every_limit_of_a_session_can_be_set():
    names = Limits.__dataclass_fields__
    changed = {name: float(number) for number, name in enumerate(names, start=1)}
    assert IngressSettings(**changed).limits == Limits(**changed)  # type: ignore[arg-type]


def test_each_node_has_a_name_of_its_own():
    assert IngressSettings().instance != IngressSettings().instance


@pytest.mark.parametrize("variable", ["PORT", "AAI_WSS_PORT"])
def test_the_port_has_the_name_of_the_mirrored_stack_too(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(variable, "9090")
    assert load(IngressSettings).port == 9090


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_KEYS", "s3cret")
    monkeypatch.setenv("TOKEN_SECRET", "s3cret" * 6)
    settings = load(IngressSettings)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.model_dump())
    monkeypatch.setenv("TOKEN_SECRET", "s3cret")
    with pytest.raises(SettingsError, match="TOKEN_SECRET") as error:
        load(IngressSettings)
    assert "s3cret" not in str(error.value), "too short, and still not shown"


def test_faults_are_told_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "99999")
    monkeypatch.setenv("TICK_MS", "0")
    monkeypatch.setenv("MAX_SESSIONS", "many")
    with pytest.raises(SettingsError) as error:
        load(IngressSettings)
    assert all(name in str(error.value) for name in ("PORT", "TICK_MS", "MAX_SESSIONS"))


def test_every_setting_says_what_it_means_and_in_which_unit():
    for names, _, meaning in describe(IngressSettings):
        assert meaning.endswith("."), names
        if "_S" in names[-2:]:
            assert "seconds" in meaning, names


@pytest.mark.parametrize("name", ["DRAIN_S", "DRAIN_GRACE_S"])
def test_how_long_a_node_that_is_stopped_waits(monkeypatch: pytest.MonkeyPatch, name: str):
    assert load(IngressSettings).drain_grace_s == 3 * 3600
    monkeypatch.setenv(name, "12")
    assert load(IngressSettings).drain_grace_s == 12

"""`console.settings`: nobody opens the console to the world by accident."""

import pytest

from console.settings import ConsoleSettings, is_loopback, url
from wire.errors import SettingsError
from wire.service import load

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_needs_no_token(host, monkeypatch):
    monkeypatch.setenv("CONSOLE_HOST", host)
    load(ConsoleSettings).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "speech.example", "localhost.example"])
def test_any_other_address_needs_one(host, monkeypatch):
    monkeypatch.setenv("CONSOLE_HOST", host)
    with pytest.raises(SettingsError, match="CONSOLE_TOKEN"):
        load(ConsoleSettings).check()
    monkeypatch.setenv("CONSOLE_TOKEN", TOKEN)
    load(ConsoleSettings).check()
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "variable,value",
    [
        ("CONSOLE_TOKEN", "short"),
        ("CONSOLE_INGRESS_URL", "http://localhost"),
        ("CONSOLE_INGRESS_URL", "ws://"),
        ("CONSOLE_METRICS_URLS", "http://a/metrics, b/metrics"),
        ("CONSOLE_METRICS_URLS", "http://[broken/metrics"),
        ("CONSOLE_METRICS_URLS", "http://a:99999/metrics"),
        ("CONSOLE_LIVE_SESSIONS", "-1"),
    ],
)
def test_what_makes_no_sense_is_told_and_secrets_are_not(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as told:
        load(ConsoleSettings)
    assert variable != "CONSOLE_TOKEN" or value not in str(told.value)


def test_addresses_of_metrics_are_parted(monkeypatch):
    monkeypatch.setenv("CONSOLE_METRICS_URLS", "http://a/metrics, https://b:1/metrics,")
    assert load(ConsoleSettings).metrics_urls == ("http://a/metrics", "https://b:1/metrics")
    assert load(ConsoleSettings).token is None


def test_where_a_browser_finds_it():
    assert url("127.0.0.1", 8090) == url("0.0.0.0", 8090) == "http://localhost:8090"
    assert url("10.0.0.7", 1) == "http://10.0.0.7:1"

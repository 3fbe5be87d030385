"""The operator's pages of usage and tracker: names of the mirrored stack, secrets, every field explained."""

import pytest

from usage.batch import Rules
from usage.settings import TrackerSettings, UsageSettings
from wire.errors import SettingsError
from wire.service import describe, load


def test_the_key_has_the_name_of_the_mirrored_stack_and_is_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("USAGE_TRACKING_API_KEY", "hunter2")
    settings = load(UsageSettings)
    assert settings.usage_tracking_api_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)
    assert ("USAGE_TRACKING_API_KEY", "") in [row[:2] for row in describe(UsageSettings)]


def test_the_default_of_giving_up_is_within_what_the_documents_say():
    assert 5 * 60 <= UsageSettings().give_up_s <= 60 * 60  # protocol 8.5


def test_an_hour_is_the_longest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIVE_UP_S", "3601")
    with pytest.raises(SettingsError, match="GIVE_UP_S"):
        load(UsageSettings)


def test_more_than_a_thousand_waiting_records_are_warned_of():
    assert UsageSettings().warn_waiting == 1000  # protocol 8.5


def test_the_rules_of_batches_are_the_operator_s():
    assert UsageSettings().rules == Rules()
    changed = UsageSettings(flush_s=1, batch_records=2, held_records=3, give_up_s=4)
    assert changed.rules == Rules(1, 2, 3, 4)


@pytest.mark.parametrize("name", ["PROBE_PORT", "HTTP_PORT"])
def test_the_port_has_the_name_of_the_mirrored_stack(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "8085")
    assert load(UsageSettings).probe_port == 8085


def test_each_process_has_a_name_of_its_own():
    assert UsageSettings().consumer != UsageSettings().consumer


@pytest.mark.parametrize("cls", [UsageSettings, TrackerSettings])
def test_every_setting_says_what_it_means_and_in_which_unit(cls):
    for names, _, meaning in describe(cls):
        assert meaning.endswith("."), names
        if names.endswith("_S"):
            assert "seconds" in meaning, names

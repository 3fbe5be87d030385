"""The operator's pages of licensing and issuer: names of the mirrored stack, every field explained."""

from pathlib import Path

import pytest

from licensing.settings import IssuerSettings, LicensingSettings
from wire.errors import SettingsError
from wire.service import describe, load


def test_names_of_the_mirrored_stack(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LICENSE_FILE_PATH", "/var/aai_license.jwt")
    monkeypatch.setenv("HTTP_PORT", "8080")
    settings = load(LicensingSettings)
    assert settings.license_file_path == Path("/var/aai_license.jwt")
    assert settings.probe_port == 8080


def test_the_status_is_on_8082_by_default():
    assert LicensingSettings().probe_port == 8082


def test_the_issuer_keeps_to_this_machine_by_default():
    settings = IssuerSettings()
    assert (settings.issuer_host, settings.issuer_port) == ("127.0.0.1", 8083)


def test_faults_are_told_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_PORT", "99999")
    monkeypatch.setenv("CHECKIN_TIMEOUT_S", "0")
    with pytest.raises(SettingsError) as error:
        load(LicensingSettings)
    assert all(name in str(error.value) for name in ("PROBE_PORT", "CHECKIN_TIMEOUT_S"))


@pytest.mark.parametrize("cls", [LicensingSettings, IssuerSettings])
def test_every_setting_says_what_it_means_and_in_which_unit(cls):
    for names, _, meaning in describe(cls):
        assert meaning.endswith("."), names
        if names.endswith("_S"):
            assert "seconds" in meaning, names

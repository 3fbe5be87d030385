"""The operator's page of a worker."""

import pytest

from wire.errors import SettingsError
from wire.service import describe, load
from workers.checkpoints import CATALOGUE
from workers.entry import POOLS
from workers.settings import MODELS, WorkerSettings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, _, _ in describe(WorkerSettings):
        for name in names.split(", "):
            monkeypatch.delenv(name, raising=False)


def test_defaults_serve_the_embedded_model() -> None:
    settings = load(WorkerSettings)
    assert (settings.model_of("english"), settings.vad) == ("moonshine-tiny-en", "silero-vad")
    assert settings.model_of("multilang") == "whisper-base"
    assert set(MODELS) == set(POOLS)
    assert set(MODELS.values()) <= set(CATALOGUE)
    assert settings.lease_s * 1000 > 10 * settings.step_ms  # a few slow steps lose no lease


def test_every_worker_has_a_name_of_its_own() -> None:
    assert load(WorkerSettings).worker != load(WorkerSettings).worker


def test_the_environment_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_OPEN_STREAMS", "3")
    monkeypatch.setenv("PRECISION", "float32")
    monkeypatch.setenv("DRAIN_GRACE_S", "0")
    monkeypatch.setenv("MODEL", "/models/mine")
    monkeypatch.setenv("PARTIAL_MS", "100")
    settings = load(WorkerSettings)
    assert (settings.slots, settings.precision, settings.drain_grace_s) == (3, "float32", 0.0)
    assert settings.model_of("english") == settings.model_of("any") == "/models/mine"
    assert settings.partial_ms == 100


@pytest.mark.parametrize("name", ["PROBE_PORT", "SERVER_PORT"])
def test_the_port_of_the_mirrored_stack_is_where_health_is(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "50051")
    assert load(WorkerSettings).probe_port == 50051


@pytest.mark.parametrize(
    "name, value",
    [
        ("SLOTS", "0"),
        ("SLOTS", "many"),
        ("PRECISION", "int4"),
        ("PARTIAL_MS", "20"),
        ("STEP_MS", "0"),
        ("LEASE_S", "0.1"),
        ("MAX_TAKES", "0"),
        ("DRAIN_GRACE_S", "-1"),
        ("THREADS", "-1"),
        ("REPORT_S", "0"),
    ],
)
def test_nonsense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load(WorkerSettings)


def test_every_setting_is_explained() -> None:
    for names, _, meaning in describe(WorkerSettings):
        assert meaning.strip().endswith((".", ";")) or meaning, names

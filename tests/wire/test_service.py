"""How a process lives: settings, log lines, the probe over real HTTP, and real processes that are signalled."""

import asyncio
import gc
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field, SecretStr, ValidationError

from wire import metrics, service
from wire.errors import SettingsError
from wire.service import Probe, ServiceSettings, describe, load, redact

ROOT = Path(__file__).parents[2]


class ExampleSettings(ServiceSettings):
    """Settings of a service that exists for these tests."""

    max_open_streams: int = Field(8, ge=1, description="Sessions served at once.")
    license_key: SecretStr = Field(SecretStr("unset"), description="What the vendor gave you.")
    greeting: str | None = Field(None, description="Said at start.")
    languages: list[str] = Field(default_factory=lambda: ["en"], description="A JSON list of languages.")


class DemandingSettings(ServiceSettings):
    """Settings with one that has no default."""

    region: str = Field(description="Where this runs.")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests counts."""
    for names, _, _ in describe(ExampleSettings) + describe(DemandingSettings):
        for name in names.split(", "):
            monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------------------------------------
# settings


def test_defaults():
    settings = load(ServiceSettings)
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.namespace == "steno"
    assert (settings.logging_level, settings.use_structured_logging) == ("INFO", False)
    assert (settings.probe_host, settings.probe_port) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    "variable,value,field,meaning",
    [
        ("REDIS_URL", "rediss://cache:6380/2", "redis_url", "rediss://cache:6380/2"),
        ("NAMESPACE", "blue", "namespace", "blue"),
        ("LOGGING_LEVEL", "debug", "logging_level", "DEBUG"),
        ("AAI_LOG_LEVEL", "WARNING", "logging_level", "WARNING"),
        ("USE_STRUCTURED_LOGGING", "True", "use_structured_logging", True),
        ("AAI_USE_STRUCTURED_LOGGING", "False", "use_structured_logging", False),
        ("PROBE_HOST", "0.0.0.0", "probe_host", "0.0.0.0"),
        ("PROBE_PORT", "9090", "probe_port", 9090),
        ("PROBE_PORT", "", "probe_port", 0),
        ("MAX_OPEN_STREAMS", "48", "max_open_streams", 48),
        ("LANGUAGES", '["de", "fr"]', "languages", ["de", "fr"]),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, meaning: Any):
    monkeypatch.setenv(variable, value)
    assert getattr(load(ExampleSettings), field) == meaning


def test_our_name_goes_before_the_other_stacks_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("AAI_LOG_LEVEL", "DEBUG")
    assert load(ServiceSettings).logging_level == "ERROR"


def test_settings_are_frozen_and_refuse_unknown_names():
    with pytest.raises(ValidationError):
        load(ServiceSettings).probe_port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ServiceSettings(prob_port=1)


def test_keywords_go_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGGING_LEVEL", "ERROR")
    assert ServiceSettings(logging_level="DEBUG").logging_level == "DEBUG"


def test_all_faults_are_told_together_by_the_variable_that_was_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_PORT", "70000")
    monkeypatch.setenv("MAX_OPEN_STREAMS", "many")
    monkeypatch.setenv("AAI_LOG_LEVEL", "loud")
    monkeypatch.setenv("REDIS_URL", "http://:hunter2@cache:6379")
    with pytest.raises(SettingsError) as caught:
        load(ExampleSettings)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "REDIS_URL",
        "AAI_LOG_LEVEL",
        "PROBE_PORT",
        "MAX_OPEN_STREAMS",
    ]
    assert "less than or equal to 65535 (it is '70000')" in lines[2]
    assert "hunter2" not in str(caught.value)


def test_a_missing_setting_and_a_broken_list(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingsError, match=r"^REGION: Field required$"):
        load(DemandingSettings)
    monkeypatch.setenv("LANGUAGES", "de, fr")
    with pytest.raises(SettingsError, match="languages"):
        load(ExampleSettings)


def test_a_secret_is_never_told(monkeypatch: pytest.MonkeyPatch):
    class Strict(ServiceSettings):
        key: SecretStr = Field(min_length=20, description="A secret.")

    monkeypatch.setenv("KEY", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load(Strict)
    assert str(caught.value).startswith("KEY: ")
    assert "hunter2" not in str(caught.value)


def test_describe_lists_every_variable_with_default_and_meaning():
    rows = describe(ExampleSettings)
    assert rows[2][:2] == ("LOGGING_LEVEL, AAI_LOG_LEVEL", "INFO")
    assert ("MAX_OPEN_STREAMS", "8", "Sessions served at once.") in rows
    assert ("LICENSE_KEY", "", "What the vendor gave you.") in rows
    assert ("GREETING", "", "Said at start.") in rows
    assert ("REGION", "(required)", "Where this runs.") in describe(DemandingSettings)
    assert all(meaning.endswith(".") for _, _, meaning in rows)


# ---------------------------------------------------------------------------------------------------------------------
# logging


@pytest.fixture
def logged() -> Iterator[Callable[[bool], Callable[[], list[str]]]]:
    """`lines = logged(structured)`: configures logging for this test; `lines()` is what was written since."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    written = io.StringIO()

    def configure(structured: bool) -> Callable[[], list[str]]:
        service.configure_logging("INFO", structured)
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written)
        return lambda: written.getvalue().splitlines()

    yield configure
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before


def test_a_line_of_text(logged):
    lines = logged(False)
    logging.getLogger("ingress.server").info(
        "Session opened", extra={"pool": "english", "peer": "a b", "none": ""}
    )
    [line] = lines()
    time, rest = line.split(" ", 1)
    assert rest == 'INFO ingress.server: Session opened pool=english peer="a b" none=""'
    assert len(time) == len("2026-01-31T12:00:00.000Z")
    assert time.endswith("Z")


def test_time_is_universal_whatever_the_machine_thinks(logged, monkeypatch: pytest.MonkeyPatch):
    record = logging.makeLogRecord(
        {"created": 1_700_000_000.25, "msg": "x", "name": "n", "levelname": "INFO"}
    )
    assert service.TextFormatter().format(record) == "2023-11-14T22:13:20.250Z INFO n: x"


def test_a_json_line(logged):
    lines = logged(True)
    token = service.session_id.set("5d1e")
    try:
        logging.getLogger("a").warning("Lease lost", extra={"generation": 2, "path": Path("x")})
    finally:
        service.session_id.reset(token)
    [line] = lines()
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "WARNING",
        "logger": "a",
        "message": "Lease lost",
        "session": "5d1e",
        "generation": 2,
        "path": "x",
    }


def test_the_session_joins_in_its_own_context_only(logged, run):
    lines = logged(False)

    async def serve(session: str, met: asyncio.Barrier):
        service.session_id.set(session)
        await met.wait()
        logging.getLogger("a").info("Turn", extra={"of": session})

    async def both():
        met = asyncio.Barrier(2)
        async with asyncio.TaskGroup() as group:
            for session in ("one", "two"):
                group.create_task(serve(session, met))

    run(both())
    logging.getLogger("a").info("Idle")
    assert sorted(line.split(": ")[1] for line in lines()) == [
        "Idle",
        "Turn session=one of=one",
        "Turn session=two of=two",
    ]


@pytest.mark.parametrize("structured", [False, True])
def test_exceptions_come_with_their_traceback(logged, structured: bool):
    lines = logged(structured)
    try:
        raise ValueError("no such slot")
    except ValueError:
        logging.getLogger("a").exception("Step failed")
    text = json.loads(lines()[0])["exception"] if structured else "\n".join(lines())
    assert "Traceback (most recent call last)" in text
    assert text.endswith("ValueError: no such slot")
    assert structured == (len(lines()) == 1)


@pytest.mark.parametrize("structured", [False, True])
def test_a_newline_in_a_field_starts_no_new_record(logged, structured: bool):
    lines = logged(structured)
    logging.getLogger("a").info("Refused", extra={"text": "x\n2026-01-01T00:00:00.000Z INFO a: Forged"})
    assert len(lines()) == 1


@pytest.mark.parametrize("structured", [False, True])
def test_no_password_reaches_the_log(logged, structured: bool):
    lines = logged(structured)
    logging.getLogger("a").error(
        "No answer from redis://:hunter2@cache:6379/0", extra={"url": "redis://u:hunter2@c"}
    )
    assert "hunter2" not in lines()[0]
    assert "cache:6379/0" in lines()[0]


@pytest.mark.parametrize(
    "text,safe",
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("redis://user:se@cret@cache", "redis://user:***@cache"),
        ("redis://cache?password=secret&db=1", "redis://cache?password=***&db=1"),
        ("ws://host/v3/ws?sample_rate=16000&token=secret", "ws://host/v3/ws?sample_rate=16000&token=***"),
        ("two: http://a:b@c and http://d:e@f", "two: http://a:***@c and http://d:***@f"),
        ("mail me@example.org at 10:30", "mail me@example.org at 10:30"),
    ],
)
def test_redact(text: str, safe: str):
    assert redact(text) == safe


def test_levels_are_kept(logged):
    lines = logged(False)
    logging.getLogger("a").debug("hidden")
    assert lines() == []


# ---------------------------------------------------------------------------------------------------------------------
# probe


def get(url: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_health_turns_from_starting_to_ready():
    with Probe("127.0.0.1", 0, "ingress") as probe:
        url = f"http://127.0.0.1:{probe.port}/health"
        status, kind, body = get(url)
        assert (status, kind, json.loads(body)) == (
            503,
            "application/json",
            {"status": "starting", "service": "ingress"},
        )
        probe.ready = True
        status, _, body = get(url)
        assert (status, json.loads(body)) == (200, {"status": "ready", "service": "ingress"})
        assert get(url, "HEAD")[::2] == (200, "")


def test_metrics_page():
    metrics.SESSIONS_OPEN.set(3)
    with Probe("127.0.0.1", 0) as probe:
        status, kind, body = get(f"http://127.0.0.1:{probe.port}/metrics")
    metrics.SESSIONS_OPEN.set(0)
    assert status == 200
    assert kind.startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    assert families["steno_sessions_open"].samples[0].value == 3


def test_status_page_only_where_there_is_one():
    with Probe("127.0.0.1", 0, status=lambda: {"state": "Connected"}) as probe:
        assert get(f"http://127.0.0.1:{probe.port}/v1/status")[2] == '{"state": "Connected"}'
    with Probe("127.0.0.1", 0) as probe:
        assert get(f"http://127.0.0.1:{probe.port}/v1/status")[0] == 404


def test_what_is_not_there_and_what_is_not_done():
    with Probe("127.0.0.1", 0) as probe:
        assert get(f"http://127.0.0.1:{probe.port}/etc/passwd")[0] == 404
        assert get(f"http://127.0.0.1:{probe.port}/health", "POST")[0] == 405


def test_a_client_that_says_nothing_holds_nobody_up():
    with Probe("127.0.0.1", 0) as probe, socket.create_connection(("127.0.0.1", probe.port)):
        assert get(f"http://127.0.0.1:{probe.port}/health")[0] == 503


def test_a_taken_port_is_a_fault_of_the_settings():
    with Probe("127.0.0.1", 0) as first, pytest.raises(SettingsError, match=f"PROBE_PORT: .*{first.port}"):
        Probe("127.0.0.1", first.port).start()


def test_a_stopped_probe_frees_its_port():
    probe = Probe("127.0.0.1", 0)
    probe.start()
    port = probe.port
    probe.stop()
    probe.stop()
    with Probe("127.0.0.1", port) as second:
        assert second.port == port


# ---------------------------------------------------------------------------------------------------------------------
# run: real processes

PREAMBLE = """
import asyncio, os, signal, sys, time
from wire import service
from wire.errors import GaveUp, LicenseError, SettingsError, WeightsError
service.configure_logging("INFO", False)
"""


@pytest.fixture
def process() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """`process(code)`: a Python process that runs `code` after PREAMBLE; killed if it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PREAMBLE + code],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )
        )
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


WAIT_FOR_DRAIN = """
async def main(drain):
    print("running", flush=True)
    await drain.wait()
    print("drained", flush=True)
sys.exit(service.run(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_drain(process, number: signal.Signals):
    child = process(WAIT_FOR_DRAIN)
    assert child.stdout.readline() == "running\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, "drained\n")
    assert f"Draining signal={number.name}" in err


def test_the_second_signal_ends_it_at_once_even_in_a_long_step(process):
    child = process("""
async def main(drain):
    step = asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
    print("running", flush=True)
    await drain.wait()
    print("draining", flush=True)
    await step
sys.exit(service.run(main))
""")
    assert child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "draining\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Second signal" in err


def test_it_runs_on_uvloop_or_without_it_on_the_standard_loop(process):
    code = """
async def main(drain):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])
sys.exit(service.run(main))
"""
    assert process(code).communicate(timeout=30)[0] == "uvloop\n"
    child = process("service.uvloop = None\n" + code)
    assert child.communicate(timeout=30) == ("asyncio\n", "")
    assert child.returncode == 0


@pytest.mark.parametrize(
    "error,code", [("SettingsError", 2), ("WeightsError", 3), ("LicenseError", 4), ("GaveUp", 75)]
)
@pytest.mark.parametrize("where", ["itself", "in a task group"])
def test_what_an_operator_can_mend_is_said_in_one_line(process, error: str, code: int, where: str):
    body = f"raise {error}('say steno models fetch')"
    if where == "in a task group":
        body = f"""
    async def fail(): {body}
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.Event().wait())
"""
    child = process(f"async def main(drain): {body}\nsys.exit(service.run(main))")
    _, err = child.communicate(timeout=30)
    assert child.returncode == code
    [line] = err.splitlines()
    assert line.endswith("CRITICAL wire.service: say steno models fetch")


@pytest.mark.parametrize(
    "limits,wanted,allowed",
    [
        ("ulimit -Sn 64", 200, 200),
        ("ulimit -n 64", 200, 64),
        ("ulimit -Sn 128", 64, 128),
    ],
)
def test_open_files_are_allowed_as_far_as_the_system_permits(limits: str, wanted: int, allowed: int):
    """In a process of its own, since a hard limit cannot be raised again."""
    code = (
        f"import os; from wire import service; print(service.allow_open_files({wanted})); "
        f"held = [os.open('/dev/null', os.O_RDONLY) for _ in range({min(wanted, allowed)} - 20)]"
    )
    found = subprocess.run(
        ["/bin/sh", "-c", f'{limits}; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout.strip(), found.returncode) == (str(allowed), 0), found.stderr


@pytest.mark.parametrize(
    "body",
    [
        "raise ZeroDivisionError('a bug')",
        "raise ExceptionGroup('two', [SettingsError('x'), ZeroDivisionError('a bug')])",
    ],
)
def test_a_bug_is_told_with_its_traceback(process, body: str):
    child = process(f"async def main(drain): {body}\nsys.exit(service.run(main))")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: a bug" in err


def test_a_service_seldom_looks_for_garbage_and_leaves_all_as_it_was() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with service.few_collections():
        assert gc.get_threshold() == service.THRESHOLDS
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0

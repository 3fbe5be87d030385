"""Licensing and usage on the command line: files, books and reports, as an operator and a vendor meet them."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import dues
from cli.main import app
from licensing.issuer import LOCAL_CUSTOMER
from licensing.license import peek
from usage.tracker import Tracker
from wire.accounts import Accounts
from wire.entries import UsageRecord
from wire.web import Ask


@pytest.fixture
def steno(tmp_path: Path):
    """`steno(*words, **env)`: the command in a process of its own, in a folder of its own."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *words],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "120", "TERM": "dumb", "PYTHONPATH": root, **env},
            check=False,
        )

    return run


@pytest.mark.parametrize(
    "words",
    [["licensing"], ["license", "issue"], ["issuer", "mint"], ["usage", "report"], ["tracker", "report"]],
)
def test_each_help_has_a_meaning_and_an_example(words):
    found = CliRunner().invoke(app, [*words, "--help"])
    assert found.exit_code == 0
    assert "Examples" in found.output
    assert f"steno {' '.join(words)}" in found.output


@pytest.mark.parametrize(
    "word,variable",
    [
        ("licensing", "LICENSE_FILE_PATH"),
        ("usage", "USAGE_TRACKING_API_KEY"),
        ("issuer", "ISSUER_BOOK"),
        ("tracker", "TRACKER_BOOK"),
    ],
)
def test_services_tell_their_settings(steno, word: str, variable: str):
    found = steno(word, "--settings")
    assert found.returncode == 0
    assert variable in found.stdout


def test_a_licence_from_key_to_verification(steno, tmp_path):
    assert steno("license", "keygen").returncode == 0
    issued = steno(
        "license", "issue", "--customer", "Acme", "--pools", "english, u3pro", "--billing", "usage"
    )
    (tmp_path / "license.jwt").write_text(issued.stdout)
    shown = steno("license", "show", "license.jwt")
    assert '"sub": "Acme"' in shown.stdout
    verified = steno("license", "verify", "license.jwt")
    assert verified.returncode == 0
    assert "Acme, pools english, u3pro" in verified.stdout


def test_what_is_no_licence_exits_with_4_and_the_reason(steno, tmp_path):
    steno("license", "keygen")
    (tmp_path / "bad.jwt").write_text("nonsense")
    found = steno("license", "verify", "bad.jwt")
    assert found.returncode == 4
    assert "unreadable" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["license", "issue", "--customer", "A", "--billing", "free"],
        ["license", "keygen", "--algorithm", "HS256", "--private", "other.pem"],
        ["license", "keygen"],  # there is one already
    ],
)
def test_wrong_usage_exits_with_2(steno, words):
    steno("license", "keygen")
    found = steno(*words)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_the_vendor_s_book(steno, tmp_path):
    steno("license", "keygen")
    minted = steno("issuer", "mint", "--customer", "Acme", "--checkin-url", "https://issuer.example")
    assert minted.stdout.count(".") == 2
    [row] = csv.DictReader(io.StringIO(steno("issuer", "list").stdout))
    assert (row["customer"], row["revoked"], row["last_checkin"]) == ("Acme", "", "")
    assert steno("issuer", "revoke", row["license"], "--reason", "not paid").returncode == 0
    [row] = csv.DictReader(io.StringIO(steno("issuer", "list").stdout))
    assert row["revoked"] == "not paid"
    assert steno("issuer", "reinstate", row["license"]).returncode == 0
    assert steno("issuer", "revoke", "no such").returncode == 4


def test_totals_of_the_tracker(steno, tmp_path):
    tracker = Tracker(tmp_path / "tracker.sqlite3", ["k"])
    record = {
        "session": "s",
        "lap": 1,
        "audio_ms": 5,
        "session_ms": 6,
        "pool": "p",
        "model": "m",
        "started_ms": 0,
    }
    body = {"license": "l", "batch": "b", "records": [{**record, "ended_ms": None}]}
    assert tracker.respond(Ask("POST", "/v1/usage", body, "k")).status == 200
    found = steno("tracker", "report", TRACKER_API_KEYS="k")
    assert found.stdout.splitlines()[1] == "l,1970-01-01,p,1,5,6,0"


def test_usage_in_redis(steno, run, bus, redis_url, namespace):
    run(
        Accounts(bus).append_usage(
            [UsageRecord("s", 2, 10, 11, "english", "m", 5), UsageRecord("t", 1, 1, 1, "e", "m", 4, 9)]
        )
    )
    found = steno("usage", "report", REDIS_URL=redis_url, NAMESPACE=namespace)
    assert found.stdout.splitlines() == [
        "session,pool,model,lap,audio_ms,session_ms,started_ms,ended_ms",
        "t,e,m,1,1,1,4,9",
        "s,english,m,2,10,11,5,",
    ]


def test_without_redis_a_report_says_so(steno, free_port):
    found = steno("usage", "report", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert found.returncode == 1
    assert "Redis cannot be reached" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_stack_licenses_itself_unless_the_operator_has_a_licence(tmp_path, monkeypatch):
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    made = dues.local_license_variables({})
    assert peek(Path(made["LICENSE_FILE_PATH"]).read_text())["sub"] == LOCAL_CUSTOMER
    assert Path(made["LICENSE_KEYS_PATH"]).exists()
    assert dues.local_license_variables({}) == made
    assert dues.local_license_variables({"LICENSE_FILE_PATH": "/var/license.jwt"}) == {}

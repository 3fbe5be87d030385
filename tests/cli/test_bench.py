"""`steno bench`: the command as a user runs it; a short run leaves JSON and a picture."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app

COMMANDS = (
    "accuracy",
    "all",
    "bus",
    "chaos",
    "churn",
    "handshake",
    "ingress",
    "keyterms",
    "latency",
    "nodes",
    "record",
    "startup",
    "worker",
)


def bench(*words: str):
    return CliRunner().invoke(app, ["bench", *words], env={"COLUMNS": "160", "TERM": "dumb"})


def test_help_names_every_measurement() -> None:
    found = bench("--help")
    assert found.exit_code == 0
    assert all(command in found.output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(command) -> None:
    found = bench(command, "--help")
    assert found.exit_code == 0
    assert f"steno bench {command}" in found.output
    assert "--short" in found.output


@pytest.mark.parametrize("sessions", ["many", "0", "4,,8", ""])
def test_wrong_levels_are_refused(sessions) -> None:
    found = bench("worker", "--sessions", sessions)
    assert found.exit_code == 2
    assert "commas" in found.output


def test_pools_without_key_terms_are_refused() -> None:
    found = bench("keyterms", "--pools", "english,klingon")
    assert found.exit_code == 2
    assert "klingon" in found.output


@pytest.mark.parametrize("command", ["worker", "accuracy"])
def test_a_pool_that_nobody_serves_is_told(command) -> None:
    found = bench(command, "--pool", "klingon")
    assert found.exit_code != 0
    assert "no such pool: klingon" in str(found.exception)


@pytest.mark.weights
def test_a_short_run_prints_json_and_leaves_it_with_a_picture(tmp_path) -> None:
    found = bench("worker", "--sessions", "1", "--seconds", "2", "--json", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout.splitlines()[-1])
    saved = json.loads((tmp_path / "worker.json").read_text())
    assert saved["levels"] == result["levels"]
    assert {"machine", "versions", "commit", "settings", "method", "holds"} <= set(result)
    assert (tmp_path / "worker.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.weights
def test_a_short_run_prints_a_table(tmp_path) -> None:
    found = bench("worker", "--sessions", "1", "--seconds", "2", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert "live sessions (goal: 8, p95 of finals at most 1000 ms)" in found.output
    assert "worker.png" in found.output


def test_a_short_run_of_handshakes_needs_no_weights(tmp_path) -> None:
    found = bench("handshake", "--quick", "--connections", "10", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert "goal: none above 1000 ms" in found.output
    assert json.loads((tmp_path / "handshake.json").read_text())["rounds"][0]["opened"] == 10
    assert (tmp_path / "handshake.png").read_bytes().startswith(b"\x89PNG")

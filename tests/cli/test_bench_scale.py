"""`cli.bench_scale`: the commands as a user runs them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


def bench(*words: str):
    return CliRunner().invoke(app, ["bench", *words], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize(
    "words,said",
    [
        (("bus", "--servers", "plain,ring"), "ring: there are plain, cluster"),
        (("bus", "--sessions", "none"), "commas"),
        (("nodes", "--nodes", "4", "--sessions", "2"), "each node needs a session"),
        (("all", "flight"), "flight: there are"),
        (("ingress", "--compare", "gc=much"), "gc=much"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(words, said) -> None:
    found = bench(*words)
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "words,name,says",
    [
        (
            ("bus", "--sessions", "2,4", "--seconds", "1", "--repeats", "2", "--servers", "plain"),
            "bus",
            "Redis takes",
        ),
        (
            ("nodes", "--nodes", "1,2", "--sessions", "2,4", "--seconds", "1", "--repeats", "1"),
            "nodes",
            "off by at most",
        ),
        (("startup", "--short"), "startup", "steno --help"),
        (
            ("ingress", "--compare", "as-is,gc=off", "--sessions", "2", "--seconds", "1", "--repeats", "1"),
            "ingress-settings",
            "gc=off",
        ),
    ],
)
def test_a_run_prints_a_table_and_leaves_json_and_picture(words, name, says, tmp_path: Path) -> None:
    found = bench(*words, "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert says in found.output
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert {"machine", "versions", "commit", "settings", "method", "goals"} <= set(result)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_suite_writes_capacity_when_asked(tmp_path: Path) -> None:
    page = tmp_path / "CAPACITY.md"
    found = bench("all", "startup", "--short", "--out", str(tmp_path / "results"), "--capacity", str(page))
    assert found.exit_code == 0, found.output
    assert "| `steno ingress`, from start to ready | at most 1,500 ms |" in page.read_text()
    assert json.loads((tmp_path / "results" / "all.json").read_text())["parts"][0]["failed"] == ""

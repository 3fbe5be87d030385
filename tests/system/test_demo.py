"""`steno demo` as a newcomer meets it, and the client that it tells them to copy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from cli import demo, up
from cli.up import Stack
from workers.entry import POOLS

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module", autouse=True)
def weights() -> None:
    up.fetch_weights(Console(stderr=True), pools=POOLS)


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z\s]", "", text.lower()).split()


def test_it_shows_partials_become_finals_with_times_and_leaves_nothing() -> None:
    before = set(psutil.Process().children(recursive=True))
    found = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--file", DATA / "quick_brown_fox.wav"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    finals = re.findall(r"s  final +(.*?)  \[[\d:.]+ - [\d:.]+\]", found.stdout)
    partials = re.findall(r"([\d.]+) s  partial  (.*)", found.stdout)
    assert words(" ".join(finals)) == words("The quick brown fox jumps over the lazy dog")
    assert len(partials) >= 3
    times_s = [float(at_s) for at_s, _ in partials]
    assert times_s == sorted(times_s)
    assert re.search(r"Begin +\d+ ms", found.stdout)
    assert re.search(r"final +\d+ ms", found.stdout)  # it ended by the pause, not by our leaving
    assert re.search(r"real-time factor +\d+\.\d\d", found.stdout)
    assert "steno up" in found.stdout
    assert set(psutil.Process().children(recursive=True)) <= before


def test_it_shows_a_second_pool_and_the_language_it_heard() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--pools", "multilang"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    finals = re.findall(r"s  final +(.*?)  \[[\d:.]+ - [\d:.]+\]  (\w+) (\d+)%", found.stdout)
    assert {"raposa", "salta", "cachorro"} <= set(words(" ".join(text for text, _, _ in finals)))
    assert [code for _, code, _ in finals][-1] == "pt"
    assert "Measured on this machine: multilang" in found.stdout
    assert "english" not in found.stdout.split("Measured")[0]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_it_shows_every_pool_one_after_the_other() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo"], capture_output=True, text=True, timeout=180, check=False
    )
    assert found.returncode == 0, found.stderr
    assert re.findall(r"Measured on this machine: (\w+)", found.stdout) == list(POOLS)
    assert "best of times" in found.stdout
    assert found.stdout.count("stopped") == 1


def test_the_first_client_can_be_copied_and_works(tmp_path) -> None:
    shutil.copy(DATA / "best_of_times.wav", tmp_path / "talk.wav")
    with Stack() as stack:
        code = demo.FIRST_CLIENT.replace("ws://localhost:8080", stack.url)
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 0, found.stderr
    heard = " ".join(words(found.stdout))
    assert all(phrase in heard for phrase in ("best of times", "worst of times", "age of wisdom"))

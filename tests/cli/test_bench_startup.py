"""`cli.bench_startup`: services started for real, and what they leave alone until it is needed."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import bench_startup
from cli.bench_startup import GOALS, HELP

#: Each takes long to load. Models, sound files and pictures are the business of workers, clients and benchmarks.
HEAVY = {
    "av",
    "matplotlib",
    "psutil",
    "requests",
    "safetensors",
    "sounddevice",
    "soundfile",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
    "workers",
}
#: Process -> what it must not load besides. Ingress resamples, and speaks to clients' webhooks only when told to.
BESIDES = {
    "ingress": {"arq", "rich.console"},
    "licensing": {"numpy", "soxr", "websockets", "ingress"},
    "usage": {"numpy", "soxr", "websockets", "ingress"},
    HELP: {"asyncio", "cryptography", "jwt", "numpy", "pydantic", "redis", "websockets", "wire.service"},
}


def loaded(log: str) -> set[str]:
    """What `-X importtime` names: modules, and the packages they are in."""
    names = re.findall(r"^import time:.*\| +([\w.]+)$", log, re.MULTILINE)
    return {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}


@pytest.mark.parametrize("name", [name for name in GOALS if name != HELP])
def test_a_service_that_is_ready_has_loaded_nothing_heavy(name, redis_url: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if name == "usage":  # which waits until it is told of a licence
            stack.enter_context(bench_startup.ready("licensing", redis_url, tmp_path))
        assert stack.enter_context(bench_startup.ready(name, redis_url, tmp_path, ["-X", "importtime"])) > 0
    found = loaded((tmp_path / f"{name}.log").read_text())
    assert {"wire.service", "wire.streams"} <= found
    assert found & (HEAVY | BESIDES[name]) == set()


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cli.main", HELP]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "steno demo" in done.stdout
    found = loaded(done.stderr)
    assert "typer.main" in found
    assert found & (HEAVY | BESIDES[HELP]) == set()


def test_the_middle_round_is_what_counts() -> None:
    assert bench_startup.summary(HELP, [300.0, 390.04, 900.0]) == {
        "median_ms": 390.0,
        "spread_ms": (300.0, 900.0),
        "holds": True,
    }
    assert not bench_startup.summary("usage", [1_501.0])["holds"]

"""`cli.bench_tuned`: settings are read, refused, and hold in the process they are meant for."""

import ast
import subprocess
import sys

import pytest

from cli.bench_tuned import parse, started_with


def test_settings_are_read() -> None:
    assert parse("as-is, gc=off,freeze+gc=50000/20/50, TICK_MS=8+loop=asyncio") == [
        "as-is",
        "gc=off",
        "freeze+gc=50000/20/50",
        "TICK_MS=8+loop=asyncio",
    ]


@pytest.mark.parametrize("text", ["", "gc=1", "gc=on", "loop=trio", "freeze+", "as-is,as-is", "tick=3"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|commas"):
        parse(text)


def test_only_what_concerns_the_inside_needs_another_program() -> None:
    assert started_with("as-is").module == ("cli.main",)
    assert started_with("TICK_MS=8").module == ("cli.main",)
    assert started_with("TICK_MS=8").env == {"TICK_MS": "8"}
    assert started_with("TICK_MS=8+freeze+gc=off").module == ("cli.bench_tuned", "freeze+gc=off")


def test_they_hold() -> None:
    code = (
        "import gc; from cli.bench_tuned import apply; apply(['freeze', 'gc=50000/20/50', 'gc=off']);"
        "print((gc.get_threshold(), gc.isenabled(), gc.get_freeze_count() > 0))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(said) == ((50_000, 20, 50), False, True)


def test_the_program_behind_them_is_ours() -> None:
    command = [sys.executable, "-m", "cli.bench_tuned", "loop=asyncio", "ingress", "--settings"]
    assert "TICK_MS" in subprocess.run(command, capture_output=True, text=True, check=True).stdout

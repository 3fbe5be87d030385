"""A service with other settings of the interpreter: for `steno bench ingress --compare`, which measures what they do.

    as-is           what the service itself does
    gc=A/B/C        thresholds of the garbage collector's generations; gc=off: it does not run by itself
    freeze          what is there once the service is ready is never looked at again by the collector
    loop=asyncio    the standard library's event loop instead of uvloop's
    NAME=VALUE      an environment variable, of the service or of the interpreter (TICK_MS=8, PYTHONMALLOC=malloc)

Several are joined with +. What concerns the collector is done when the probe says ready, so it holds against what the
service does itself. As a program: `python -m cli.bench_tuned SETTINGS ingress ...`.
"""

import gc
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

AS_IS = "as-is"
_PARTS = re.compile(r"as-is|freeze|gc=off|gc=\d+/\d+/\d+|loop=asyncio|[A-Z][A-Z0-9_]*=[^,+]*")
_POLL_S = 0.02


@dataclass(frozen=True)
class Started:
    """How such a service is started: `python -m MODULE... ingress`, with these variables."""

    module: tuple[str, ...]
    env: dict[str, str]


def parse(text: str) -> list[str]:
    """Settings with commas between. Raises ValueError."""
    found = [one.strip() for one in text.split(",") if one.strip()]
    for one in found:
        for part in one.split("+"):
            if not _PARTS.fullmatch(part):
                raise ValueError(
                    f"{part!r}: there are as-is, gc=A/B/C, gc=off, freeze, loop=asyncio and NAME=VALUE, joined with +"
                )
    if len(set(found)) != len(found) or not found:
        raise ValueError("settings with commas between, each once")
    return found


def started_with(settings: str) -> Started:
    """`settings`: one of those that `parse` returns."""
    parts = settings.split("+")
    env = dict(part.split("=", 1) for part in parts if part[0].isupper())
    inside = [part for part in parts if not part[0].isupper() and part != AS_IS]
    return Started(("cli.bench_tuned", "+".join(inside)) if inside else ("cli.main",), env)


def main() -> None:
    """The service, its words after the settings."""
    parts = sys.argv.pop(1).split("+")
    if "loop=asyncio" in parts:
        from wire import service

        service.uvloop = None
    if collector := [part for part in parts if not part.startswith("loop")]:
        threading.Thread(target=_when_ready, args=(collector,), daemon=True).start()
    from cli import main as command

    command.main()


def _when_ready(parts: list[str]) -> None:
    while not _is_ready():
        time.sleep(_POLL_S)
    apply(parts)


def apply(parts: list[str]) -> None:
    """Those of the collector."""
    for part in parts:
        if part == "freeze":
            gc.collect()
            gc.freeze()
        elif part == "gc=off":
            gc.disable()
        elif part.startswith("gc="):
            gc.set_threshold(*map(int, part[3:].split("/")))


def _is_ready() -> bool:
    """Not `up.is_ready`: what that imports would be in the service that is measured."""
    connection = HTTPConnection(os.environ["PROBE_HOST"], int(os.environ["PROBE_PORT"]), timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()

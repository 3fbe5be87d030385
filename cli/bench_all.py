"""The whole suite, one benchmark after the other, each a process of its own: what fails loses nothing of the others.

First what takes little and needs no weights, then the pools. Each leaves its JSON and picture in one folder; `all.json`
there says what ran, how long it took, and what became of it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The parts in their order: the words of `steno bench`.
PARTS = (
    "startup",
    "handshake",
    "ingress",
    "bus",
    "nodes",
    "churn",
    "latency",
    "worker",
    "accuracy",
    "record",
    "chaos",
)
#: What some are asked besides: levels that do not hold say where it ends, and whether costs grow in a line.
WORDS = {"ingress": ("--every",)}
#: What a short run leaves out: even in short it takes minutes.
LONG = ("accuracy", "chaos")
#: No part takes this long.
PATIENCE_S = 3 * 3600.0
#: Lines of what a part that failed said last.
_LAST = 5
METHOD = "Each benchmark in its turn, in a process of its own, with its usual settings; `--short` with its short ones."


@dataclass(frozen=True)
class Ran:
    """One part: what it was asked, how long it took, and "" or why it has no result."""

    part: str
    command: str
    seconds: float
    failed: str


def chosen(parts: Iterable[str], short: bool) -> list[str]:
    """These parts in the suite's order; all that belong to the run if none are named. Raises ValueError."""
    wanted = [part.strip() for part in parts if part.strip()]
    if unknown := [part for part in wanted if part not in PARTS]:
        raise ValueError(f"{', '.join(unknown)}: there are {', '.join(PARTS)}")
    if wanted:
        return [part for part in PARTS if part in wanted]
    return [part for part in PARTS if not (short and part in LONG)]


def run(
    parts: Sequence[str], out: Path, short: bool, tell: Callable[[str], None], done: Callable[[Ran], None]
) -> dict[str, Any]:
    """Run them; `done` is told of each when it has ended."""
    ran = []
    for number, part in enumerate(parts, start=1):
        tell(f"{number} of {len(parts)}: {part}")
        ran.append(_one(part, out, short))
        done(ran[-1])
    return {
        "settings": {"parts": list(parts), "short": short, "out": str(out)},
        "method": METHOD,
        "goals": {},
        "holds": not any(one.failed for one in ran),
        "parts": [vars(one) for one in ran],
    }


def _one(part: str, out: Path, short: bool) -> Ran:
    words = [part, *WORDS.get(part, ()), *(["--short"] if short else []), "--json", "--out", str(out)]
    started_s = time.monotonic()
    failed = ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "bench", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        failed = f"not done after {PATIENCE_S:.0f} s"
    else:
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST:]
            failed = "\n".join(last) or f"exit code {done.returncode}"
        elif not _is_json(done.stdout):
            failed = "it printed no result"
    return Ran(part, " ".join(["steno", "bench", *words]), round(time.monotonic() - started_s, 1), failed)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text.strip().splitlines()[-1]), dict)
    except (ValueError, IndexError):
        return False

"""`python -m tests.foreign SECONDS RELEASE ...`: `steno ...` on a machine whose clock is ahead by so many seconds, or
behind; and of a `later` release, whose entries say more than this one knows, or of `this` one.
"""

import runpy
import sys
import time
from typing import Any

from wire import entries


def steno(skew_s: float = 0.0, later: bool = False) -> list[str]:
    """How to begin the command line of such a process."""
    if not skew_s and not later:
        return [sys.executable, "-m", "cli.main"]
    return [sys.executable, "-m", "tests.foreign", str(skew_s), "later" if later else "this"]


def main() -> None:
    skew_s, release = float(sys.argv.pop(1)), sys.argv.pop(1)
    wall, wall_ns = time.time, time.time_ns
    time.time = lambda: wall() + skew_s
    time.time_ns = lambda: wall_ns() + round(skew_s * 1e9)
    if release == "later":
        _say_more()
    runpy.run_module("cli.main", run_name="__main__", alter_sys=True)


def _say_more() -> None:
    """Before anything takes these functions by their names."""
    pack_value = entries.pack_value

    def pack(kind: entries.Kind, *fields: Any) -> bytes:
        return pack_value((entries.VERSION, int(kind), *fields, {"later": [1, 2.5, b"3"]}))

    def pack_audio(entry: entries.AudioEntry) -> bytes:
        if isinstance(entry, entries.AudioFrame):
            return pack(entries.Kind.AUDIO, entry.position, entry.pcm)
        return pack(entries.Kind.CONTROL, int(entry.order), entry.position, entry.fields)

    entries._pack = pack
    entries.pack_audio = pack_audio


if __name__ == "__main__":
    main()

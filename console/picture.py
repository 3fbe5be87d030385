"""A report's page as a picture, by the Chromium of this machine, if there is one."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from wire.errors import StackError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 1_200
#: Taller pictures are cut: few programs show them.
MAX_HEIGHT = 16_000
TIMEOUT_S = 120.0


class NoPicture(StackError):
    """There is no Chromium, or it failed; the message is for the user."""


def photograph(page: Path, picture: Path) -> None:
    """Write `page`, a report as a file, to `picture` as PNG, in light colours. Raises NoPicture."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise NoPicture("a picture needs Chromium, which is not installed (Debian: apt install chromium)")
    address = page.resolve().as_uri()
    with tempfile.TemporaryDirectory(prefix="steno-picture-") as profile:
        dom = _chromium(program, profile, "--dump-dom", address)
        # The page's script writes down how tall it has become.
        told = re.search(r'<html[^>]* data-height="(\d+)"', dom)
        height = min(int(told[1]) if told else WIDTH, MAX_HEIGHT)
        size = f"--window-size={WIDTH},{height}"
        _chromium(program, profile, size, "--hide-scrollbars", f"--screenshot={picture.resolve()}", address)
    if not picture.is_file():
        raise NoPicture(f"{program} wrote no picture")


def _chromium(program: str, profile: str, *words: str) -> str:
    flags = ["--headless", "--disable-gpu", "--disable-background-networking", f"--user-data-dir={profile}"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # which root must not have
    try:
        ended = subprocess.run(
            [program, *flags, f"--window-size={WIDTH},800", *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPicture(f"{program} failed: {error}") from None
    if ended.returncode != 0:
        raise NoPicture(f"{program} failed: {ended.stderr.strip()[-300:] or ended.returncode}")
    return ended.stdout

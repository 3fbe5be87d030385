"""Clients of others, unmodified, each in an environment of its own, driven as processes.

An environment is what the client's own packager installs from a file of exact pins. It is made once, below
`.venv-clients/` (the variable STENO_CLIENTS moves it), in a folder named after what went into it, so that other pins
make another one and repeated runs make none.

A driver is a small script in the client's language. It is given a job, a file of JSON: where to connect, the client's
own options, and steps in the order they are done (`say`, `wait`, ...). It prints what the client tells its user, one
JSON object a line, and nothing else. It runs under `cli.child`, so that it ends with the tests, however they end.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cli.up import Stack
from tests.conversation import PATIENCE_S

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = Path(os.environ.get("STENO_CLIENTS", ROOT / ".venv-clients"))
IN_CI = os.environ.get("CI", "").lower() == "true"
#: A first installation over a slow line.
INSTALL_S = 900.0
#: What a driver may take beyond waiting for the server: starting, importing its client.
START_S = 30.0

#: One thing that a client told its user; `event` says what it is.
Event = dict[str, Any]
Step = list[Any]


# ---------------------------------------------------------------------------------------------------------------------
# environments


def python_environment(name: str, requirements: Path) -> Path:
    """The interpreter of a virtual environment with exactly these requirements. Skips, or fails in CI, without it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--no-deps", "-r", str(requirements)])
        _run([*pip, "check"])

    return _environment(name, [version, requirements.read_text()], install) / "bin" / "python"


def node_environment(name: str, source: Path) -> Path:
    """A folder with `node_modules` as the lock file in `source` says. Skips, or fails in CI, without it."""
    files = [source / file for file in ("package.json", "package-lock.json", ".npmrc")]
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _missing(f"{name}: {program} is not installed")

    def install(folder: Path) -> None:
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund"], cwd=folder)

    return _environment(name, [file.read_text() for file in files], install)


def _environment(name: str, made_of: Sequence[str], install: Callable[[Path], None]) -> Path:
    """The folder that `install` has filled, now or in an earlier run; a half-filled one is filled anew."""
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:12]
    folder = ENVIRONMENTS / f"{name}-{key}"
    stamp = folder / ".complete"
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:  # two runs at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                install(folder)
            except (OSError, subprocess.SubprocessError) as error:
                _missing(f"{name} could not be installed: {_reason(error)}")
            stamp.touch()
    return folder


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    subprocess.run(
        command,
        cwd=cwd,
        check=True,
        timeout=INSTALL_S,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _reason(error: Exception) -> str:
    output = getattr(error, "stdout", None) or ""
    return "\n".join([str(error), *str(output).splitlines()[-5:]])


def _missing(why: str) -> NoReturn:
    if IN_CI:
        pytest.fail(why)
    pytest.skip(why)


# ---------------------------------------------------------------------------------------------------------------------
# servers


@dataclass(frozen=True)
class SecureStack:
    """A stack behind TLS, and the file of the authority that its certificate is from."""

    stack: Stack
    ca_file: Path

    @property
    def url(self) -> str:
        """Where clients connect, without a path."""
        return f"wss://localhost:{self.stack.port}"


# ---------------------------------------------------------------------------------------------------------------------
# steps


def say(audio: bytes, *channel: str) -> Step:
    """Send this audio, 16-bit mono, in chunks as this client has them, as fast as it takes them."""
    return ["say", audio, *channel]


def wait(event: str, count: int = 1) -> Step:
    """Go on when the client has told its user `event` for the `count`th time."""
    return ["wait", event, count]


def do(what: str, *arguments: object) -> Step:
    """Call the client: what can be called, and how it is named, is told in the driver."""
    return [what, *arguments]


# ---------------------------------------------------------------------------------------------------------------------
# drivers


@dataclass(frozen=True)
class Heard:
    """What one session's client told its user, in order."""

    events: list[Event]

    def of(self, event: str) -> list[Event]:
        return [each for each in self.events if each["event"] == event]

    def one(self, event: str) -> Event:
        """The only one of its kind."""
        found = self.of(event)
        assert len(found) == 1, f"{len(found)} x {event}: {self.events}"
        return found[0]

    def transcript(self, event: str = "final") -> str:
        return " ".join(each["text"] for each in self.of(event))


@dataclass(frozen=True)
class Driver:
    """A script and the program that runs it."""

    program: str
    script: Path

    def session(
        self,
        folder: Path,
        url: str,
        steps: Sequence[Step],
        options: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Heard:
        """One session from connecting to the end. `folder` is for files; fails if the driver does, or hangs."""
        job = {
            "url": url,
            "options": dict(options or {}),
            "steps": list(_steps_on_disk(folder, steps)),
            "patience_s": PATIENCE_S,
        }
        (folder / "job.json").write_text(json.dumps(job))
        command = [
            sys.executable,
            "-m",
            "cli.child",
            self.program,
            str(self.script),
            str(folder / "job.json"),
        ]
        code = _run_to_end(command, folder, dict(env or {}))
        noise = (folder / "stderr").read_text(errors="replace")
        assert code == 0, f"{self.script.name}: exit code {code}\n{noise[-4000:]}"
        lines = (folder / "stdout").read_text().splitlines()
        return Heard([json.loads(line) for line in lines])


def _steps_on_disk(folder: Path, steps: Sequence[Step]) -> Iterator[Step]:
    """Audio goes through files; the rest is JSON."""
    for number, (what, *arguments) in enumerate(steps):
        if what == "say":
            path = folder / f"{number}.pcm"
            path.write_bytes(arguments[0])
            yield [what, str(path), *arguments[1:]]
        else:
            yield [what, *arguments]


def _run_to_end(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | env,
            stdin=subprocess.PIPE,  # the lifeline: see cli.child
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        return process.wait(3 * PATIENCE_S + START_S)
    except subprocess.TimeoutExpired:
        told, noise = ((folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        pytest.fail(f"the client hangs\n{told}\n{noise[-4000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nothing is left, whatever the client had started
        process.wait()
        assert process.stdin is not None
        process.stdin.close()

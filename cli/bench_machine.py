"""What a benchmark ran on, and what the stack's processes took of it."""

import importlib
import os
import platform
import subprocess
import sys
import time
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path
from typing import Any

from cli import redis_server, up
from wire.errors import StackError


class ToolMissing(StackError):
    """A package that only benchmarks need is not installed."""


def tool(name: str) -> Any:
    """An optional package. Raises ToolMissing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ToolMissing(f"benchmarks need {package}; run: pip install 'steno[bench]'") from None


def describe() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    psutil = tool("psutil")
    return {
        "machine": {
            "processor": _processor(),
            **({"gpu": gpu} if (gpu := _gpu()) else {}),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": platform.platform(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "steno": _version("steno"),
            "python": sys.version.split()[0],
            "torch": _version("torch"),
            "redis": _redis(),
        },
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str:
    """Names of the NVIDIA GPUs that a worker would find, with their driver; empty where there is none."""
    said = _said(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return "; ".join(line.strip() for line in said.splitlines())


def _redis() -> str:
    return _said([str(redis_server.find()), "--version"]).replace("Redis server ", "").split(" sha")[0]


def _commit() -> str:
    """The tree that runs; `+` where it has changes that are in no commit."""
    root = str(Path(__file__).parents[1])
    commit = _said(["git", "-C", root, "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-C", root, "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+" if commit and changed else commit or "unknown"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class Usage:
    """Processor time of a stack's services since `begin`, in cores (1.0: one core all the time)."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._psutil = tool("psutil")
        self._pids = pids
        self._started_s, self._before = time.monotonic(), self._seconds()

    def seconds(self) -> dict[str, float]:
        """Service -> processor seconds so far, to the clock tick."""
        return {name: seconds - self._before[name] for name, seconds in self._seconds().items()}

    @property
    def passed_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started_s

    def cores(self) -> dict[str, float]:
        """Service -> mean cores so far; `others`: all else that ran on this machine."""
        passed_s = self.passed_s
        cores = {
            name: round((seconds - self._before[name]) / passed_s, 3)
            for name, seconds in self._seconds().items()
        }
        every = cores.pop("others")
        return cores | {"others": round(max(0.0, every - sum(cores.values())), 3)}

    def _seconds(self) -> dict[str, float]:
        times = self._psutil.cpu_times()
        busy = sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq"))
        return {name: self._of(pid) for name, pid in self._pids.items()} | {"others": busy}

    def _of(self, pid: int) -> float:
        process = self._psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)


def largest(pid: int) -> Any:
    """Of a process and its children the one with the most memory: the service itself, where a keeper started it."""
    process = tool("psutil").Process(pid)
    return max((process, *process.children(recursive=True)), key=lambda member: member.memory_info().rss)


def metric(port: int, name: str) -> dict[str, float]:
    """The series of one metric on a service's `/metrics`: what stands between name and value -> value."""
    connection = HTTPConnection(up.LOCAL_HOST, port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    series = [line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(name)]
    return {key.removeprefix(name): float(value) for key, value in series}

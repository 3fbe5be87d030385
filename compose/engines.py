"""What runs containers here, for `make compose-test`: Docker with Compose, or Podman with podman-compose."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASE, REDIS, NGINX = "localhost/steno-test/python", "localhost/steno-test/redis", "localhost/steno-test/nginx"
#: Lower than what Podman asks for by itself, which a machine without all rights refuses.
_CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
#: What Podman needs here.
PODMAN_TOOLS = ("podman", "runc", "debootstrap")


class MissingTools(Exception):
    """Nothing here runs containers; the message says what is missing."""


@dataclass
class Engine:
    """Programs that run containers, and what differs between them."""

    program: str
    compose: tuple[str, ...]
    #: Variables of the stack: images other than the usual ones.
    images: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """The output of the engine's own command. Raises CalledProcessError, its output shown."""
        return self._run([self.program, *words], check, env)

    def composed(
        self, project: str, files: Sequence[Path], env_file: Path, *words: str, check: bool = True
    ) -> str:
        """The same of a command for a whole stack."""
        named = [word for file in files for word in ("-f", str(file))]
        where = ["--env-file", str(env_file), "-p", project, *named, "--profile", "cpu"]
        return self._run([*self.compose, *where, *words], check, None)

    def _run(self, command: Sequence[str], check: bool, env: Mapping[str, str] | None) -> str:
        ended = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.env, **(env or {})},
        )
        if check and ended.returncode:
            print(ended.stdout)
            raise subprocess.CalledProcessError(ended.returncode, command, ended.stdout)
        return ended.stdout

    def build(self, target: str, tag: str, args: Mapping[str, str]) -> None:
        """One image of our Dockerfile."""
        given = [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
        file = str(ROOT / "compose" / "Dockerfile")
        self.run(
            *self._build(), "-f", file, "--target", target, "-t", tag, *given, *self._mounts(), str(ROOT)
        )

    def health(self, container: str) -> bool:
        """Whether its health check passes now."""
        if self.program == "docker":
            status = self.run("inspect", "-f", "{{.State.Health.Status}}", container, check=False)
            return status.strip() == "healthy"
        # Podman leaves checks to timers of systemd, which may not be there; asked for, it makes one.
        words = [self.program, "healthcheck", "run", container]
        return (
            subprocess.run(words, check=False, capture_output=True, env=os.environ | self.env).returncode == 0
        )

    def _build(self) -> list[str]:
        return ["build", "-q", *([] if self.program == "docker" else ["--format", "docker"])]

    def _mounts(self) -> list[str]:
        """What pip may need of this machine while an image is built: folders of packages, certificates."""
        if self.program == "docker":
            return []
        folders = [*pip_folders(), *(Path(name) for name in ("/etc/ssl/certs",) if Path(name).is_dir())]
        return [word for folder in folders for word in ("-v", f"{folder}:{folder}:ro")]


def pip_folders() -> list[Path]:
    """The folders of packages that pip is set up with here."""
    told = subprocess.run(["pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    found = [line.split("=", 1)[1].strip("'\"") for line in told.splitlines() if "find-links=" in line]
    words = " ".join([*found, os.environ.get("PIP_FIND_LINKS", "")]).split()
    return sorted({Path(word) for word in words if word.startswith("/") and Path(word).is_dir()})


def find() -> Engine:
    """Docker if it answers, else Podman. Raises MissingTools."""
    if _answers("docker", "info") and _answers("docker", "compose", "version"):
        return Engine("docker", ("docker", "compose"))
    missing = [name for name in PODMAN_TOOLS if shutil.which(name, path=_path()) is None]
    compose = shutil.which("podman-compose", path=_path())
    if compose is None:
        missing.append("podman-compose (pipx install podman-compose)")
    if missing or compose is None or os.geteuid() != 0:
        why = f"missing: {', '.join(missing)}" if missing else "Podman is used as root only"
        raise MissingTools(f"Docker with Compose does not answer here, and for Podman {why}")
    settings = Path(tempfile.mkdtemp(prefix="steno-compose-")) / "containers.conf"
    settings.write_text(_CONTAINERS_CONF)
    env = {"CONTAINERS_CONF": str(settings), "PATH": _path()}
    return Engine("podman", (compose, "--in-pod", "false"), env=env)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def debian_images(engine: Engine) -> None:
    """A Python, a Redis and an nginx made of Debian's packages, once; the stacks and builds are told of them."""
    if BASE not in engine.run("images", "--format", "{{.Repository}}"):
        with tempfile.TemporaryDirectory(prefix="steno-base-") as folder:
            include = "--include=python3,python3-venv,ca-certificates"
            subprocess.run(
                ["debootstrap", "--variant=minbase", include, "bookworm", folder],
                check=True,
                stdout=subprocess.DEVNULL,
                env=os.environ | engine.env,
            )
            archive = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
            words = [engine.program, "import", "-q", "-", BASE]
            subprocess.run(
                words,
                check=True,
                stdin=archive.stdout,
                stdout=subprocess.DEVNULL,
                env=os.environ | engine.env,
            )
            archive.wait()
    file = str(ROOT / "compose" / "Dockerfile.debian")
    for target, tag in (("redis", REDIS), ("nginx", NGINX)):
        engine.run(
            "build",
            "-q",
            "--format",
            "docker",
            "-f",
            file,
            "--build-arg",
            f"BASE={BASE}",
            "--target",
            target,
            "-t",
            tag,
            str(ROOT),
        )
    engine.images = {"PYTHON_IMAGE": BASE, "REDIS_IMAGE": REDIS, "NGINX_IMAGE": NGINX}

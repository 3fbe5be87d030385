"""The stacks of `compose/`, run for real: built, started, spoken to, hurt, rolled, stopped.

    make compose-test                               both stacks, and both merged
    python -m compose.test merged --keep            one of universal, u3pro, merged; left running, to look at it
    python -m compose.test --gpu-image              the image for GPUs: built, and looked into, which needs no GPU

With Docker, images are pulled and built. Without it, with Podman as root (`podman`, `runc`, `netavark`, `aardvark-dns`,
`debootstrap`, `podman-compose`), all are built from Debian's packages, since often no image registry can be reached.
Where neither is there, what is missing is said and the exit code is 0: such a machine cannot tell.

Weights are those of this machine's cache, mounted (`steno models fetch` has to have been run).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from cli.up import free_port
from compose.engines import Engine, MissingTools, debian_images, find, pip_folders
from tests.conversation import Conversation, is_turn
from tests.speech import FOX, LIGHT, assert_heard, clip_pcm, silence
from workers.wheels import cache_dir

COMPOSE = Path(__file__).parent
UNIVERSAL, PRO = COMPOSE / "docker-compose.yml", COMPOSE / "docker-compose.u3pro.yml"
#: Stack -> its files, and the models that it serves.
STACKS = {
    "universal": ([UNIVERSAL], ["universal-streaming-english", "universal-streaming-multilingual"]),
    "u3pro": ([PRO], ["universal-3-6-pro"]),
    "merged": (
        [UNIVERSAL, PRO],
        ["universal-streaming-english", "universal-streaming-multilingual", "universal-3-6-pro"],
    ),
}
IMAGES = {
    "STREAMING_API_IMAGE": ("ingress", "localhost/steno-test/ingress"),
    "LICENSE_AND_USAGE_PROXY_IMAGE": ("service", "localhost/steno-test/service"),
    "STREAMING_ASR_ENGLISH_IMAGE": ("worker-cpu", "localhost/steno-test/worker"),
}
GPU_IMAGE = "localhost/steno-test/worker-gpu"
PATIENCE_S = 180.0


def wait(what: str, condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s:g} s in vain: {what}")
        time.sleep(0.5)


class Site:
    """One stack, running. A context manager."""

    def __init__(self, engine: Engine, name: str, folder: Path, keep: bool) -> None:
        self.engine, self.name, self.keep = engine, name, keep
        self.files, self.models = STACKS[name]
        self.project = f"stenotest{name}"
        self.ports = {each: free_port() for each in ("STREAMING_PORT", "LB_PORT", "LICENSING_PORT")}
        self.env_file = folder / f"{name}.env"
        images = {variable: tag for variable, (_, tag) in IMAGES.items()}
        worker = images["STREAMING_ASR_ENGLISH_IMAGE"]
        variables = {
            **images,
            **engine.images,
            "STREAMING_ASR_MULTILANG_IMAGE": worker,
            "STREAMING_ASR_U3PRO_IMAGE": worker,
            "COMPOSE_PROFILES": "cpu",
            "LICENSE_FILE": str(folder / "license.jwt"),
            "LICENSE_KEYS_FILE": str(folder / "steno-keys.json"),
            "MODELS_FOLDER": str(cache_dir()),
            "STENO_CACHE": "/mounted",
            "TOKEN_SECRET": "for-this-test-only-and-for-nothing-else",
            "DEFAULT_SPEECH_MODEL": self.models[0],
            "WORKER_REPLICAS": "2",
            "WORKER_CPUS": "2",
            "WORKER_THREADS": "1",
            **redis_with_users(folder),
            **{each: str(port) for each, port in self.ports.items()},
        }
        self.env_file.write_text("".join(f"{each}={value}\n" for each, value in variables.items()))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.ports['STREAMING_PORT']}"

    def __enter__(self) -> Self:
        self.compose("down", "-v", check=False)  # of a run that was cut off
        self.compose("up", "-d", "--no-build")
        return self

    def __exit__(self, *failed: object) -> None:
        if failed[0]:
            for container in self.containers():
                print(f"---- {container}\n{self.engine.run('logs', '--tail', '15', container, check=False)}")
        if self.keep:
            print(f"left running: {self.url}, project {self.project}, {self.env_file}")
        else:
            self.compose("down", "-v", check=False)

    def compose(self, *words: str, check: bool = True) -> str:
        return self.engine.composed(self.project, self.files, self.env_file, *words, check=check)

    def containers(self, service: str = "") -> list[str]:
        """Names of those that run, of one service or all."""
        names = self.engine.run("ps", "--format", "{{.Names}}").split()
        wanted = f"{self.project}_{service}", f"{self.project}-{service}"
        found = sorted(name for name in names if name.startswith(wanted))
        return [name for name in found if not service or name[len(wanted[0]) + 1 :].isdecimal()]

    def get(self, port: str, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except OSError as error:
            return getattr(error, "code", 0), str(error)

    def used(self, worker: str) -> int:
        """Sessions that this worker holds."""
        code = "import urllib.request as u;print(u.urlopen('http://127.0.0.1:50051/metrics').read().decode())"
        lines = self.engine.run("exec", worker, "python3", "-c", code, check=False).splitlines()
        return sum(int(float(line.split()[1])) for line in lines if line.startswith("steno_slots_used{"))

    # -------------------------------------------------------------------------------------------------- what is tested

    def ready(self) -> None:
        """Every container's own health check passes, and the load balancer has found both ingress nodes."""
        names = self.containers()
        services = ["redis", "licensing", "usage", "streaming-asr-lb", "streaming-api"]
        wait("all services run", lambda: all(self.containers(each) for each in services))
        assert len(self.containers("streaming-api")) == 2, names
        for name in names:
            wait(f"{name} healthy", partial(self.engine.health, name))
        wait("served", lambda: self.get("STREAMING_PORT", "/v3/ws/health")[0] == 200)
        self.two_nodes()

    def status(self) -> None:
        assert self.get("LB_PORT", "/nginx_health") == (200, "OK\n")
        code, text = self.get("LICENSING_PORT", "/v1/status")
        page = json.loads(text)
        assert (code, page["state"]) == (200, "Connected"), page
        assert self.get("LICENSING_PORT", "/health")[0] == 200

    def hardened(self) -> None:
        """Nobody is root, nothing can be written but /tmp, and workers reach nothing outside."""
        for name in self.containers("streaming-api") + self.containers(f"streaming-asr-{self._pool()}"):
            told = self.engine.run(
                "exec", name, "sh", "-c", "id -u; touch /x 2>&1; touch /tmp/x && echo written"
            )
            assert "10001" in told.split(), told
            assert "Read-only" in told, told
            assert "written" in told, told
            reach = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
            assert "Error" in self.engine.run("exec", name, "python3", "-c", reach, check=False), name

    def speech(self) -> None:
        for model in self.models:
            with Conversation(self.url, speech_model=model, format_turns="true") as conversation:
                conversation.say(clip_pcm(FOX))
                assert_heard(FOX, conversation.end().transcript, 0.35)

    def worker_killed(self) -> None:
        """The one that holds the session dies; the other goes on with it, and the dead one comes back."""
        pool = self._pool()
        workers = self.containers(f"streaming-asr-{pool}")
        assert len(workers) == 2, workers
        half = len(clip_pcm(LIGHT)) // 4 * 2
        with Conversation(self.url, speech_model=self.models[0]) as conversation:
            conversation.say(clip_pcm(LIGHT)[:half])
            conversation.hear_until(is_turn)
            holder = next(worker for worker in workers if self.used(worker))
            os.kill(int(self.engine.run("inspect", "-f", "{{.State.Pid}}", holder)), signal.SIGKILL)
            conversation.say(clip_pcm(LIGHT)[half:])
            conversation.order("Terminate")
            conversation.hear_rest()  # what was shown of the open turn may be told anew
            assert conversation.close == (1000, "Session Ended"), conversation.close
            assert_heard(LIGHT, conversation.transcript, 0.35)
        wait(f"{holder} healthy again", lambda: self.engine.health(holder))

    def rolled(self) -> None:
        """One ingress after the other is stopped and started anew, while sessions begin and end: none is refused."""
        over, refused = threading.Event(), []

        def keep_talking() -> None:
            while not over.is_set():
                try:
                    with Conversation(self.url, speech_model=self.models[0]) as conversation:
                        conversation.say(silence(0.5))
                        conversation.end()
                except Exception as error:  # noqa: BLE001 whatever it was, the session was not had
                    refused.append(repr(error))

        talkers = [threading.Thread(target=keep_talking, daemon=True) for _ in range(2)]
        for talker in talkers:
            talker.start()
        for name in self.containers("streaming-api"):
            self.engine.run("stop", name)
            self.engine.run("start", name)
            wait(f"{name} healthy", partial(self.engine.health, name))
            self.two_nodes()
        over.set()
        for talker in talkers:
            talker.join()
        assert not refused, f"{len(refused)} refused, such as {refused[:3]}"

    def two_nodes(self) -> None:
        """Until the load balancer knows both ingress nodes by the addresses that they have now, and no process of it is
        left that knew others: who came to one of those may still be trying an address that is gone.
        """
        balancer = self.containers("streaming-asr-lb")[0]

        def known() -> bool:
            told = self.engine.run("exec", balancer, "getent", "ahostsv4", "streaming-api", check=False)
            now = {line.split()[0] for line in told.splitlines() if line}
            group = self.engine.run("exec", balancer, "cat", "/tmp/upstreams.conf").split("upstream english")[
                0
            ]
            leaving = ["sh", "-c", "grep -ls '[s]hutting down' /proc/[0-9]*/cmdline || true"]
            old = self.engine.run("exec", balancer, *leaving, check=False).strip()
            return not old and len(now) == 2 and set(re.findall(r"server ([\d.]+):", group)) == now

        wait("two nodes", known)

    def _pool(self) -> str:
        return "u3pro" if self.name == "u3pro" else "english"


def redis_with_users(folder: Path) -> dict[str, str]:
    """A folder for Redis in which each service has a user of its own, as the guide has it; variables that say so."""
    example = COMPOSE / "redis" / "users.acl.example"
    if not example.exists():
        return {}
    made = folder / "redis"
    made.mkdir(exist_ok=True)
    config = (COMPOSE / "redis" / "redis.conf").read_text()
    (made / "redis.conf").write_text(config.replace("# aclfile ", "aclfile "))
    # Redis takes no comments in such a file.
    users = [line for line in example.read_text().splitlines() if line.startswith("user ")]
    (made / "users.acl").write_text("\n".join([*users, ""]).replace("CHANGE-", "of-this-test-"))
    return {"REDIS_FOLDER": str(made)} | {
        f"{user.upper()}_REDIS_URL": f"redis://{user}:of-this-test-{user}-PASSWORD@redis:6379/0"
        for user in ("ingress", "worker", "licensing", "usage")
    }


def build(engine: Engine, target: str, tag: str) -> None:
    """One image."""
    links = pip_folders() if engine.program == "podman" else []
    options = os.environ.get("PIP_ARGS") or " ".join(f"--find-links {each}" for each in links)
    args = {"PIP_ARGS": options, **{k: v for k, v in engine.images.items() if k == "PYTHON_IMAGE"}}
    started_s = time.monotonic()
    engine.build(target, tag, args)
    size = int(engine.run("inspect", "-f", "{{.Size}}", tag)) / 1e6
    print(f"built {target}: {size:.0f} MB, {time.monotonic() - started_s:.0f} s", flush=True)


def gpu_image(engine: Engine) -> None:
    """The image for GPUs: its torch is one for CUDA, and what a worker needs can be imported in it."""
    build(engine, "worker-gpu", GPU_IMAGE)
    asked = "import torch, workers.entry; print(torch.version.cuda, torch.backends.cudnn.version())"
    said = engine.run("run", "--rm", "--entrypoint", "python3", GPU_IMAGE, "-c", asked)
    cuda, cudnn = said.splitlines()[-1].split()  # after what the engine itself may have to say
    if not cuda[0].isdigit() or not cudnn.isdigit():
        raise AssertionError(f"torch in {GPU_IMAGE} is not for GPUs: CUDA {cuda}, cuDNN {cudnn}")
    print(f"worker-gpu: CUDA {cuda}, cuDNN {cudnn}", flush=True)


def prepare(engine: Engine, folder: Path) -> None:
    """Images, and a licence of this test."""
    for target, tag in IMAGES.values():
        build(engine, target, tag)
    steno = [sys.executable, "-m", "cli.main", "license"]
    subprocess.run(
        [*steno, "keygen"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(COMPOSE.parent)},
    )
    issued = subprocess.run(
        [*steno, "issue", "--customer", "compose-test"],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(COMPOSE.parent)},
    )
    (folder / "license.jwt").write_bytes(issued.stdout)
    for name in ("license.jwt", "steno-keys.json"):
        (folder / name).chmod(0o644)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the stacks of compose/ for real, and test them.")
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=f"{', '.join(STACKS)}; all unless named")
    parser.add_argument("--keep", action="store_true", help="leave the last one running")
    parser.add_argument(
        "--gpu-image",
        action="store_true",
        help="only build the image for GPUs: some gigabytes, no GPU needed",
    )
    asked = parser.parse_args()
    if unknown := set(asked.stacks) - set(STACKS):
        parser.error(f"no such stack: {', '.join(sorted(unknown))}; there are: {', '.join(STACKS)}")
    try:
        engine = find()
    except MissingTools as missing:
        print(f"SKIPPED: the Compose stacks were not run. {missing}.")
        return 0
    print(f"with {engine.program}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="steno-compose-"))
    folder.chmod(0o755)
    if engine.program == "podman":
        debian_images(engine)
    if asked.gpu_image:
        gpu_image(engine)
        return 0
    prepare(engine, folder)
    for name in asked.stacks or STACKS:
        with Site(engine, name, folder, asked.keep) as site:
            for step in (
                site.ready,
                site.status,
                site.hardened,
                site.speech,
                site.worker_killed,
                site.rolled,
            ):
                started_s = time.monotonic()
                step()
                print(f"{name}: {step.__name__}  {time.monotonic() - started_s:.0f} s", flush=True)
    print("the Compose stacks ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The load balancer: a real nginx under its `run.sh`, in front of real ingress nodes with a worker that is scripted.

`nginx/` is taken as it is but for ports and folders, which tests choose.
"""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed

from cli import bench_scripted
from cli.child import Child
from tests.conversation import Conversation, is_final, is_turn
from tests.speech import silence
from tests.tools import tool
from wire.keys import Keys

NGINX = Path(__file__).parents[2] / "compose" / "nginx"
READY_S = 60.0
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def config(folder: Path, client_port: int, other_port: int) -> Path:
    """A copy of `nginx/` with these ports, whose every path lies in `folder`."""
    shutil.copytree(NGINX, folder / "nginx")
    for file in (folder / "nginx").rglob("*.conf*"):
        text = file.read_text().replace("/tmp/", f"{folder}/").replace("/etc/nginx", f"{folder}/nginx")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{client_port};")
        text = text.replace("listen 8081;", f"listen 127.0.0.1:{other_port};")
        file.write_text(text.replace("worker_processes auto;", "worker_processes 1;"))
    return folder / "nginx"


class Edge:
    """nginx before ingress nodes; `node` names one, `at` tells how many sessions a node has."""

    def __init__(
        self, folder: Path, redis_url: str, keys: Keys, free_port: Callable[[], int], wait: Any
    ) -> None:
        self.folder, self.wait = folder, wait
        self.port, self.other_port = free_port(), free_port()
        self._redis_url, self._keys, self._free_port = redis_url, keys, free_port
        self.children: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        self.probes: dict[str, int] = {}
        self.config = config(folder, self.port, self.other_port)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def name(self, node: str) -> str:
        """Where this node will listen: HOST:PORT."""
        return f"127.0.0.1:{self.ports.setdefault(node, self._free_port())}"

    def start_node(self, node: str) -> None:
        self.probes[node] = self._free_port()
        env = {
            "REDIS_URL": self._redis_url,
            "NAMESPACE": self._keys.namespace,
            "HOST": "127.0.0.1",
            "PORT": str(self.ports[node]),
            "PROBE_PORT": str(self.probes[node]),
            "LICENSE_REQUIRED": "false",
            "LOGGING_LEVEL": "WARNING",
        }
        self.children[node] = Child(node, [sys.executable, "-m", "cli.main", "ingress", "--with-parent"], env)

    def start(self, upstreams: str, *later: str, **more: str) -> None:
        """nginx, with `more` variables, and all nodes that were named, but for those that are started `later`."""
        for node in self.ports.keys() - set(later):
            self.start_node(node)
        for node in self.children:
            self.wait(lambda node=node: self.status(self.ports[node], "/v3/ws/health") == 200, READY_S)
        env = {
            "UPSTREAMS": upstreams,
            "EVERY_S": "0.2",
            "FOLDER": str(self.config),
            "STATE": str(self.folder),
            "PATH": PATH,
            **more,
        }
        command = [sys.executable, "-m", "cli.child", "sh", str(self.config / "run.sh")]
        self.children["nginx"] = Child("nginx", command, env, log=self.folder / "nginx.log")
        self.wait(lambda: self.status(self.port, "/nginx_health") == 200, READY_S)

    def status(self, port: int, path: str) -> int:
        """The status of GET; 0 where nobody answers."""
        return self.get(port, path)[0]

    def get(self, port: int, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def at(self, node: str) -> int:
        """Sessions open on this node."""
        lines = self.get(self.probes[node], "/metrics")[1].decode().splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("steno_sessions_open "))

    def settled(self, where: dict[str, int]) -> None:
        """Wait until the nodes have so many sessions."""
        self.wait(lambda: {node: self.at(node) for node in where} == where)

    def upstreams(self, group: str) -> set[str]:
        """The nodes that nginx was last told for a group."""
        block = (self.folder / "upstreams.conf").read_text().split(f"upstream {group} {{")[1].split("}")[0]
        return {line.split()[1] for line in block.splitlines() if "server" in line}

    def log(self) -> str:
        return (self.folder / "nginx.log").read_text()

    def took(self, path: str) -> list[str]:
        """GROUP HOST:PORT of each request for this path that has come to an end."""
        found = re.findall(rf'"GET {path}" \d+ (\w+ [^ ]+) ', self.log())
        return [str(each) for each in found]

    def stop(self) -> None:
        for child in self.children.values():
            child.kill()


@pytest.fixture
def edge(tmp_path, redis_url, keys, free_port, wait_until_sync) -> Iterator[Edge]:
    tool("nginx")
    tool("curl")
    made = Edge(tmp_path, redis_url, keys, free_port, wait_until_sync)
    with bench_scripted.running(redis_url, keys.namespace):
        yield made
        made.stop()


def talk(edge: Edge) -> Conversation:
    """A session that has begun and has heard something of its first turn."""
    conversation = Conversation(edge.url)
    conversation.say(silence(0.6))
    conversation.hear_until(is_turn)
    return conversation


def end(session: Conversation) -> None:
    """To its Termination, with its one final turn."""
    session.order("Terminate")
    session.hear_rest()
    assert session.close == (1000, "Session Ended"), session.messages[-1:]
    assert len([message for message in session.messages if is_final(message)]) == 1


# ---------------------------------------------------------------------------------------------------------------------


def test_the_configuration_is_legal(tmp_path, free_port):
    """With every example switched on."""
    nginx, folder = tool("nginx"), config(tmp_path, free_port(), free_port())
    groups = "default", "english", "multilang", "u3pro"
    (tmp_path / "upstreams.conf").write_text(
        "".join(f"upstream {group} {{ server 127.0.0.1:9; }}\n" for group in groups)
    )
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    for example in (folder / "conf.d").glob("*.example"):
        example.rename(example.with_suffix(""))
    tls = folder / "conf.d" / "tls.conf"
    tls.write_text(tls.read_text().replace("/etc/tls", str(tmp_path)))
    found = subprocess.run(
        [nginx, "-t", "-e", "/dev/stderr", "-c", str(folder / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    complaints = [line for line in found.stderr.splitlines() if "emerg" in line or "warn" in line]
    assert complaints == []


def test_sessions_go_to_whoever_has_fewest_and_health_is_answered(edge):
    edge.start(f"default={edge.name('first')} default={edge.name('second')}")
    assert edge.get(edge.other_port, "/nginx_health") == (200, b"OK\n")
    assert edge.status(edge.other_port, "/v3/ws/health") == 200
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(talk(edge))
        edge.settled({"first": 2, "second": 2})


#: Header, query -> group, and whose node has it where english and the rest have one each, and u3pro's is away.
ROUTES = [
    ({"X-Model-Version": "en-default"}, {}, "english", "english"),
    ({"X-Model-Version": "unheard-of"}, {}, "default", "rest"),
    ({}, {}, "default", "rest"),
    ({}, {"speech_model": "universal-streaming-english"}, "english", "english"),
    ({"X-Model-Version": "en-default"}, {"speech_model": "universal-3-5-pro"}, "english", "english"),
    ({"X-Model-Version": "ml-default"}, {}, "multilang", "rest"),
    ({"X-Model-Version": "universal-3-6-pro"}, {}, "u3pro", "rest"),
]


def test_sessions_go_to_their_model_s_group(edge):
    edge.start(f"default={edge.name('rest')} english={edge.name('english')} u3pro=no-such-host.invalid:8080")
    for number, (headers, query, group, node) in enumerate(ROUTES):
        authorized = {"Authorization": "any", **headers}
        Conversation(edge.url, headers=authorized, **query).socket.close()
        edge.wait(lambda number=number: len(edge.took("/v3/ws")) > number)
        assert edge.took("/v3/ws")[-1] == f"{group} {edge.name(node)}", (headers, query)


def test_a_killed_node_takes_only_its_own_sessions_along(edge):
    edge.start(f"default={edge.name('first')} default={edge.name('second')}")
    with talk(edge) as one, talk(edge) as other:
        edge.settled({"first": 1, "second": 1})
        edge.children["first"].kill()
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(talk(edge)) for _ in range(3)]  # at once, and told of nothing
            edge.wait(lambda: edge.upstreams("default") == {edge.name("second")})
            sessions += [stack.enter_context(talk(edge))]
            edge.settled({"second": 5})
            survivors = [each for each in (one, other) if alive(each)]
            assert len(survivors) == 1
            for session in (*sessions, *survivors):
                end(session)
    assert "no live upstreams" not in edge.log()


def alive(conversation: Conversation) -> bool:
    try:
        conversation.say(silence(0.6))
        conversation.hear()
    except ConnectionClosed:
        return False
    return conversation.close is None


def test_reloads_under_load_drop_no_session(edge):
    """A node is added, then nginx is reloaded by hand; sessions that run talk on all the while, new ones come."""
    places = {node: edge.name(node) for node in ("first", "second", "third")}
    edge.start(" ".join(f"default={place}" for place in places.values()), "third")
    assert edge.upstreams("default") == {places["first"], places["second"]}
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(talk(edge)) for _ in range(6)]
        edge.start_node("third")
        while edge.upstreams("default") != set(places.values()):
            speak(sessions)
        sessions += [stack.enter_context(talk(edge)) for _ in range(6)]
        edge.wait(lambda: edge.at("third") > 0)
        for session in sessions:
            session.say(silence(0.6))
            end(session)


def test_a_node_that_drains_refuses_nobody(edge):
    """Sessions are begun all the while: before nginx has heard of it, the node itself sends them on."""
    edge.start(f"default={edge.name('first')} default={edge.name('second')}", EVERY_S="3600")
    with talk(edge) as one, talk(edge) as other:
        edge.settled({"first": 1, "second": 1})
        edge.children["first"].terminate()
        edge.wait(lambda: edge.status(edge.ports["first"], "/v3/ws/health") == 503)
        assert edge.upstreams("default") == {edge.name("first"), edge.name("second")}
        for _ in range(4):
            with talk(edge) as more:
                end(more)
        for session in (one, other):
            session.say(silence(0.6))
            end(session)
    edge.children["first"].wait(READY_S)


def test_when_all_nodes_drain_the_client_is_told_as_it_understands(edge):
    edge.start(f"default={edge.name('first')} default={edge.name('second')}", EVERY_S="3600")
    with talk(edge) as one, talk(edge) as other:
        for node in ("first", "second"):
            edge.children[node].terminate()
            edge.wait(lambda node=node: edge.status(edge.ports[node], "/v3/ws/health") == 503)
        for _ in range(2):
            with Conversation(edge.url) as refused:
                refused.hear_rest()
                assert refused.messages[0]["type"] == "Error"
                assert refused.close == (refused.messages[0]["error_code"], "See Error message for details")
        for session in (one, other):
            end(session)


def speak(sessions: list[Conversation]) -> None:
    for session in sessions:
        session.say(silence(0.5))
        session.hear_until(is_turn)


def test_without_a_node_the_client_is_refused_and_health_is_well(edge):
    edge.start("default=127.0.0.1:9 u3pro=no-such-host.invalid:8080")
    assert edge.status(edge.port, "/v3/ws/health") == 502
    assert edge.status(edge.port, "/nginx_health") == 200


@pytest.mark.parametrize(
    "upstreams", ["englsh=streaming-api:8080", "streaming-api:8080", "default=streaming-api"]
)
def test_a_list_with_a_mistake_in_it_is_refused_in_a_line(upstreams):
    ended = subprocess.run(
        ["sh", NGINX / "run.sh"],
        env={"UPSTREAMS": upstreams, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert upstreams in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_stop_lets_sessions_end(edge):
    edge.start(f"default={edge.name('only')}")
    with talk(edge) as session:
        edge.children["nginx"].terminate()
        edge.wait(lambda: edge.status(edge.port, "/nginx_health") == 0)  # takes nobody new
        session.say(silence(0.6))
        end(session)
    assert edge.children["nginx"].wait(READY_S)

"""Each service may do what it does, and none may do another's (`tests/system/test_chaos.py` runs a stack under it)."""

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import redis

from cli import redis_fleet
from cli.child import free_ports
from cli.redis_fleet import Server
from wire.acl import COMMANDS, patterns, render
from wire.keys import Keys

EXAMPLE = Path(__file__).parents[2] / "compose/redis/users.acl.example"
KEYS = Keys("steno")
PASSWORDS = {service: f"secret-of-{service}" for service in COMMANDS}


def test_the_example_is_what_is_needed():
    wanted = render({service: f"CHANGE-{service}-PASSWORD" for service in COMMANDS}, KEYS)
    shown = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    assert shown == wanted.splitlines(), f"{EXAMPLE} should hold, after its comments:\n{wanted}"


def test_every_key_is_somebodys():
    built = [
        *(build("x") for build in of_one_name()),
        KEYS.license_status(),
        KEYS.license_trust(),
        KEYS.usage(),
        KEYS.usage_open(),
        KEYS.recordings(),
    ]
    built += [KEYS.ticks("licensing"), KEYS.ticks("usage-host-1")]
    wanted = [pattern for service in COMMANDS for pattern in patterns(service, KEYS)]
    for key in built:
        assert any(fnmatchcase(key.decode(), re.sub(r"\[", "[[]", pattern)) for pattern in wanted), key


def of_one_name() -> list[Callable[[str], bytes]]:
    """The methods of `Keys` that build a key of one name."""
    others = {
        "worker_present",
        "ingress_present",
        "ticks",
        "everything",
        "license_status",
        "license_trust",
        "usage",
        "usage_open",
        "recordings",
    }
    return [
        getattr(KEYS, name)
        for name in vars(Keys)
        if not name.startswith("_") and name not in {*others, "namespace"}
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("acl")
    (folder / "users.acl").write_text(
        render(PASSWORDS, KEYS).replace("user default off", "user default on nopass ~* &* +@all")
    )
    found = Server(free_ports(1)[0], folder, "--aclfile", str(folder / "users.acl"))
    with redis_fleet.running(found):
        yield found


@pytest.mark.parametrize(
    "service,command",
    [
        ("ingress", ("GET", KEYS.license_trust())),
        ("ingress", ("HGETALL", KEYS.usage_open())),
        ("ingress", ("SET", KEYS.license_status(), "forged")),
        ("ingress", ("XREADGROUP", "GROUP", "usage", "me", "STREAMS", KEYS.usage(), ">")),
        ("worker", ("GET", KEYS.license_status())),
        ("worker", ("SET", KEYS.license_status(), "forged")),
        ("worker", ("XADD", KEYS.usage(), "*", "e", "forged")),
        ("worker", ("ZADD", KEYS.places("license"), "1", "s")),
        ("usage", ("XADD", KEYS.audio("s"), "*", "e", "x")),
        ("usage", ("GET", KEYS.license_trust())),
        ("licensing", ("XLEN", KEYS.usage())),
        ("console", ("DEL", KEYS.recordings())),
        ("console", ("GET", KEYS.license_trust())),
        ("licensing", ("GET", KEYS.state("s"))),
        *(
            (service, words)
            for service in COMMANDS
            for words in [("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")]
        ),
    ],
)
def test_nobody_may_do_anothers_work(server: Server, service: str, command: tuple[Any, ...]):
    with (
        server.client(username=service, password=PASSWORDS[service]) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command)


@pytest.mark.parametrize(
    "service,channel,may",
    [
        ("ingress", KEYS.ingress_present("n"), True),
        ("worker", KEYS.worker_present("english", "w"), True),
        ("worker", KEYS.ingress_present("n"), False),
        ("usage", KEYS.ingress_present("n"), False),
    ],
)
def test_everybody_listens_where_they_are_seen_only(
    server: Server, service: str, channel: bytes, may: bool
) -> None:
    with server.client(username=service, password=PASSWORDS[service]) as client, client.pubsub() as listener:
        listener.subscribe(channel)
        if may:
            assert listener.get_message(timeout=5)["type"] == "subscribe"
        else:
            with pytest.raises(redis.exceptions.NoPermissionError):
                listener.get_message(timeout=5)


@pytest.mark.parametrize(
    "service,command",
    [
        ("ingress", ("GET", KEYS.license_status())),
        ("worker", ("HGETALL", KEYS.workers("english"))),
        ("usage", ("HVALS", KEYS.usage_open())),
        ("licensing", ("GET", KEYS.license_trust())),
        ("worker", ("PUBSUB", "NUMSUB", KEYS.ingress_present("n"))),
    ],
)
def test_everybody_may_do_their_own(server: Server, service: str, command: tuple[Any, ...]):
    with server.client(username=service, password=PASSWORDS[service]) as client:
        client.execute_command(*command)
    with (
        server.client(username=service, password="guessed") as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()

"""Processes of licensing and usage, of both sides, and their Redis; and what else a test needs."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from cli.child import Child
from licensing.issuer import Issuer, write_key
from licensing.minting import SigningKey, Terms
from tests.foreign import steno
from usage.tracker import Tracker
from wire.entries import UsageRecord, pack_usage
from wire.keys import Keys

ROOT = Path(__file__).parents[1]
KEY = SigningKey.generate()
API_KEY = "a-customer-s-key"
#: Starting a process on a machine that is busy with others.
READY_S = 40.0


class Desk:
    """Processes of licensing and usage, of both sides, and their Redis. Everything is ended with the test."""

    def __init__(
        self, folder: Path, redis_url: str, keys: Keys, free_port: Callable[[], int], wait_until: Any
    ) -> None:
        self.folder, self.keys = folder, keys
        self.redis: Any = redis.Redis.from_url(redis_url)
        self.children: dict[str, Child] = {}
        self.probes: dict[str, int] = {}
        #: By how many seconds the clocks of some machines are ahead; and whose release is a later one.
        self.skews_s: dict[str, float] = {}
        self.later: set[str] = set()
        self.free_port = free_port
        self._wait_until = wait_until
        self.issuer = Issuer(folder / "issuer.sqlite3", KEY)
        self.tracker = Tracker(folder / "tracker.sqlite3", [API_KEY])
        write_key(KEY, folder / "steno-private.pem", folder / "steno-keys.json")
        self.env = {
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "NAMESPACE": keys.namespace,
            "LICENSE_FILE_PATH": str(folder / "license.jwt"),
            "LICENSE_KEYS_PATH": str(folder / "steno-keys.json"),
            "ISSUER_BOOK": str(folder / "issuer.sqlite3"),
            "ISSUER_KEY_PATH": str(folder / "steno-private.pem"),
            "TRACKER_BOOK": str(folder / "tracker.sqlite3"),
            "TRACKER_API_KEYS": API_KEY,
            "USAGE_TRACKING_API_KEY": API_KEY,
            "FLUSH_S": "0",
            "CHECKIN_TIMEOUT_S": "1",
            "REPORT_TIMEOUT_S": "1",
            "USE_STRUCTURED_LOGGING": "true",
        }

    def license(self, terms: Terms) -> str:
        """Mint a licence and put it in its place; its id."""
        entry = self.issuer.mint(terms)
        (self.folder / "license.jwt").write_text(entry.token)
        return entry.id

    def start(self, name: str, *words: str, ready: bool = True, **env: str) -> Child:
        """`steno ...` as a process called `name`; waits until its probe, or its port, answers."""
        if name in self.children:
            self.children[name].kill()  # the one that was killed before is buried
        port = self.probes[name] = self.free_port()
        command = [*steno(self.skews_s.get(name, 0.0), name in self.later), *words, "--with-parent"]
        variables = {**self.env, "PROBE_PORT": str(port), **env}
        child = self.children[name] = Child(name, command, variables, self.folder / f"{name}.log")
        if ready:
            self._wait_until(lambda: answers(port) or child.exit_code is not None, within_s=READY_S)
            assert child.exit_code is None, child.tail()
        return child

    def vendor(self, name: str, port: int) -> Child:
        """The reference issuer or tracker on a port of its own."""
        child = self.start(name, name, ready=False, **{f"{name.upper()}_PORT": str(port)})
        self._wait_until(lambda: answers(port) or child.exit_code is not None, within_s=READY_S)
        assert child.exit_code is None, child.tail()
        return child

    def state(self, name: str = "licensing") -> str:
        """What `/v1/status` of a licensing process says."""
        return str(page(self.probes[name], "/v1/status").get("state", ""))

    def wait_for(self, state: str, name: str = "licensing") -> None:
        self._wait_until(lambda: self.state(name) == state, within_s=READY_S)

    def uses(self, *records: UsageRecord) -> None:
        """Write laps as an ingress does."""
        for record in records:
            self.redis.xadd(self.keys.usage(), {"e": pack_usage(record)})
        self.redis.expire(self.keys.usage(), 600)

    def waiting(self) -> int:
        return int(self.redis.xlen(self.keys.usage()))

    def counted(self) -> int:
        return sum(total.audio_ms for total in self.tracker.totals())

    def logged(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def answers(port: int) -> bool:
    return bool(page(port, "/health").get("status") == "ready")


def page(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return found

"""Webhooks: delivered once to a receiver that behaves; one that does not harms nobody and is not followed anywhere."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import pytest
import trustme

from ingress.webhook import Bounds, Webhook, Webhooks
from wire import metrics

FAST = Bounds(attempts=3, backoff_s=0.002, attempt_timeout_s=5.0)
TURNS = ['{"turn_order": 0, "transcript": "Hello."}', '{"turn_order": 1, "transcript": "Grüß Gott."}']


@dataclass
class Receiver:
    """A real HTTP server that answers each request by the next of `behaviours`, the last one again and again.

    A behaviour is a status, or "hang", "drop", "garbage", "huge head", "huge body", "interim", "endless interim".
    """

    behaviours: list[int | str]
    port: int = 0
    requests: list[h11.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    #: Set it to end all "hang".
    release: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set while nobody is connected.
    quiet: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.at_once += 1
        self.quiet.clear()
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            self.at_once -= 1
            if not self.at_once:
                self.quiet.set()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, body = h11.Connection(h11.SERVER), b""
        while (event := connection.next_event()) is not None:
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                self.requests.append(event)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        self.bodies.append(body)
        await self._behave(self.behaviours[min(len(self.bodies), len(self.behaviours)) - 1], writer)

    async def _behave(self, behaviour: int | str, writer: asyncio.StreamWriter) -> None:
        if isinstance(behaviour, int):
            writer.write(
                b"HTTP/1.1 %d \r\nLocation: http://127.0.0.1:%d/elsewhere\r\nContent-Length: 2\r\n\r\nok"
                % (behaviour, self.port)
            )
        elif behaviour == "hang":
            await self.release.wait()
        elif behaviour == "garbage":
            writer.write(b"220 smtp.example ESMTP\r\n")
        elif behaviour == "huge head":
            for _ in range(1_000):
                writer.write(b"HTTP/1.1 200 OK\r\n" if not _ else b"X-Pad: " + b"x" * 1_000 + b"\r\n")
                await writer.drain()
        elif behaviour == "huge body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
        elif behaviour == "interim":
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
        elif behaviour == "endless interim":
            while True:
                writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 1_000)
                await writer.drain()
        await writer.drain()

    def headers(self, index: int = -1) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.requests[index].headers}


@asynccontextmanager
async def receiving(*behaviours: int | str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(behaviours))
    receiver.quiet.set()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.close()
        await receiver.quiet.wait()


@asynccontextmanager
async def running(webhooks: Webhooks) -> AsyncIterator[Webhooks]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(webhooks.run())
        try:
            yield webhooks
        finally:
            task.cancel()


def hook(port: int, session: str = "s1", *, path: str = "/hook?key=secret-query", **fields: str) -> Webhook:
    host, scheme = fields.get("host", "127.0.0.1"), fields.get("scheme", "http")
    return Webhook(f"{scheme}://{host}:{port}{path}", "X-Auth", "secret-value", session, TURNS)


def count(outcome: str) -> float:
    return metrics.REGISTRY.get_sample_value("steno_webhooks_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def outcomes():
    """Call it for the outcomes since the test began."""
    names = ("delivered", "refused", "failed", "dropped")
    before = {name: count(name) for name in names}
    return lambda: {name: count(name) - before[name] for name in names if count(name) != before[name]}


async def delivered_to(receiver: Receiver, webhooks: Webhooks, webhook: Webhook) -> None:
    async with running(webhooks):
        webhooks.post(webhook)
        await webhooks.drain(30)
        assert webhooks.pending == 0


# ---------------------------------------------------------------------------------------------------------------------
# delivered


def test_what_was_heard_arrives_once_with_the_header_of_the_client(run, outcomes):
    async def scenario():
        async with receiving(200) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver

    receiver = run(scenario())
    [request], [body] = receiver.requests, receiver.bodies
    assert (request.method, request.target) == (b"POST", b"/hook?key=secret-query")
    assert json.loads(body) == {"session_id": "s1", "messages": [json.loads(turn) for turn in TURNS]}
    headers = receiver.headers()
    assert headers["x-auth"] == "secret-value"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert outcomes() == {"delivered": 1}


def test_a_session_that_heard_nothing_is_told_too_and_a_header_is_not_needed(run):
    async def scenario():
        async with receiving(204) as receiver:
            webhook = Webhook(f"http://localhost:{receiver.port}", None, None, 's"1', [])
            await delivered_to(receiver, Webhooks(FAST), webhook)
            return receiver

    receiver = run(scenario())
    assert receiver.requests[0].target == b"/"
    assert json.loads(receiver.bodies[0]) == {"session_id": 's"1', "messages": []}
    assert set(receiver.headers()) == {"host", "user-agent", "content-type", "content-length", "connection"}


def test_posting_returns_at_once_even_before_anything_runs(run, outcomes):
    async def scenario():
        async with receiving(200) as receiver:
            webhooks = Webhooks(FAST)
            webhooks.post(hook(receiver.port))
            assert webhooks.pending == 1
            async with running(webhooks):
                await webhooks.drain(30)

    run(scenario())
    assert outcomes() == {"delivered": 1}


# ---------------------------------------------------------------------------------------------------------------------
# receivers that misbehave


@pytest.mark.parametrize("first", [500, 503, 429, 408, "drop", "garbage", "huge head", "endless interim"])
def test_what_may_pass_is_tried_again(run, outcomes, first: int | str):
    async def scenario():
        async with receiving(first, 200) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver

    receiver = run(scenario())
    assert len(receiver.bodies) == 2
    assert receiver.bodies[0] == receiver.bodies[1]
    assert outcomes() == {"delivered": 1}


@pytest.mark.parametrize("always", [500, "drop"])
def test_trying_has_an_end(run, outcomes, always: int | str):
    async def scenario():
        async with receiving(always) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver.connections

    assert run(scenario()) == FAST.attempts
    assert outcomes() == {"failed": 1}


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_is_not_argued_with(run, outcomes, status: int):
    async def scenario():
        async with receiving(status, 200) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver.connections

    assert run(scenario()) == 1
    assert outcomes() == {"refused": 1}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(run, outcomes, status: int):
    async def scenario():
        async with receiving(status, 200) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver

    receiver = run(scenario())
    assert [request.target for request in receiver.requests] == [b"/hook?key=secret-query"]
    assert outcomes() == {"refused": 1}


@pytest.mark.parametrize("behaviour", ["huge body", "interim"])
def test_the_status_alone_counts(run, outcomes, behaviour: str):
    async def scenario():
        async with receiving(behaviour) as receiver:
            await delivered_to(receiver, Webhooks(FAST), hook(receiver.port))
            return receiver.connections

    assert run(scenario()) == 1
    assert outcomes() == {"delivered": 1}


def test_a_receiver_that_does_not_answer_is_left(run, outcomes):
    async def scenario():
        bounds = Bounds(attempts=2, backoff_s=0.002, attempt_timeout_s=0.05)
        async with receiving("hang", 200) as receiver:
            await delivered_to(receiver, Webhooks(bounds), hook(receiver.port))
            return receiver.connections

    assert run(scenario()) == 2
    assert outcomes() == {"delivered": 1}


def test_nobody_there_is_a_failure(run, outcomes, free_port):
    async def scenario():
        await delivered_to(Receiver([200]), Webhooks(FAST), hook(free_port()))

    run(scenario())
    assert outcomes() == {"failed": 1}


def test_a_slow_host_keeps_no_other_waiting(run, wait_until):
    async def scenario():
        bounds = Bounds(concurrency=4, concurrency_of_a_host=2)
        async with receiving("hang") as slow, receiving(200) as good, running(Webhooks(bounds)) as webhooks:
            for number in range(10):
                webhooks.post(hook(slow.port, f"slow-{number}"))
            await wait_until(lambda: slow.at_once == 2)
            for number in range(10):
                webhooks.post(hook(good.port, f"good-{number}"))
            await wait_until(lambda: webhooks.pending == 10)
            assert len(good.bodies) == 10
            assert slow.most_at_once == 2
            slow.behaviours[:] = [200]
            slow.release.set()
            await webhooks.drain(30)
            assert webhooks.pending == 0
            assert slow.most_at_once <= 2
            assert good.most_at_once <= 2
            assert not webhooks._hosts, "a host is forgotten with its last delivery"

    run(scenario())


def test_attempts_at_the_same_time_are_bounded(run, wait_until):
    async def scenario():
        bounds = Bounds(concurrency=3, concurrency_of_a_host=8)
        async with receiving("hang") as receiver, running(Webhooks(bounds)) as webhooks:
            for number in range(12):
                webhooks.post(hook(receiver.port, f"s{number}"))
            await wait_until(lambda: receiver.at_once == 3)
            receiver.behaviours[:] = [200]
            receiver.release.set()
            await webhooks.drain(30)
            assert (webhooks.pending, receiver.most_at_once) == (0, 3)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# bounds and shutdown


def test_more_than_can_wait_is_dropped(run, outcomes, caplog):
    async def scenario():
        async with receiving(200) as receiver:
            webhooks = Webhooks(Bounds(max_pending=2))
            for number in range(3):
                webhooks.post(hook(receiver.port, f"s{number}"))
            assert outcomes() == {"dropped": 1}
            async with running(webhooks):
                await webhooks.drain(30)
                webhooks.post(hook(receiver.port, "later"))
                await webhooks.drain(30)
            return [json.loads(body)["session_id"] for body in receiver.bodies]

    assert sorted(run(scenario())) == ["later", "s0", "s1"]
    assert outcomes() == {"dropped": 1, "delivered": 3}


def test_bodies_that_wait_are_bounded_too(run, outcomes):
    size = len(hook(1).body())

    async def scenario():
        webhooks = Webhooks(Bounds(max_pending_bytes=2 * size + 1))
        for number in range(3):
            webhooks.post(hook(1, f"s{number}"))
        return webhooks.pending

    assert run(scenario()) == 2
    assert outcomes() == {"dropped": 1}


def test_draining_has_an_end_and_what_is_left_is_told(run, outcomes, wait_until):
    async def scenario():
        async with receiving("hang") as receiver:
            async with running(Webhooks(Bounds(concurrency_of_a_host=1))) as webhooks:
                webhooks.post(hook(receiver.port, "s1"))
                webhooks.post(hook(receiver.port, "s2"))
                await wait_until(lambda: receiver.at_once)
                await webhooks.drain(0.01)
                assert webhooks.pending == 2
                webhooks.post(hook(receiver.port, "s3"))  # run has not even seen it
            assert webhooks.pending == 0
            await webhooks.drain(30)  # returns: nothing is left

    run(scenario())
    assert outcomes() == {"dropped": 3}


def test_pauses_double_are_spread_and_bounded():
    bounds = Bounds(backoff_s=1.0, max_backoff_s=5.0)
    assert [bounds.pause_s(failures, 0.0) for failures in (1, 2, 3, 4, 9)] == [1, 2, 4, 5, 5]
    assert [bounds.pause_s(failures, 1.0) for failures in (1, 2, 3)] == [0.5, 1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# where it may go


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:a9fe:a9fe]", "0"]
)
def test_an_address_in_disguise_is_refused_when_it_is_resolved(run, outcomes, host: str):
    """These pass for names, or for other addresses, until the system's resolver has read them."""

    async def scenario():
        await delivered_to(Receiver([200]), Webhooks(FAST), hook(80, host=host))

    run(scenario())
    assert outcomes() == {"refused": 1}


def test_a_name_with_one_bad_address_among_good_ones_is_refused(run, outcomes):
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "fe80::1%1"]

    async def scenario():
        async with receiving(200) as receiver:
            await delivered_to(
                receiver, Webhooks(FAST, resolve=resolve), hook(receiver.port, host="hooks.test")
            )
            return receiver.connections

    assert run(scenario()) == 0
    assert outcomes() == {"refused": 1}


def test_the_address_that_was_checked_is_the_one_that_is_reached(run, outcomes):
    """A name that leads elsewhere at every look is looked at once for each attempt."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    async def scenario():
        async with receiving(500, 200) as receiver:
            await delivered_to(
                receiver, Webhooks(FAST, resolve=resolve), hook(receiver.port, host="hooks.test")
            )
            return receiver

    receiver = run(scenario())
    assert asked == ["hooks.test", "hooks.test"]
    assert receiver.connections == 1
    assert receiver.headers()["host"] == f"hooks.test:{receiver.port}"
    assert outcomes() == {"refused": 1}


def test_the_next_address_is_tried_where_nobody_listens(run, outcomes):
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the receiver listens on the second alone

    async def scenario():
        async with receiving(200) as receiver:
            await delivered_to(
                receiver, Webhooks(FAST, resolve=resolve), hook(receiver.port, host="hooks.test")
            )

    run(scenario())
    assert outcomes() == {"delivered": 1}


def test_a_name_that_leads_nowhere_is_a_failure(run, outcomes):
    async def resolve(host: str, port: int) -> list[str]:
        return []

    async def scenario():
        await delivered_to(Receiver([200]), Webhooks(FAST, resolve=resolve), hook(80, host="nowhere.test"))

    run(scenario())
    assert outcomes() == {"failed": 1}


# ---------------------------------------------------------------------------------------------------------------------
# TLS


@pytest.mark.parametrize(
    "certified,trusted,outcome",
    [
        ("hooks.test", True, "delivered"),
        ("other.test", True, "refused"),
        ("hooks.test", False, "refused"),
    ],
)
def test_tls_is_verified_against_the_name(run, outcomes, certified: str, trusted: bool, outcome: str):
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(certified).configure_cert(theirs)
    ours = ssl.create_default_context()
    if trusted:
        authority.configure_trust(ours)

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def scenario():
        async with receiving(200, tls=theirs) as receiver:
            webhook = hook(receiver.port, host="hooks.test", scheme="https")
            await delivered_to(receiver, Webhooks(FAST, resolve=resolve, tls=ours), webhook)
            return len(receiver.bodies)

    assert run(scenario()) == (outcome == "delivered")
    assert outcomes() == {outcome: 1}


# ---------------------------------------------------------------------------------------------------------------------
# secrets


def test_secrets_are_not_logged(run, caplog):
    caplog.set_level(logging.DEBUG)

    async def scenario():
        async with receiving(200, 404, 500) as receiver:
            webhooks = Webhooks(FAST)
            for number in range(3):
                await delivered_to(receiver, webhooks, hook(receiver.port, f"s{number}"))
            webhooks.post(hook(receiver.port))
            return receiver.port

    port = run(scenario())
    written = "\n".join(str(vars(record)) for record in caplog.records if record.name == "ingress.webhook")
    assert written.count(f"http://127.0.0.1:{port}'") == 3
    assert "secret" not in written
    assert "Hello" not in written
    assert "secret" not in repr(hook(port))


@pytest.mark.parametrize(
    "url,receiver",
    [
        ("https://example.com/a?b", "https://example.com:443"),
        ("http://[::1]/a", "http://[::1]:80"),
        ("HTTP://Example.com:8080", "http://example.com:8080"),
    ],
)
def test_a_receiver_is_named_by_host_and_port(url: str, receiver: str):
    assert Webhook(url, None, None, "s", []).receiver == receiver

"""`ingress.acting`: what sessions decide is done, on a real node with real clients; only the worker is scripted."""

import asyncio
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ingress import connection
from ingress.session import Effect, Session
from tests.nodes import (
    FRAME,
    TERMINATE,
    Nodes,
    OwnRedis,
    begin,
    careless,
    count,
    error,
    nothing_waits,
    only,
    put_in_inbox,
    rest,
)
from wire import metrics
from wire.entries import Event, Order, SessionEvent
from wire.errors import INTERNAL_ERROR, REASON_SEE_ERROR


@pytest.mark.parametrize(
    "message,text",
    [
        ("{", "User Input Validation Error: Invalid JSON: "),
        ("[]", "Invalid Message: "),
        ('{"type":"Hello"}', "Invalid Message Type: Hello"),
        ('{"type":"\\ud800"}', "Invalid JSON: a surrogate"),
        ('{"type":"UpdateConfiguration","vad_threshold":2}', "Invalid 'vad_threshold'"),
    ],
)
def test_malformed_messages(run, nodes: Nodes, message: str, text: str):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            await client.send(FRAME)
            await client.send(message)
            (last,), code, reason = await rest(client)
            assert (last["type"], last["error_code"], code, reason) == ("Error", 3006, 3006, REASON_SEE_ERROR)
            assert text in last["error"]
            await nodes.wait_until(lambda: only(node.worker).orders == [Order.ABANDON])

    run(scenario())


def test_a_message_too_big(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_message_bytes=4096) as node, node.client() as client:
            await begin(client)
            await client.send(bytes(4096))
            await client.send(bytes(4097))
            assert (await rest(client))[1] == 1009
            await nodes.wait_until(lambda: only(node.worker).orders == [Order.ABANDON])
            assert len(only(node.worker).pcm) == 4096

    refused = count(metrics.CLIENT_ERRORS, code="1009")
    run(scenario())
    assert count(metrics.CLIENT_ERRORS, code="1009") == refused + 1


def test_a_silent_client(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(idle_timeout_s=0.3) as node, node.client() as client:
            await begin(client)
            text = "Session terminated due to inactivity: No messages received for 0.3 seconds"
            assert await rest(client) == error(3006, text)

    run(scenario())


def test_a_session_expires(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_session_s=0.3) as node, node.client() as client:
            await begin(client)
            assert await rest(client) == error(3008, "Session Expired: Maximum session duration exceeded")

    run(scenario())


def test_a_worker_that_never_settles(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(termination_timeout_s=0.2) as node, node.client() as client:
            node.worker.settles = False
            await begin(client)
            await client.send(TERMINATE)
            assert await rest(client) == error(3005, INTERNAL_ERROR)

    run(scenario())


def test_what_is_late_or_double_or_nobodys_is_dropped(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            served = only(node.worker)
            await node.worker.say_turn(served.session, "once")
            again = SessionEvent(served.session, 1, 1, Event.MESSAGE, 0, 0, True, '{"type":"Turn"}')
            early = SessionEvent(served.session, 0, 9, Event.MESSAGE, 0, 1, True, '{"type":"Turn"}')
            stray = SessionEvent("nobody", 1, 0, Event.MESSAGE, 0, 0, True, '{"type":"Turn"}')
            await put_in_inbox(node, again, early, stray)
            await client.send(TERMINATE)
            messages, _, _ = await rest(client)
            assert [message["transcript"] for message in messages[:-1]] == ["once", "0 samples"]

    reasons = ("duplicate", "generation", "unknown")
    before = [count(metrics.EVENTS_DROPPED, reason=reason) for reason in reasons]
    run(scenario())
    assert [count(metrics.EVENTS_DROPPED, reason=reason) for reason in reasons] == [
        number + 1 for number in before
    ]


class Faulty(Session):
    """A session with planted bugs."""

    def client_audio(self, data: bytes, now: float) -> list[Effect]:
        if data == b"crash":
            raise ZeroDivisionError("a planted bug")
        return super().client_audio(data, now)

    def worker_event(self, event: SessionEvent, now: float) -> list[Effect]:
        if event.text == "crash":
            raise ZeroDivisionError("a planted bug")
        return super().worker_event(event, now)

    def refuse(self, error: Any, now: float) -> list[Effect]:
        if self.params.sample_rate == 8_000:
            raise ZeroDivisionError("a planted bug in the way out")
        return super().refuse(error, now)


@pytest.mark.parametrize("where", ["client", "worker"])
def test_a_crash_ends_its_session_and_no_other(
    run, nodes: Nodes, where: str, caplog: pytest.LogCaptureFixture
):
    async def scenario() -> None:
        async with nodes(new_session=Faulty) as node, node.client() as lucky, node.client() as unlucky:
            await begin(lucky)
            name = (await begin(unlucky))["id"]
            if where == "client":
                await unlucky.send(b"crash")
            else:
                await node.worker.say(name, Event.MESSAGE, "crash")
            assert await rest(unlucky) == error(3005, INTERNAL_ERROR)
            await lucky.send(FRAME)
            await lucky.send(TERMINATE)
            messages, code, _ = await rest(lucky)
            assert (messages[0]["transcript"], code) == ("800 samples", 1000)

    run(scenario())
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_session_that_cannot_even_end_is_cut_off(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(new_session=Faulty) as node, node.client() as lucky:
            async with node.client("/?sample_rate=8000") as unlucky:
                await begin(lucky)
                await begin(unlucky)
                await unlucky.send(b"crash")
                with pytest.raises(ConnectionClosed) as closed:
                    await unlucky.recv()
                assert closed.value.rcvd is None
            await lucky.send(TERMINATE)
            assert (await rest(lucky))[1] == 1000

    run(scenario())


def test_a_client_that_does_not_read(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_unread_bytes=2**16) as node, node.client() as other:
            await begin(other)
            async with node.client(max_queue=1, max_size=None) as client:
                name = (await begin(client))["id"]
                session = node.ingress._clients[name].session
                while not session.outcome:
                    await node.worker.say(
                        name, Event.MESSAGE, json.dumps({"type": "Turn", "x": "x" * 100_000})
                    )
                assert session.outcome == "3005"
                messages, code, _ = await rest(client)
                assert (messages[-1]["error"], code) == (
                    "Session Cancelled: The client does not read its messages",
                    3005,
                )
            await other.send(TERMINATE)
            assert (await rest(other))[1] == 1000

    run(scenario())


def test_a_client_too_far_ahead_is_closed_with_3007(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_buffer_s=2) as node, node.client() as client:
            await begin(client)
            for _ in range(40):
                await client.send(FRAME * 2)
            expected = error(3007, "Audio transmission rate exceeded: too much audio buffered")
            assert await rest(client) == expected
            await nodes.wait_until(lambda: only(node.worker).orders == [Order.ABANDON])

    run(scenario())


def test_a_heartbeat_comes_to_who_asked_for_it(run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ingress.session.HEARTBEAT_S", 0.1)

    async def scenario() -> None:
        async with nodes() as node, node.client("/?session_heartbeat=true") as client:
            name = (await begin(client))["id"]
            await client.send(FRAME)
            await node.worker.say(name, Event.HEARD, "0.5")
            first, second = [json.loads(await client.recv()) for _ in range(2)]
            assert {first["type"], second["type"]} == {"Heartbeat"}
            assert first["total_duration_ms"] < second["total_duration_ms"]
            assert 0.5 in (first["max_speech_probability"], second["max_speech_probability"])

    run(scenario())


def test_what_a_worker_told_and_redis_lost_is_told_again(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            await client.send(FRAME)
            await nodes.wait_until(lambda: len(only(node.worker).pcm) == len(FRAME))
            served = only(node.worker)
            served.sequence += 1  # a final that never came
            await node.worker.say_turn(served.session, "and another", final=True)
            session = node.ingress._clients[served.session].session
            await nodes.wait_until(lambda: session._generation > served.lease.generation)
            await node.worker.say_turn(served.session, "again")
            await node.worker.say_turn(served.session, "and another")
            told = [json.loads(await client.recv())["transcript"] for _ in range(2)]
            assert told == ["again", "and another"]

    run(scenario())


def test_an_offer_that_arrives_too_late_is_withdrawn(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url, admission_timeout_s=0.2) as node:
            node.worker.takes = False
            own_redis.freeze(True)
            async with node.client() as client:
                assert (await rest(client))[1] == 3009
            own_redis.freeze(False)
            await nodes.wait_until(lambda: not node.ingress._clients)
            await nodes.wait_until(lambda: nothing_waits(node))
            node.worker.takes = True
            async with node.client() as client:
                await begin(client)
            assert len(node.worker.served) == 1

    run(scenario())


def test_redis_too_slow_stops_the_reading_and_loses_nothing(run, nodes: Nodes, own_redis: OwnRedis):
    async def send(client: ClientConnection) -> None:
        for _ in range(400):
            await client.send(FRAME * 20)
        await client.send(TERMINATE)

    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        limit = 2**17
        async with nodes(redis_url=own_redis.url, max_pending_bytes=limit, max_buffer_s=9_999) as node:
            async with node.client() as client, asyncio.TaskGroup() as tasks:
                await begin(client)
                own_redis.freeze(True)
                tasks.create_task(send(client))
                await nodes.wait_until(lambda: node.ingress._outbox.pending_bytes > limit)
                assert (await node.get("/v3/health"))[1], "the node goes on"
                assert node.ingress._outbox.pending_bytes <= limit + 20 * len(FRAME)
                own_redis.freeze(False)
                messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == (f"{400 * 20 * 800} samples", 1000)

    run(scenario())


def test_a_webhook_gets_the_finals_when_the_session_has_ended(run, nodes: Nodes):
    posts: list[tuple[str | None, dict[str, Any]]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append((self.headers["X-Hook-Key"], json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    async def scenario(port: int) -> None:
        hook = urlencode(
            {
                "webhook_url": f"http://127.0.0.1:{port}/hook",
                "webhook_auth_header_name": "X-Hook-Key",
                "webhook_auth_header_value": "s3cret",
            }
        )
        async with nodes() as node, node.client(f"/?{hook}") as client:
            name = (await begin(client))["id"]
            await client.send(FRAME)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert code == 1000
            await nodes.wait_until(lambda: posts)
            assert posts == [("s3cret", {"session_id": name, "messages": [messages[0]]})]
            told = only(node.worker).lease.offer.params
            assert "s3cret" not in str(told), "no worker needs to know"

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            run(scenario(server.server_port))
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_to_where_only_this_machine_may_go_is_refused(run, nodes: Nodes):
    async def scenario() -> None:
        target = "/?webhook_url=" + quote("http://169.254.169.254/latest/meta-data", safe="")
        async with nodes() as node, node.client(target) as client:
            messages, code, _ = await rest(client)
            assert code == 3006
            assert "Invalid 'webhook_url': Value error, " in messages[0]["error"]

    run(scenario())


def test_a_client_that_pings_and_does_not_read_is_cut_off(run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_S", 0.2)
    ping = b"\x89\xfd\0\0\0\0" + bytes(125)

    async def scenario() -> None:
        async with nodes(max_unread_bytes=2**16) as node, careless(node) as reader:
            await nodes.wait_until(lambda: node.ingress._clients)
            writer = reader._transport  # type: ignore[attr-defined]
            writer.write(ping * 150_000)  # far more pongs than the system holds for a connection
            await nodes.wait_until(lambda: not node.ingress._clients)

    run(scenario())

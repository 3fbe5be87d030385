"""`ingress.front`: the port and what is answered over HTTP, with and without TLS, on a real node."""

import asyncio
import contextlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from ingress import server
from ingress.server import serve
from ingress.settings import IngressSettings
from tests.certificates import Pair, presented
from tests.fakes import ScriptedWorker
from tests.nodes import (
    AUTHORIZED,
    FRAME,
    PATIENCE_S,
    TERMINATE,
    Node,
    Nodes,
    OwnRedis,
    alarms,
    begin,
    only,
    rest,
)
from wire.entries import Event, WorkerLoad
from wire.errors import SettingsError
from wire.service import Probe


@pytest.mark.parametrize("target", ["/v3/ws/health", "/v3/health"])
def test_health(run, nodes: Nodes, target: str):
    async def scenario() -> None:
        async with nodes() as node:
            status, body = await node.get(target)
            assert (status, json.loads(body)) == (200, {"status": "ready", "sessions": 0})

    run(scenario())


def test_unknown_paths_and_plain_requests(run, nodes: Nodes, caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        async with nodes() as node:
            assert (await node.get("/v2/ws"))[0] == 404
            assert (await node.get("/v3/ws"))[0] == 426
            _, writer = await asyncio.open_connection("127.0.0.1", node.ingress.port)
            writer.close()  # as a load balancer's TCP check does
            await writer.wait_closed()
            async with node.client() as client:
                await begin(client)

    with caplog.at_level(logging.DEBUG):
        run(scenario())
    assert not alarms(caplog), "strangers are no news"


def test_a_token_is_had_over_http_and_used_again(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(api_keys="alpha") as node:
            target = "/v3/token?expires_in_seconds=60&max_session_duration_seconds=600"
            status, body = await node.get(target, {"Authorization": "Bearer alpha"})
            assert status == 200
            answer = json.loads(body)
            assert answer["expires_in_seconds"] == 60
            for _ in range(2):
                async with node.client(f"/?token={answer['token']}", additional_headers={}) as client:
                    assert (await begin(client))["expires_at"] == pytest.approx(time.time() + 600, abs=5)
            assert (await node.get(target, {"Authorization": answer["token"]}))[0] == 401
            assert (await node.get(target, {"Authorization": "beta"}))[0] == 401
            status, body = await node.get("/v3/token")
            assert status == 422
            assert [fault["loc"][1] for fault in json.loads(body)["detail"]] == [
                "expires_in_seconds",
                "authorization",
            ]

    run(scenario())


def test_other_methods_are_not_served(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            for method in ("POST", "HEAD", "OPTIONS"):
                reader, writer = await asyncio.open_connection("127.0.0.1", node.ingress.port)
                writer.write(f"{method} /v3/token HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
                assert b" 200 " not in answer
                writer.close()
                await writer.wait_closed()
            assert (await node.get("/v3/health"))[0] == 200

    run(scenario())


def test_who_connects_and_says_nothing_is_cut_off(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(open_timeout_s=0.2) as node:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.ingress.port)
            writer.write(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()

    run(scenario())


def secured(pair: Pair) -> dict[str, Any]:
    return {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}


def wss(node: Node, pair: Pair, target: str = "/v3/ws", **options: Any) -> connect:
    url = f"wss://localhost:{node.ingress.port}{target}"
    chosen = {"additional_headers": AUTHORIZED, "ping_interval": None, "ssl": pair.client()} | options
    return connect(url, **chosen)


def shown(client: ClientConnection) -> int:
    return presented(client.transport.get_extra_info("ssl_object"))


def test_a_session_over_tls(run, nodes: Nodes, pair: Pair):
    async def scenario() -> None:
        async with nodes(**secured(pair)) as node, wss(node, pair) as client:
            await begin(client)
            await client.send(FRAME)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == ("800 samples", 1000)

    run(scenario())


def test_health_and_tokens_over_tls(run, nodes: Nodes, pair: Pair):
    async def scenario() -> None:
        async with nodes(**secured(pair)) as node:
            base = f"https://localhost:{node.ingress.port}"
            for target in ("/v3/health", "/v3/token?expires_in_seconds=60"):
                request = urllib.request.Request(base + target, headers=AUTHORIZED)
                opened = await asyncio.to_thread(
                    urllib.request.urlopen, request, timeout=5, context=pair.client()
                )
                with opened as response:
                    assert response.status == 200

    run(scenario())


def test_who_speaks_plainly_to_a_port_with_tls_harms_nobody(
    run, nodes: Nodes, pair: Pair, caplog: pytest.LogCaptureFixture
):
    async def scenario() -> None:
        async with nodes(**secured(pair)) as node, wss(node, pair) as client:
            await begin(client)
            with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
                await node.get("/v3/health")
            await client.send(TERMINATE)
            assert (await rest(client))[1] == 1000

    run(scenario())
    assert not alarms(caplog)


def test_a_client_over_tls_that_does_not_read(run, nodes: Nodes, pair: Pair):
    """What waits is bounded there, too."""

    async def scenario() -> None:
        async with (
            nodes(**secured(pair), max_unread_bytes=2**16) as node,
            wss(node, pair, max_queue=1, max_size=None) as client,
        ):
            name = (await begin(client))["id"]
            session = node.ingress._clients[name].session
            while not session.outcome:
                await node.worker.say(name, Event.MESSAGE, json.dumps({"type": "Turn", "x": "x" * 100_000}))
            assert session.outcome == "3005"
            messages, code, _ = await rest(client)
            assert (messages[-1]["error"], code) == (
                "Session Cancelled: The client does not read its messages",
                3005,
            )

    run(scenario())


def test_a_new_certificate_is_shown_to_new_clients(
    run, nodes: Nodes, pair: Pair, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "WATCH_S", 0.02)

    async def scenario() -> None:
        async with nodes(**secured(pair)) as node, wss(node, pair) as client:
            await begin(client)
            old = pair.serial
            assert shown(client) == old
            pair.issue()

            async def newest() -> bool:
                async with wss(node, pair) as another:
                    return shown(another) == pair.serial != old

            await nodes.wait_until(newest)
            await client.send(TERMINATE)
            assert (await rest(client))[1] == 1000, "who is connected stays so"

    run(scenario())


def test_a_broken_new_certificate_is_told_and_not_used(
    run, nodes: Nodes, pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(server, "WATCH_S", 0.02)

    async def scenario() -> None:
        async with nodes(**secured(pair)) as node:
            old = pair.serial
            pair.key.write_text("broken")
            await nodes.wait_until(lambda: "Certificate not reloaded" in caplog.text)
            async with wss(node, pair) as client:
                assert shown(client) == old

    run(scenario())


def test_settings_that_nobody_could_connect_with_are_told_at_the_start(run, redis_url: str, tmp_path: Path):
    async def scenario() -> None:
        wrong: list[dict[str, Any]] = [
            {"tls_cert_file": tmp_path / "missing", "tls_key_file": tmp_path / "missing"},
            {"api_keys_file": tmp_path / "missing"},
        ]
        for chosen in wrong:
            loaded = IngressSettings(redis_url=redis_url, host="127.0.0.1", port=0, **chosen)
            with pytest.raises(SettingsError, match="missing cannot be read"):
                await serve(loaded, asyncio.Event(), Probe("127.0.0.1", 0))

    run(scenario())


def test_what_is_served_is_told_with_its_capacity(run, nodes: Nodes):
    def report(free: int) -> WorkerLoad:
        return WorkerLoad(4, free, 20, int(time.time()) + 60, "whisper-base", "MIT", ("de", "fr"))

    async def multilang(node: Node, headers: Mapping[str, str] = AUTHORIZED) -> dict[str, Any]:
        status, body = await node.get("/v1/models", headers)
        assert status == 200
        told = json.loads(body)
        assert told["default_speech_model"] == "universal-streaming-english"
        assert [row["pool"] for row in told["pools"]] == ["english", "multilang", "u3pro"]
        return next(row for row in told["pools"] if row["pool"] == "multilang")

    async def scenario() -> None:
        async with nodes() as node:
            await node.bus.join("multilang")
            await nodes.wait_until(lambda: node.ingress._pools.page("", 0) is not None)
            assert (await multilang(node))["deployed"] is False
            await node.bus.report("multilang", "w", report(1))
            async with node.client("/?speech_model=whisper-rt"):  # nobody takes it
                seen = await nodes.wait_until(lambda: _waiting_one(node, multilang))
            assert seen == {
                "pool": "multilang",
                "deployed": True,
                "speech_models": ["universal-streaming-multilingual", "whisper-rt"],
                "models": ["whisper-base"],
                "licences": ["MIT"],
                "languages": ["de", "fr"],
                "workers": 1,
                "slots": 4,
                "free": 1,
                "waiting": 1,
                "load": 0.75,
                "backlog_ms": 20,
            }

    async def _waiting_one(node: Node, look: Callable[[Node], Any]) -> dict[str, Any] | None:
        found: dict[str, Any] = await look(node)
        return found if found["waiting"] and found["deployed"] else None

    run(scenario())


def test_what_is_served_needs_a_key_and_a_redis(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url, api_keys="secret-key-1") as node:
            await nodes.wait_until(lambda: node.ingress._pools.page("", 0) is not None)
            for headers, status in (
                ({}, 401),
                (AUTHORIZED, 401),
                ({"Authorization": "secret-key-1"}, 200),
                ({"Authorization": "Bearer secret-key-1"}, 200),
            ):
                assert (await node.get("/v1/models", headers))[0] == status
            token = json.loads(
                (await node.get("/v3/token?expires_in_seconds=60", {"Authorization": "secret-key-1"}))[1]
            )["token"]
            assert (await node.get("/v1/models", {"Authorization": token}))[0] == 401
            own_redis.freeze(True)
            await nodes.wait_until(lambda: not node.probe.ready)
            status, body = await node.get("/v1/models", {"Authorization": "secret-key-1"})
            assert (status, json.loads(body)) == (503, {"error": "The server is not ready"})
            own_redis.freeze(False)
            await nodes.wait_until(lambda: node.probe.ready)

    run(scenario())


def test_a_request_may_hold_a_hundred_key_terms_and_a_prompt(run, nodes: Nodes):
    terms = [f"Żółć-{number} {'ź' * 40}" for number in range(100)]
    query = urlencode(
        {"speech_model": "u3-rt-pro", "keyterms_prompt": json.dumps(terms), "prompt": "ж" * 1_750}
    )

    async def scenario() -> None:
        async with nodes() as node:
            other = ScriptedWorker(node.bus, "u3pro", "other")
            await node.bus.join("u3pro")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(other.serve())
                assert 20_000 < len(query) < 60_000
                async with node.client(f"/?{query}") as client:
                    await begin(client)
                    assert only(other).lease.offer.params["keyterms_prompt"] == terms
                other.stop()

    run(scenario())


@pytest.mark.parametrize(
    "query", ["speech_model=\xff", "language_code=\xff", "keyterms_prompt=[%22%5Cud800%22]"]
)
def test_bytes_that_are_no_text_are_refused_with_an_error(run, nodes: Nodes, query: str):
    async def scenario() -> None:
        async with nodes() as node:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.ingress.port)
            lines = [
                f"GET /?{query} HTTP/1.1",
                "Host: x",
                "Authorization: k\xe9y",
                "AssemblyAI-Version: \xe9",
            ]
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
            writer.write("\r\n".join(lines).encode("latin-1"))
            received = b""
            while b'"type":"Error"' not in received:
                piece = await asyncio.wait_for(reader.read(4_096), PATIENCE_S)
                assert piece, received
                received += piece
            assert b'"error_code":3006' in received
            writer.close()

    run(scenario())


def test_a_balancer_that_asks_for_it_is_sent_to_another_node(run, nodes: Nodes):
    """Before a WebSocket is open; nobody else is answered so."""

    async def scenario() -> None:
        asking: dict[str, Any] = {"additional_headers": {"Authorization": "any", "X-Steno-Try-Another": "1"}}
        async with nodes(drain_grace_s=30) as node, node.client(**asking) as client:
            await begin(client)
            node.drain.set()
            await nodes.wait_until(lambda: node.ingress._draining)
            with pytest.raises(InvalidStatus) as refused:
                await node.client(**asking)
            assert refused.value.response.status_code == 503
            await client.send(TERMINATE)
            assert (await rest(client))[1] == 1000

    run(scenario())


def test_a_taken_port(run, nodes: Nodes, redis_url: str):
    async def scenario() -> None:
        async with nodes() as node:
            settings = IngressSettings(redis_url=redis_url, host="127.0.0.1", port=node.ingress.port)
            with pytest.raises(SettingsError, match=f"PORT: cannot listen on 127.0.0.1 port {settings.port}"):
                await serve(settings, asyncio.Event(), Probe("127.0.0.1", 0))

    run(scenario())

"""A real node on a real port, a real Redis, real WebSocket clients; only the worker is scripted."""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ingress import server
from ingress.consent import Record
from ingress.server import serve
from ingress.settings import IngressSettings
from tests.nodes import (
    AUTHORIZED,
    FRAME,
    FULL,
    TERMINATE,
    Node,
    Nodes,
    begin,
    count,
    error,
    licensed,
    minted,
    nothing_waits,
    only,
    presenting,
    rest,
    waits,
)
from wire import metrics
from wire.accounts import Accounts
from wire.archive import Archive
from wire.entries import Event, LicenseState, Order, WorkerLoad
from wire.errors import REASON_ENDED, LicenseError
from wire.recorded import OFFER_RECORDED
from wire.service import Probe
from wire.speech_models import DEFAULT_MODEL

# ---------------------------------------------------------------------------------------------------------------------
# health and the opening


@pytest.mark.parametrize("target", ["/", "/v3/ws", ""])
def test_both_paths_serve(run, nodes: Nodes, target: str):
    async def scenario() -> None:
        async with nodes() as node, node.client(f"{target}?sample_rate=16000") as client:
            await begin(client)

    run(scenario())


@pytest.mark.parametrize(
    "target,headers,code,text",
    [
        ("/v3/ws", {}, 1008, "Unauthorized Connection: Missing Authorization header"),
        ("/v3/ws", {"Authorization": ""}, 1008, "Unauthorized Connection: Missing Authorization header"),
        ("/v3/ws?token=", {}, 1008, "Unauthorized Connection: Missing Authorization header"),
        (
            "/v3/ws?sample_rate=4000",
            AUTHORIZED,
            3006,
            (
                "User Input Validation Error: Invalid 'sample_rate': Value error, "
                "sample_rate must be at least 8,000 Hz"
            ),
        ),
    ],
)
def test_a_refusal_comes_over_an_open_socket(
    run, nodes: Nodes, target: str, headers: Any, code: int, text: str
):
    async def scenario() -> None:
        async with nodes() as node, node.client(target, additional_headers=headers) as client:
            assert await rest(client) == error(code, text)
            assert not node.worker.served

    refused = count(metrics.CLIENT_ERRORS, code=str(code))
    run(scenario())
    assert count(metrics.CLIENT_ERRORS, code=str(code)) == refused + 1


def test_a_token_in_the_query_will_do(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client("/v3/ws?token=temporary", additional_headers={}) as client:
            await begin(client)

    run(scenario())


def test_begin_within_200_ms(run, nodes: Nodes):
    """The best of five: what the code needs, not what the machine was busy with."""

    async def scenario() -> list[float]:
        seconds = []
        async with nodes() as node:
            for _ in range(5):
                started = time.monotonic()
                async with node.client() as client:
                    await begin(client)
                    seconds.append(time.monotonic() - started)
        return seconds

    assert min(run(scenario())) < 0.2


def test_begin_names_the_session_and_its_settings(run, nodes: Nodes):
    async def scenario() -> None:
        headers = AUTHORIZED | {"AssemblyAI-Version": "2025-05-12"}
        async with nodes(max_session_s=100) as node, node.client(additional_headers=headers) as client:
            message = await begin(client)
            assert message["id"] == only(node.worker).session
            assert message["expires_at"] == pytest.approx(time.time() + 100, abs=5)
            assert message["configuration"]["api_version"] == "2025-05-12"

    run(scenario())


def test_nobody_takes_the_session(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(admission_timeout_s=0.2) as node:
            node.worker.takes = False
            async with node.client() as client:
                await client.send(FRAME)
                text = "Unauthorized Connection: Too many concurrent sessions"
                assert await rest(client) == error(3009, text)
                await nodes.wait_until(lambda: nothing_waits(node))

    run(scenario())


def test_a_full_node(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_sessions=1) as node, node.client() as first:
            await begin(first)
            async with node.client() as second:
                text = "Unauthorized Connection: Too many concurrent sessions"
                assert await rest(second) == error(3009, text)
            assert (await node.get("/v3/health"))[0] == 200
            await first.send(TERMINATE)
            assert (await rest(first))[1] == 1000
            await nodes.wait_until(lambda: not node.ingress._clients)
            async with node.client() as third:
                await begin(third)

    run(scenario())


def test_a_pool_without_a_free_slot_refuses_at_once_and_then_takes_the_next(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(admission_timeout_s=1_000) as node:
            await node.bus.report("english", "w", WorkerLoad(2, 2, 0, int(time.time()) + 1_000, "m"))
            await nodes.wait_until(lambda: node.ingress._pools.room("english") == 2)
            async with node.client() as first, node.client() as second:
                await begin(first)
                await begin(second)
                async with node.client() as third:
                    assert await rest(third) == error(3009, FULL)
                assert await node.bus.offered("english") == 2, "it was not offered"
                await first.send(TERMINATE)
                assert (await rest(first))[1] == 1000

                async def room() -> bool:
                    return await node.bus.offered("english") == 1

                await nodes.wait_until(room)
                await node.ingress._admission.look_again(0)
                async with node.client() as fourth:
                    await begin(fourth)

    run(scenario())


def test_of_a_crowd_as_many_are_served_as_there_are_slots(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(admission_timeout_s=1_000) as node, contextlib.AsyncExitStack() as inside:
            await node.bus.report("english", "w", WorkerLoad(5, 5, 0, int(time.time()) + 1_000, "m"))
            await nodes.wait_until(lambda: node.ingress._pools.room("english") == 5)
            clients = await asyncio.gather(*(inside.enter_async_context(node.client()) for _ in range(20)))
            told = [json.loads(text) for text in await asyncio.gather(*(client.recv() for client in clients))]
            assert Counter(message.get("error_code", message["type"]) for message in told) == {
                "Begin": 5,
                3009: 15,
            }

    run(scenario())


def test_some_may_queue_for_a_slot(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(admission_timeout_s=0.5, admission_queue=1) as node:
            await node.bus.report("english", "w", WorkerLoad(1, 1, 0, int(time.time()) + 1_000, "m"))
            await nodes.wait_until(lambda: node.ingress._pools.room("english") == 1)
            async with node.client() as first:
                await begin(first)
                node.worker.takes = False
                await nodes.wait_until(lambda: not node.worker.taking)
                async with node.client() as queued:
                    await nodes.wait_until(lambda: len(node.ingress._clients) == 2)
                    async with node.client() as third:
                        assert await rest(third) == error(3009, FULL)
                    assert await rest(queued) == error(3009, FULL), "in the end, too"

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# who may connect

INVALID_KEY = "Unauthorized Connection: Invalid API key"


@pytest.mark.parametrize("place", ["header", "query"])
@pytest.mark.parametrize("presented", ["alpha", "token"])
def test_keys_and_their_tokens_get_in(run, nodes: Nodes, place: str, presented: str):
    async def scenario() -> None:
        async with nodes(api_keys="alpha,beta") as node:
            text = minted(node, "alpha") if presented == "token" else presented
            target = "/" if place == "header" else f"/?token={text}"
            headers = {"Authorization": text} if place == "header" else {}
            async with node.client(target, additional_headers=headers) as client:
                await begin(client)

    run(scenario())


@pytest.mark.parametrize(
    "presented,text",
    [
        ("", "Unauthorized Connection: Missing Authorization header"),
        ("gamma", INVALID_KEY),
        ("Bearer alpha", INVALID_KEY),
        ("alpha,beta", INVALID_KEY),
        ("expired", "Unauthorized Connection: Signature has expired"),
        ("forged", INVALID_KEY),
    ],
)
def test_nobody_else_gets_in(run, nodes: Nodes, presented: str, text: str):
    async def scenario() -> None:
        async with nodes(api_keys="alpha,beta") as node:
            key = {
                "expired": minted(node, "alpha", expires_in_seconds=-1),
                "forged": minted(node, "alpha")[:-8] + "AAAAAAAA",
            }.get(presented, presented)
            async with node.client(**presenting(key)) as client:
                assert await rest(client) == error(1008, text)
            assert not node.worker.served

    run(scenario())


def test_a_session_lasts_no_longer_than_its_token_allows(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            async with node.client(**presenting(minted(node, "any"))) as client:
                assert (await begin(client))["expires_at"] == pytest.approx(time.time() + 60, abs=5)
            token = minted(node, "any", max_session_duration_seconds=1)
            async with node.client(**presenting(token)) as client:
                await begin(client)
                messages, code, _ = await rest(client)
                assert code == 3008
                assert "Maximum session duration exceeded" in messages[-1]["error"]

    run(scenario())


def test_a_token_does_not_prolong_what_the_node_allows(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_session_s=30) as node, node.client(**presenting(minted(node, "any"))) as client:
            assert (await begin(client))["expires_at"] == pytest.approx(time.time() + 30, abs=5)

    run(scenario())


def test_a_key_taken_away_ends_no_session_and_starts_none(
    run, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "WATCH_S", 0.02)
    keys = tmp_path / "keys"
    keys.write_text("alpha\n")

    async def scenario() -> None:
        async with nodes(api_keys_file=keys) as node, node.client(**presenting("alpha")) as client:
            await begin(client)
            before = node.ingress._access.credentials
            keys.write_text("beta\n")
            await nodes.wait_until(lambda: node.ingress._access.credentials is not before)
            async with node.client(**presenting("alpha")) as late:
                assert await rest(late) == error(1008, INVALID_KEY)
            async with node.client(**presenting("beta")) as other:
                await begin(other)
            await client.send(FRAME)
            await client.send(TERMINATE)
            assert (await rest(client))[1] == 1000

    run(scenario())


def test_logs_name_the_key_and_never_show_it(
    run, nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    keys = tmp_path / "keys"
    keys.write_text("s3cret-key name=customer sessions=1\n")

    async def scenario() -> str:
        async with nodes(api_keys_file=keys) as node:
            token = minted(node, "s3cret-key")
            async with node.client(**presenting("s3cret-key")) as client:
                await begin(client)
                async with node.client(f"/?token={token}", additional_headers={}) as second:
                    assert await rest(second) == error(3009, FULL)
            async with node.client(**presenting("s3cret-wrong")) as client:
                await rest(client)
            await node.get("/v3/token?expires_in_seconds=9", {"Authorization": "s3cret-key"})
            return token

    with caplog.at_level(logging.DEBUG):
        token = run(scenario())
    ours = [record for record in caplog.records if record.name.startswith(("ingress", "wire"))]
    told = "\n".join(str(vars(record)) for record in ours)
    assert "customer" in told
    digest = hashlib.sha256(b"s3cret-key").hexdigest()
    assert not any(secret in told for secret in ("s3cret", token, token[-20:], digest[:16]))


# ---------------------------------------------------------------------------------------------------------------------
# licence and usage


def test_nobody_is_admitted_before_a_licence_was_validated(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes(license_required=True, ready=False) as node:
            await wait_until(lambda: node.ingress._reach.ready)
            status, body = await node.get("/v3/ws/health")
            assert (status, json.loads(body)["status"]) == (503, "unlicensed")
            assert not node.probe.ready
            unvalidated = error(3005, "Session Cancelled: The server's license has not been validated")
            async with node.client() as client:
                assert await rest(client) == unvalidated
            await licensed(node, wait_until, state=LicenseState.READY)
            async with node.client() as client:
                assert await rest(client) == unvalidated
            await licensed(node, wait_until)
            await wait_until(lambda: node.probe.ready)
            await node.bus.join("english")
            async with node.client() as client:
                await begin(client)

    run(scenario())


def test_a_pool_that_is_not_licensed_is_refused_by_name(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as node:
            await licensed(node, wait_until)
            await node.bus.join("multilang")
            async with node.client("/v3/ws?speech_model=whisper-rt") as client:
                refused = error(
                    1008, "Unauthorized Connection: The license does not include the pool 'multilang'"
                )
                assert await rest(client) == refused

    run(scenario())


def test_what_a_session_has_used_is_written(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as node:
            await licensed(node, wait_until)
            async with node.client() as client:
                name = (await begin(client))["id"]
                for _ in range(20):
                    await client.send(FRAME)
                await client.send(TERMINATE)
                await rest(client)
            accounts = Accounts(node.bus)
            await wait_until(accounts.usage_records)
            [record] = await accounts.usage_records()
            assert (record.session, record.audio_ms, record.over) == (name, 1000, True)
            assert (record.pool, record.model) == ("english", "universal-streaming-english")

    run(scenario())


def test_a_failed_licence_lets_sessions_finish_then_ends_them_and_the_node(run, nodes: Nodes, wait_until):
    refused = error(3005, "Session Cancelled: The server's license is not valid")

    async def life(told: list[Any]) -> None:
        async with nodes(license_grace_s=1, drain_grace_s=60) as node:
            await licensed(node, wait_until)
            async with node.client() as client:
                await begin(client)
                await client.send(FRAME)
                await licensed(node, wait_until, state=LicenseState.FAILED, reason="not paid")
                async with node.client() as late:
                    assert await rest(late) == refused
                await client.send(FRAME)
                await wait_until(lambda: len(only(node.worker).pcm) == 2 * len(FRAME))  # it goes on
                told.append(await rest(client))
            told.append(await Accounts(node.bus).usage_records())

    async def scenario() -> None:
        told: list[Any] = []
        with pytest.raises(ExceptionGroup) as caught:
            await life(told)
        assert caught.group_contains(LicenseError, match="not paid")
        messages, code, _ = told[0]
        assert (messages[-1], code) == (refused[0][0], 3005)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# a session


def test_audio_in_words_out_termination_close(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            for _ in range(20):
                await client.send(FRAME)
            await client.send(TERMINATE)
            messages, code, reason = await rest(client)
            assert [message["type"] for message in messages] == ["Turn", "Termination"]
            assert messages[0]["transcript"] == "16000 samples"
            assert messages[1]["audio_duration_seconds"] == 1
            assert (code, reason) == (1000, REASON_ENDED)
            assert bytes(only(node.worker).pcm) == FRAME * 20

    ended, seconds = count(metrics.SESSIONS_TOTAL, outcome="ended"), count(metrics.AUDIO_SECONDS)
    run(scenario())
    assert count(metrics.SESSIONS_TOTAL, outcome="ended") == ended + 1
    assert count(metrics.AUDIO_SECONDS) == pytest.approx(seconds + 1)


def test_audio_before_begin_counts(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            node.worker.takes = False
            async with node.client() as client:
                for _ in range(5):
                    await client.send(FRAME)
                await client.send(TERMINATE)
                await nodes.wait_until(lambda: node.ingress._outbox.pending_bytes == 0)
                node.worker.takes = True
                await begin(client)
                messages, code, _ = await rest(client)
                assert (messages[0]["transcript"], code) == ("4000 samples", 1000)

    run(scenario())


def test_other_rates_arrive_at_16_khz(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client("/?sample_rate=8000") as client:
            await begin(client)
            for _ in range(9):
                await client.send(bytes(801))  # odd
            await client.send(TERMINATE)
            messages, _, _ = await rest(client)
            assert messages[0]["transcript"] == f"{801 * 9 // 2 * 2} samples"

    run(scenario())


def test_orders_stand_in_the_log_where_the_client_put_them(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            await client.send(FRAME)
            await client.send('{"type":"ForceEndpoint"}')
            await client.send(FRAME)
            await client.send('{"max_turn_silence":700,"type":"UpdateConfiguration"}')
            await client.send(TERMINATE)
            await rest(client)
            controls = only(node.worker).controls
            assert [(control.order, control.position) for control in controls] == [
                (Order.FORCE_ENDPOINT, 800),
                (Order.CONFIGURE, 1600),
                (Order.TERMINATE, 1600),
            ]
            assert controls[1].fields is not None
            assert controls[1].fields["max_turn_silence"] == 700

    run(scenario())


def test_many_sessions_each_get_their_own_words(run, nodes: Nodes):
    async def talk(node: Node, number: int) -> None:
        async with node.client() as client:
            await begin(client)
            for _ in range(5):
                await client.send(bytes([number]) * 1600)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == (f"all {number}", 1000)

    async def scenario() -> None:
        async with nodes() as node:
            node.worker.hears = lambda pcm: (
                f"all {pcm[0]}" if len(set(pcm)) == 1 and len(pcm) == 8000 else "mixed"
            )
            async with asyncio.TaskGroup() as tasks:
                for number in range(50):
                    tasks.create_task(talk(node, number))

    run(scenario())


def names(tasks: set[asyncio.Task[Any]]) -> list[str]:
    return [task.get_coro().__qualname__ for task in tasks]  # type: ignore[union-attr]


def test_a_session_costs_one_task(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, contextlib.AsyncExitStack() as clients:
            await begin(await clients.enter_async_context(node.client()))
            before = asyncio.all_tasks()
            for _ in range(10):
                await begin(await clients.enter_async_context(node.client()))
            await nodes.wait_until(
                lambda: names(asyncio.all_tasks() - before) == ["Server.conn_handler"] * 10
            )

    run(scenario())


def test_a_client_that_vanishes(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            async with node.client() as client:
                await begin(client)
                await client.send(FRAME)
                client.transport.abort()
            await nodes.wait_until(lambda: only(node.worker).orders == [Order.ABANDON])

    gone = count(metrics.SESSIONS_TOTAL, outcome="gone")
    run(scenario())
    assert count(metrics.SESSIONS_TOTAL, outcome="gone") == gone + 1


def test_a_client_that_leaves_before_anyone_took_it(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            node.worker.takes = False
            async with node.client() as client:
                await client.send(FRAME)
                await nodes.wait_until(lambda: waits(node))
            await nodes.wait_until(lambda: nothing_waits(node))
            node.worker.takes = True
            async with node.client() as client:
                await begin(client)
            assert len(node.worker.served) == 1, "the one who left was not served"

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# the worker's events


def test_a_worker_that_gives_up(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node, node.client() as client:
            await begin(client)
            await node.worker.say(only(node.worker).session, Event.FAILED, "Session Cancelled: no luck")
            assert await rest(client) == error(3005, "Session Cancelled: no luck")

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# faults


def test_logs_tell_the_session_but_no_secret_and_no_speech(
    run, nodes: Nodes, caplog: pytest.LogCaptureFixture
):
    async def scenario() -> None:
        headers = {"Authorization": "s3cret-key"}
        async with nodes() as node, node.client("/?token=t0ken", additional_headers=headers) as client:
            await begin(client)
            node.worker.hears = lambda _: "confidential words"
            await client.send(FRAME)
            await client.send(TERMINATE)
            await rest(client)

    with caplog.at_level(logging.DEBUG):
        run(scenario())
    ours = [record for record in caplog.records if record.name.startswith("ingress")]
    assert {"Session opened", "Session ended"} <= {record.message for record in ours}
    told = "\n".join(str(vars(record)) for record in ours)
    assert not any(secret in told for secret in ("s3cret", "t0ken", "confidential"))


# ---------------------------------------------------------------------------------------------------------------------
# pools, webhooks, long requests


def test_a_model_that_nobody_serves_is_refused_at_once_with_what_is_deployed(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes() as node:
            await node.bus.report("english", "w", WorkerLoad(4, 4, 0, int(time.time()) + 60, "m"))
            await nodes.wait_until(lambda: node.ingress._pools.served(node.ingress._now()))
            async with node.client("/?speech_model=universal-3-5-pro") as client:
                messages, code, _ = await rest(client)
            assert (len(messages), messages[0]["error_code"], code) == (1, 3006, 3006)
            assert "needs the pool 'u3pro'" in messages[0]["error"]
            assert "Deployed: english" in messages[0]["error"]
            async with node.client("/?language=en") as client:
                await begin(client)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# whatever a client does

#: Close codes that protocol 6.1 knows for what these clients do.
DOCUMENTED = {1000, 1008, 1009, 3005, 3006, 3007, 3009}
MOVES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [FRAME, FRAME * 10, FRAME * 25, bytes(140_000), TERMINATE, "", "[]", "{", '{"type":"?"}']
    ),
    st.sampled_from(
        [
            '{"type":"ForceEndpoint"}',
            '{"type": "KeepAlive"}',
            '{"min_turn_silence":1,"type":"UpdateConfiguration"}',
            '{"type":"UpdateConfiguration","vad_threshold":"loud"}',
            '{"type":"UpdateConfiguration","session_heartbeat":true,"keyterms_prompt":[]}',
            '{"type":"UpdateConfiguration","agent_context":"\\ud800"}',
            '{"type":"UpdateConfiguration","keyterms_prompt":["\\ud800"]}',
        ]
    ),
    st.text(max_size=20),
    st.just("ping"),
)
ENDS = st.sampled_from(["terminate", "close", "vanish", "stay"])
QUERIES = st.sampled_from(
    [
        "",
        "?encoding=opus",
        "?encoding=aac",
        "?encoding=ogg_opus",
        "?sample_rate=8000",
        "?sample_rate=1",
        "?token=",
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(QUERIES, st.lists(MOVES, max_size=8), ENDS), min_size=1, max_size=4))
def test_whatever_clients_do_they_get_a_documented_close_and_leave_nothing(
    run, nodes: Nodes, caplog: pytest.LogCaptureFixture, clients: list[tuple[str, list[str | bytes], str]]
):
    async def play(node: Node, query: str, moves: list[str | bytes], end: str) -> None:
        try:
            async with node.client(f"/{query}") as client:
                for move in moves:
                    await (client.ping() if move == "ping" else client.send(move))
                if end == "vanish":
                    client.transport.abort()
                    return
                if end == "close":
                    await client.close()
                    return
                if end == "terminate":
                    await client.send(TERMINATE)
                    messages, code, _ = await rest(client)
                    assert code in DOCUMENTED
                    last = messages[-1] if messages else {}
                    assert code in (1000, 1009) or (last.get("type"), last.get("error_code")) == (
                        "Error",
                        code,
                    )
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            assert closed.rcvd.code in DOCUMENTED

    async def begun(node: Node) -> None:
        """All of the node's loops run, and so does the worker."""
        async with node.client() as client:
            await begin(client)
        await nodes.wait_until(lambda: not node.ingress._clients)

    async def scenario() -> None:
        async with nodes() as node:
            await begun(node)
            before = len(asyncio.all_tasks())
            async with asyncio.TaskGroup() as tasks:
                for query, moves, end in clients:
                    tasks.create_task(play(node, query, moves, end))
            await nodes.wait_until(lambda: not node.ingress._clients)
            await nodes.wait_until(lambda: len(asyncio.all_tasks()) <= before)

    caplog.clear()
    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# the end


def test_a_drain_lets_sessions_end(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(drain_grace_s=30) as node, node.client() as client:
            await begin(client)
            node.drain.set()
            await nodes.wait_until(lambda: node.ingress._draining)
            status, body = await node.get("/v3/ws/health")
            assert (status, json.loads(body)["status"]) == (503, "draining")
            async with node.client() as late:
                assert await rest(late) == error(3005, "Session Cancelled: The server is shutting down")
            await client.send(FRAME)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == ("800 samples", 1000)

    run(scenario())


def test_a_drain_does_not_wait_for_ever(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(drain_grace_s=0.2) as node, node.client() as client:
            await begin(client)
            node.drain.set()
            assert await rest(client) == error(3005, "Session Cancelled: The server is shutting down")
            await nodes.wait_until(lambda: only(node.worker).orders == [Order.ABANDON])

    run(scenario())


def test_the_service_serves_until_drained(run, redis_url: str, namespace: str, free_port, wait_until):
    async def scenario() -> None:
        drain, probe, port = asyncio.Event(), Probe("127.0.0.1", 0), free_port()
        where: dict[str, Any] = {
            "redis_url": redis_url,
            "namespace": namespace,
            "host": "127.0.0.1",
            "port": port,
        }
        settings = IngressSettings(license_required=False, **where)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(settings, drain, probe))
            await wait_until(lambda: probe.ready)
            async with connect(f"ws://127.0.0.1:{port}") as client:
                assert (await rest(client))[1] == 1008
            drain.set()
        assert not probe.ready

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# recordings, replays


@pytest.mark.parametrize(
    "record,query,told",
    [
        (Record.OFF, "", None),
        (Record.OFF, "?record=true", False),
        (Record.ASK, "?record=true", True),
        (Record.ALL, "", True),
        (Record.ALL, "?record=false", False),
    ],
)
def test_who_is_recorded_is_told_in_begin(run, nodes: Nodes, wait_until, record, query, told):
    async def scenario() -> None:
        async with nodes(record=record) as node:
            async with node.client(f"/v3/ws{query}") as client:
                begun = await begin(client)
                assert begun["configuration"].get("recorded") is told
                await client.send(FRAME)
                await client.send(TERMINATE)
                await rest(client)
            assert (OFFER_RECORDED in only(node.worker).lease.offer.params) is bool(told)
            archive = Archive(node.bus)
            if not told:
                assert await archive.listing() == []
                return

            async def over() -> bool:
                return all(one.end for one in await archive.listing())

            await wait_until(over)
            recording = await archive.load(begun["id"])
            assert recording.pcm == FRAME
            assert [message.type for message in recording.messages] == ["Begin", "Turn", "Termination"]
            assert recording.end is not None
            assert (recording.end.outcome, recording.end.audio_ms) == ("ended", 50)
            assert recording.facts.params["speech_model"] == DEFAULT_MODEL

    run(scenario())

"""`ingress.moving`: sessions go on over another connection, on this node and on another."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection

from tests.fakes import ScriptedWorker, Served
from tests.nodes import FRAME, TERMINATE, Node, Nodes, begin, error, licensed, only, rest
from wire.accounts import Accounts
from wire.archive import Archive
from wire.entries import Event, Order
from wire.recorded import Connection

NO_RESUMPTION = error(1008, "Unauthorized Connection: Session cannot be resumed")


def again(begun: Mapping[str, Any], last_sequence: int) -> str:
    """The target that goes on with a session."""
    token = begun["configuration"]["resume_token"]
    query = {"session_id": begun["id"], "resume_token": token, "last_sequence": last_sequence}
    return f"/v3/ws?{urlencode(query)}"


def test_a_client_that_was_cut_off_goes_on_where_it_was(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as node:
            async with node.client("/v3/ws?resumable=true") as first:
                begun = await begin(first)
                assert begun["sequence"] == 1
                await first.send(FRAME)
                await wait_until(lambda: len(only(node.worker).pcm) == len(FRAME))
                first.transport.abort()
                await first.wait_closed()
            session = node.ingress._clients[begun["id"]].session
            await wait_until(lambda: session._lost)
            await node.worker.say_turn(begun["id"], "while you were away")
            await wait_until(lambda: session._replay and session._replay.sequence == 2)
            async with node.client(again(begun, 1)) as second:
                place = json.loads(await second.recv())
                assert place["type"] == "Resumed"
                assert (place["messages_received"], place["audio_bytes_received"]) == (1, len(FRAME))
                missed = json.loads(await second.recv())
                assert (missed["sequence"], missed["transcript"]) == (2, "while you were away")
                await second.send(FRAME)
                await second.send(TERMINATE)
                messages, code, _ = await rest(second)
            told = [(message["type"], message["sequence"]) for message in messages]
            assert (told, code) == ([("Turn", 3), ("Termination", 4)], 1000)
            assert only(node.worker).pcm == FRAME * 2
            await wait_until(lambda: not node.ingress._clients)

    run(scenario())


def test_the_newer_connection_wins_and_the_older_can_say_nothing(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as node, node.client("/v3/ws?resumable=true") as first:
            begun = await begin(first)
            first.transport.pause_reading()  # it does not know yet
            async with node.client(again(begun, 1)) as second:
                assert json.loads(await second.recv())["messages_received"] == 0
                await first.send(bytes(len(FRAME)))
                first.transport.resume_reading()
                moved = "Session Cancelled: The session goes on over a newer connection"
                assert await rest(first) == error(3006, moved)
                await second.send(FRAME)
                await second.send(TERMINATE)
                assert (await rest(second))[1] == 1000
            assert only(node.worker).pcm == FRAME

    run(scenario())


def test_nobody_else_can_resume(run, nodes: Nodes):
    async def scenario() -> None:
        async with (
            nodes(api_keys="mine,another") as node,
            node.client("/v3/ws?resumable=true", additional_headers={"Authorization": "mine"}) as mine,
        ):
            begun = await begin(mine)
            forged = begun | {"configuration": {"resume_token": "guessed"}}
            wanted = [
                ("mine", again(forged, 1)),
                ("mine", again(begun | {"id": "another session"}, 1)),
                ("mine", again(begun, 2)),  # it was never told so much
                ("another", again(begun, 1)),
            ]
            for key, target in wanted:
                async with node.client(target, additional_headers={"Authorization": key}) as other:
                    assert await rest(other) == NO_RESUMPTION
            await mine.send(TERMINATE)
            assert (await rest(mine))[1] == 1000

    run(scenario())


def test_a_client_that_does_not_come_back_in_time_has_gone(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes(resume_window_s=0.05) as node:
            async with node.client("/v3/ws?resumable=true") as first:
                begun = await begin(first)
                first.transport.abort()
                await first.wait_closed()
            await wait_until(lambda: not node.ingress._clients)
            await wait_until(lambda: Order.ABANDON in only(node.worker).orders)
            await wait_until(lambda: begun["id"] not in node.ingress._keeper)
            async with node.client(again(begun, 1)) as late:
                assert await rest(late) == NO_RESUMPTION

    run(scenario())


def test_a_client_that_says_goodbye_is_not_waited_for(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as node:
            async with node.client("/v3/ws?resumable=true") as first:
                await begin(first)
            await wait_until(lambda: not node.ingress._clients)

    run(scenario())


def serving(*nodes: Node) -> tuple[ScriptedWorker, Served]:
    """The worker that has the only session, and the session."""
    [found] = [(node.worker, served) for node in nodes for served in node.worker.served.values()]
    return found


async def lost_after_a_turn(
    client: ClientConnection, wait_until: Any, *nodes: Node
) -> tuple[dict[str, Any], ScriptedWorker, Served]:
    """The session has begun, spoken one frame, been told one turn, and lost its connection. Its Begin, its worker, and
    the session there.
    """
    begun = await begin(client)
    worker, served = serving(*nodes)
    await client.send(FRAME)
    await wait_until(lambda: len(served.pcm) == len(FRAME))
    await worker.say_turn(begun["id"], "before")
    assert json.loads(await client.recv())["sequence"] == 2
    client.transport.abort()
    await client.wait_closed()
    return begun, worker, served


def test_a_client_that_comes_back_to_another_node_goes_on_there(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as old, nodes() as new:
            async with old.client("/v3/ws?resumable=true") as first:
                begun, worker, served = await lost_after_a_turn(first, wait_until, old, new)
            await wait_until(lambda: old.ingress._clients[begun["id"]].session._lost)
            await worker.say_turn(begun["id"], "while you were away")
            async with new.client(again(begun, 2)) as second:
                place = json.loads(await second.recv())
                assert (place["type"], place["id"]) == ("Resumed", begun["id"])
                assert (place["messages_received"], place["audio_bytes_received"]) == (1, len(FRAME))
                missed = json.loads(await second.recv())
                assert (missed["sequence"], missed["transcript"]) == (3, "while you were away")
                await wait_until(lambda: not old.ingress._clients)
                await worker.say_turn(begun["id"], "here")
                assert json.loads(await second.recv())["sequence"] == 4
                await second.send(FRAME)
                await second.send(TERMINATE)
                messages, code, _ = await rest(second)
            told = [(message["type"], message["sequence"]) for message in messages]
            assert (told, code) == ([("Turn", 5), ("Termination", 6)], 1000)
            assert served.pcm == FRAME * 2
            await wait_until(lambda: not new.ingress._clients)

    run(scenario())


def test_a_session_that_went_on_elsewhere_is_left_alone(run, nodes: Nodes, wait_until):
    """The old node has still a connection: it is told, and what comes over it is not heard. Then back again."""

    async def scenario() -> None:
        async with nodes() as old, nodes() as new, old.client("/v3/ws?resumable=true") as first:
            begun = await begin(first)
            _, served = serving(old, new)
            async with new.client(again(begun, 1)) as second:
                assert json.loads(await second.recv())["type"] == "Resumed"
                moved = "Session Cancelled: The session goes on over a newer connection"
                assert await rest(first) == error(3006, moved)
                assert not old.ingress._clients
                assert begun["id"] not in old.ingress._keeper
                await second.send(FRAME)
                await wait_until(lambda: served.pcm == FRAME)
                async with old.client(again(begun, 1)) as third:
                    assert json.loads(await third.recv())["messages_received"] == 1
                    assert (await rest(second))[1] == 3006
                    await third.send(TERMINATE)
                    messages, code, _ = await rest(third)
            assert ([message["sequence"] for message in messages], code) == ([2, 3], 1000)
            assert served.orders == [Order.TERMINATE]

    run(scenario())


def test_the_end_is_told_by_another_node_too(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as old, nodes() as new:
            async with old.client("/v3/ws?resumable=true") as first:
                begun = await begin(first)
                worker, _ = serving(old, new)
                first.transport.abort()
                await first.wait_closed()
            await worker.say(begun["id"], Event.FAILED, "An error occurred")
            await wait_until(lambda: begun["id"] not in old.ingress._keeper)
            async with new.client(again(begun, 1)) as second:
                assert json.loads(await second.recv())["type"] == "Resumed"
                messages, code, _ = await rest(second)
                assert [message["sequence"] for message in messages] == [2]
                assert (messages[0]["error"], code) == ("An error occurred", 3005)
            await wait_until(lambda: not old.ingress._clients and not new.ingress._clients)

    run(scenario())


def test_nobody_else_can_resume_on_another_node(run, nodes: Nodes):
    async def scenario() -> None:
        keys: dict[str, Any] = {"api_keys": "mine,another"}
        mine: dict[str, Any] = {"additional_headers": {"Authorization": "mine"}}
        async with (
            nodes(**keys) as old,
            nodes(**keys) as new,
            old.client("/v3/ws?resumable=true", **mine) as first,
        ):
            begun = await begin(first)
            forged = begun | {"configuration": {"resume_token": "guessed"}}
            for key, target in (
                ("mine", again(forged, 1)),
                ("another", again(begun, 1)),
                ("mine", again(begun, 7)),
            ):
                async with new.client(target, additional_headers={"Authorization": key}) as other:
                    messages, code, reason = await rest(other)
                    assert (messages[-1:], code, reason) == NO_RESUMPTION

    run(scenario())


def test_a_recording_goes_on_with_its_session_and_ends_with_it(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes(record="all") as old, nodes(record="all") as new:
            archive = Archive(old.bus)
            async with old.client("/v3/ws?resumable=true") as first:
                begun, _, _ = await lost_after_a_turn(first, wait_until, old, new)
            async with new.client(again(begun, 2)) as second:
                assert json.loads(await second.recv())["type"] == "Resumed"
                await second.send(FRAME)
                await second.send(TERMINATE)
                assert (await rest(second))[1] == 1000

            async def ended() -> bool:
                return (await archive.load(begun["id"])).end is not None

            await wait_until(ended)
            await wait_until(lambda: not old.ingress._clients)
            found = await archive.load(begun["id"])
        kinds = [message.type for message in found.messages]
        assert (kinds, found.transcript) == (["Begin", "Turn", "Turn", "Termination"], "before\n1600 samples")
        assert (found.pcm, found.gaps, len(found.frames)) == (FRAME * 2, (), 2)
        assert [item.happened for item in found.of(Connection)] == ["lost", "resumed", "closed"]
        assert found.end is not None
        assert (found.end.outcome, found.end.audio_ms) == ("ended", 100)
        assert found.faults == ()
        assert begun["configuration"]["resume_token"] not in str(found.items)

    run(scenario())


def test_usage_of_a_session_that_moved_is_told_once(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as old, nodes() as new:
            for node in (old, new):
                await licensed(node, wait_until, max_sessions=0)
            async with old.client("/v3/ws?resumable=true") as first:
                begun = await begin(first)
                await first.send(FRAME)
                await wait_until(lambda: len(serving(old, new)[1].pcm) == len(FRAME))
                async with new.client(again(begun, 1)) as second:
                    await second.recv()
                    await second.send(FRAME)
                    await second.send(TERMINATE)
                    assert (await rest(second))[1] == 1000
            await wait_until(lambda: not new.ingress._dues._laps and not old.ingress._dues._laps)
            records = await wait_until(lambda: Accounts(old.bus).usage_records())
            assert [(record.session, record.audio_ms, record.over) for record in records] == [
                (begun["id"], 100, True)
            ]

    run(scenario())


def test_a_node_that_drains_sends_resumable_clients_away_and_lets_others_finish(
    run, nodes: Nodes, wait_until
):
    async def scenario() -> None:
        async with nodes(drain_grace_s=600) as old, nodes() as new:
            async with old.client("/v3/ws?resumable=true") as first, old.client() as other:
                begun = await begin(first)
                await begin(other)
                old.drain.set()
                assert await rest(first) == ([], 1012, "Service Restart: resume the session")
                async with old.client(again(begun, 1)) as early:
                    assert (await rest(early))[1] == 3005  # not here
                async with new.client(again(begun, 1)) as second:
                    assert json.loads(await second.recv())["type"] == "Resumed"
                    await wait_until(lambda: len(old.ingress._clients) == 1)
                    await second.send(TERMINATE)
                    assert (await rest(second))[1] == 1000
                await other.send(TERMINATE)
                assert (await rest(other))[1] == 1000
            await wait_until(lambda: not old.ingress._clients)

    run(scenario())


def test_who_finds_no_other_node_may_come_back_to_the_one_that_drains(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes(drain_grace_s=600, resume_window_s=4) as node:
            async with node.client("/v3/ws?resumable=true") as first:
                begun = await begin(first)
                node.drain.set()
                assert (await rest(first))[1] == 1012

            async def taken_back() -> bool:
                async with node.client(again(begun, 1)) as back:
                    if json.loads(await back.recv())["type"] != "Resumed":
                        return False
                    await back.send(TERMINATE)
                    return (await rest(back))[1] == 1000

            await wait_until(taken_back)

    run(scenario())

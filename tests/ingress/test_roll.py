"""`ingress.roll`: who is here, told as they come and go."""

import asyncio

from ingress.session import State
from tests.nodes import Nodes, begin, count, rest
from wire import metrics


def test_sessions_are_on_the_roll_from_their_begin_to_their_end(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        ended = count(metrics.SESSIONS_TOTAL, outcome="ended")
        async with nodes() as node, node.client() as one, node.client() as other:
            roll = node.ingress._roll
            names = {(await begin(client))["id"] for client in (one, other)}
            assert set(roll.clients) == names
            assert not roll.deserted.is_set()
            assert count(metrics.SESSIONS_OPEN) == 2
            client = roll.clients[names.pop()]
            assert client.alive
            await one.send('{"type": "Terminate"}')
            await rest(one)
            await wait_until(lambda: len(roll.clients) == 1)
            assert not roll.deserted.is_set()
            await other.send('{"type": "Terminate"}')
            await rest(other)
            async with asyncio.timeout(10):
                await roll.deserted.wait()
            assert (client.session.state, client.alive) == (State.CLOSED, False)
            assert count(metrics.SESSIONS_OPEN) == 0
            assert count(metrics.SESSIONS_TOTAL, outcome="ended") == ended + 2

    run(scenario())

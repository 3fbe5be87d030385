"""A recording played to an app: the same messages, with their pauses or without."""

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cli.replay_play import HOST, CannotPlay, Player
from tests.recorded import EVENTFUL, recording
from wire.recordings import Recording


async def listen(url: str, *says: str | bytes, hear: int = 0) -> tuple[list[str], int]:
    """What a client hears that says these after `hear` messages; the close code."""
    heard: list[str] = []
    async with connect(url, proxy=None) as client:
        try:
            while True:
                if len(heard) == hear:
                    for message in says:
                        await client.send(message)
                heard.append(str(await client.recv()))
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return heard, closed.rcvd.code


def url_of(server) -> str:
    return f"ws://{HOST}:{next(iter(server.sockets)).getsockname()[1]}/v3/ws?sample_rate=16000"


def test_an_app_hears_what_the_client_heard(run):
    found, told = recording(more=EVENTFUL), list[str]()

    async def scenario() -> tuple[list[str], int]:
        async with await Player(found, fast=True, tell=told.append).listen(0) as server:
            first = await listen(url_of(server), bytes(100))
            assert first == await listen(url_of(server)), "as often as it likes"
            return first

    heard, code = run(scenario())
    assert heard == [message.item.text for message in found.messages]
    assert code == 1000
    assert told == ["a client connected", "its session is over"] * 2


def test_real_pauses_are_kept_until_the_app_terminates(run):
    found = recording()
    slow = Recording(found.facts, items=tuple(found.items[:4]) + tuple(_later(found, 3_600)))

    async def scenario() -> None:
        async with await Player(slow, fast=False, tell=print).listen(0) as server:
            heard, code = await listen(url_of(server), "no json", "[]", '{"type": "Terminate"}', hear=1)
            assert json.loads(heard[0])["type"] == "Begin"
            assert (len(heard), code) == (2, 1000)

    run(scenario())


def _later(found: Recording, seconds: float):
    from dataclasses import replace

    final = found.finals[-1].item
    yield replace(final, at_s=final.at_s + seconds)


def test_a_client_that_leaves_harms_nobody(run, wait_until):
    told = list[str]()
    slow = Recording(recording().facts, items=(recording().messages[0].item, *_later(recording(), 3_600)))

    async def scenario() -> None:
        async with await Player(slow, fast=False, tell=told.append).listen(0) as server:
            async with connect(url_of(server), proxy=None) as client:
                await client.recv()
            await wait_until(lambda: told == ["a client connected", "its session is over"])

    run(scenario())


def test_nothing_to_play_and_nowhere_to_play_it(run, free_port):
    with pytest.raises(CannotPlay, match="told nothing"):
        Player(Recording(recording().facts), fast=True, tell=print)

    async def twice() -> None:
        player, port = Player(recording(), fast=True, tell=print), free_port()
        async with await player.listen(port):
            with pytest.raises(CannotPlay, match=f"port {port}"):
                await player.listen(port)

    run(twice())

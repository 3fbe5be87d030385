"""`cli.bench_inside`: an ingress in this process, and clients that it does not pay for."""

import asyncio

import pytest

from cli import bench_inside, bench_scripted
from wire.archive import Archive
from wire.errors import StackError
from wire.keys import Keys
from wire.streams import Bus


def test_only_those_speak_who_are_told_to_and_only_who_asks_is_recorded(
    redis_url, namespace, wait_until
) -> None:
    settings = {"record": "ask", "namespace": namespace}

    async def scenario() -> tuple[float, list[int]]:
        bus = Bus(redis_url, Keys(namespace))
        archive = Archive(bus)

        async def both() -> bool:
            return len(await archive.index()) == 2

        async with bench_inside.running(redis_url, 10, settings) as inside:
            await inside.enter("recorded", 2, "&record=true")
            await inside.enter("not", 2, "&record=false")
            await wait_until(both)
            took_s = await inside.speak("not", 0.2, 0.0)
            took_s += await inside.speak("recorded", 0.2, 0.0)
        sizes = [len((await archive.load(name)).frames) for name, _ in await archive.index()]
        await bus.close()
        return took_s, sizes

    with bench_scripted.running(redis_url, namespace):
        took_s, sizes = asyncio.run(scenario())
    assert took_s > 0
    assert sizes == [4, 4]


def test_who_is_hung_up_on_says_so(redis_url, namespace) -> None:
    async def scenario() -> None:
        settings = {"namespace": namespace, "admission_timeout_s": 0.1}  # and there is no worker
        async with bench_inside.running(redis_url, 10, settings) as inside:
            await inside.enter("alone", 1, "")
            await inside.speak("alone", 60.0, 0.0)

    with pytest.raises((StackError, BaseExceptionGroup)) as raised:
        asyncio.run(scenario())
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert "hung up" in str(error)

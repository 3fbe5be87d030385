"""`cli.bench_scripted`: the worker without a model serves a real session over a real Redis."""

from cli import bench_scripted
from tests.fakes import append
from wire.entries import AudioFrame, Control, Event, Offer, Order, SessionEvent
from wire.keys import Keys
from wire.params import SessionParams
from wire.streams import Bus


def test_a_session_is_taken_told_and_settled(run, redis_url: str, wait_until) -> None:
    async def scenario(bus: Bus) -> list[Event]:
        events = []
        await bus.offer(Offer("churned", "node", "english", SessionParams().for_worker()))
        second = AudioFrame(0, bytes(32_000))
        await append(bus, [("churned", second), ("churned", Control(Order.TERMINATE, 16_000))])
        async for found in bus.inbox("node", lost=lambda _: None):
            events += [event.event for event in found if isinstance(event, SessionEvent)]
            if Event.DONE in events:
                break
        await wait_until(lambda: waiting(bus))
        await bus.forget(["churned"])
        await bus.close()
        return events

    async def waiting(bus: Bus) -> bool:
        return await bus.waiting("english") == 0

    with bench_scripted.running(redis_url) as pid:
        assert pid > 0
        events = run(scenario(Bus(redis_url, Keys())))
    assert (events[0], events[-1]) == (Event.TAKEN, Event.DONE)
    assert Event.MESSAGE in events

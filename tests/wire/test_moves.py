"""Sessions on their way from node to node: who may write, what the next one finds, and that everything expires."""

from collections.abc import Callable

import pytest

from wire.entries import (
    AudioFrame,
    Checkpoint,
    Control,
    Event,
    Lease,
    Offer,
    Order,
    Publication,
    SessionEvent,
    pack_checkpoint,
)
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.moves import Keeping, Kept, Moves
from wire.streams import FORGOTTEN_TTL_S, Bus

FRAME = AudioFrame(0, bytes(1600))
TTL_S = 80.0


def keeping(moves: int = 0, node: str = "old", **news) -> Keeping:
    return Keeping("s", moves, node, TTL_S, **news)


async def logged(bus: Bus) -> list[object]:
    found = await bus.read({"s": b"0-0"})
    return [entry for _, entry in found["s"].entries] if found else []


async def lifetime_s(bus: Bus, key: bytes) -> int:
    return int(await bus._redis.ttl(key))


async def taken(bus: Bus, ingress: str = "old") -> Lease:
    await bus.join("english")
    await bus.offer(Offer("s", ingress, "english", {}))
    [lease] = await bus.take("english", "worker", 1, 100)
    return lease


def test_what_a_node_keeps_another_finds(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        assert await moves.find("s") is None
        end = Control(Order.FORCE_ENDPOINT, 800)
        first = keeping(
            who="{who}", place="{1}", entries=((1, FRAME), (2, end)), told=((1, "Begin"), (2, "Türn"))
        )
        assert await moves.keep([first]) == ([], [])
        assert await moves.keep([keeping(place="{2}", told=((3, "Turn"),))]) == ([], [])
        assert await moves.find("s") == Kept(0, "{who}", "{2}")
        assert await moves.told("s", 0) == [(1, "Begin"), (2, "Türn"), (3, "Turn")]
        assert await moves.told("s", 2) == [(3, "Turn")]
        assert await logged(bus) == [FRAME, end]
        for key in (bus.keys.resume("s"), bus.keys.told("s"), bus.keys.audio("s")):
            assert 0 < await lifetime_s(bus, key) <= TTL_S

    run(scenario())


def test_what_is_written_again_is_told_once(run, bus: Bus):
    """Its first answer was lost."""

    async def scenario() -> None:
        moves = Moves(bus)
        for _ in range(2):
            await moves.keep([keeping(who="{who}", place="{}", told=((1, "Begin"),))])
        assert await moves.told("s", 0) == [(1, "Begin")]

    run(scenario())


def test_a_node_that_a_session_has_left_can_write_nothing(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        lease = await taken(bus)
        await moves.keep([keeping(who="{who}", place="{1}", told=((1, "Begin"),))])
        assert await moves.move("s", 0, "new", TTL_S) == ("{1}", "old")
        late = keeping(place="{9}", entries=((3, Control(Order.ABANDON, 0)),), told=((2, "late"),))
        assert await moves.keep([late]) == (["s"], [])
        assert await moves.release({"s": 0}) == ["s"]
        assert await logged(bus) == []
        assert await moves.find("s") == Kept(1, "{who}", "{1}")
        assert await moves.told("s", 0) == [(1, "Begin")]
        assert await lifetime_s(bus, bus.keys.state("s")) > FORGOTTEN_TTL_S
        assert await moves.keep([keeping(1, "new", place="{2}", entries=((1, FRAME),))]) == ([], [])
        assert await logged(bus) == [FRAME]
        await bus.settle("english", "worker", [lease])

    run(scenario())


def test_a_session_moves_to_one_node_only(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        assert await moves.move("s", 0, "new", TTL_S) is None
        await moves.keep([keeping(who="{who}", place="{1}")])
        assert await moves.move("s", 0, "new", TTL_S) is not None
        assert await moves.move("s", 0, "newer", TTL_S) is None
        assert await moves.move("s", 1, "newer", TTL_S) == ("{1}", "new")

    run(scenario())


def test_events_follow_the_session(run, bus: Bus):
    """Those that the node before may not have heard are found, later ones come to the inbox of the next."""

    async def scenario() -> None:
        moves = Moves(bus)
        lease = await taken(bus)
        await moves.keep([keeping(who="{who}", place="{1}")])
        events = [SessionEvent("s", 1, number, Event.MESSAGE, text=f"{number}") for number in range(4)]
        for event in events[:3]:
            assert await bus.publish([Publication(lease, (event,))]) == []
        await moves.move("s", 0, "new", TTL_S)
        assert await bus.publish([Publication(lease, (events[3],))]) == []
        assert await moves.events("s", -1, -1) == events
        assert await moves.events("s", 1, 1) == events[2:]
        async for heard in bus.inbox("new"):
            assert heard == events[3:]
            break
        await moves.tell_moved("old", "s", 1)
        told = []
        async for heard in bus.inbox("old"):
            told += heard
            if len(told) == 4:
                break
        assert told[3] == SessionEvent("s", 1, 0, Event.MOVED)
        await bus.settle("english", "worker", [lease])

    run(scenario())


def test_a_redis_that_came_back_empty_asks_for_everything(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        assert await moves.keep([keeping(place="{5}")]) == ([], ["s"])
        assert await moves.find("s") is None
        await moves.keep([keeping(who="{who}", place="{5}")])
        assert await moves.find("s") == Kept(0, "{who}", "{5}")

    run(scenario())


def test_what_is_over_expires_but_what_was_told_is_there_for_who_comes_back(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        lease = await taken(bus)
        await moves.keep([keeping(who="{who}", place="{1}", entries=((1, FRAME),), told=((1, "Begin"),))])
        await moves.touch(["s"], 500)
        assert await lifetime_s(bus, bus.keys.state("s")) > 400
        assert await moves.release({"s": 0}) == []
        for key in (bus.keys.state("s"), bus.keys.audio("s")):
            assert await lifetime_s(bus, key) <= FORGOTTEN_TTL_S
        assert await lifetime_s(bus, bus.keys.told("s")) > 400
        await bus.settle("english", "worker", [lease])

    run(scenario())


def test_a_worker_knows_which_nodes_live(run, bus: Bus):
    async def scenario() -> None:
        moves = Moves(bus)
        assert await moves.living([]) == []
        await moves.beat("here", 15)
        assert await moves.living(["gone", "here"]) == [False, True]
        assert await moves.beat("here", 15) == 0
        await moves.bury(["gone", "here"])
        await moves.bury(["here"])
        assert await moves.beat("here", 15, seen=True) == 2
        assert await moves.living(["here"]) == [False]  # it should be seen, and is not
        assert 0 < await lifetime_s(bus, bus.keys.alive("here")) <= 15
        await moves.keep([keeping(who="{who}", place="{1}")])
        assert await moves.resumable(["s", "t"]) == [True, False]

    run(scenario())


def test_the_log_is_handed_on_with_its_numbers_and_its_checkpoint(run, bus, keys):
    async def scenario() -> None:
        moves = Moves(bus)
        assert (await moves.log("s")).last == 0
        await bus.join("english")
        offer_id = await bus.offer(Offer("s", "old", "english", {}))
        [lease] = await bus.take("english", "w", 1, 20)
        await moves.keep([keeping(entries=((1, FRAME), (2, FRAME)))])
        saved = Checkpoint(1, FRAME.end, "1-0", {})
        await bus.publish([Publication(lease, (), saved)])
        log = await moves.log("s")
        assert (log.generation, log.offer_id, log.last) == (lease.generation, offer_id, 2)
        assert (log.checkpoint, list(log.entries)) == (pack_checkpoint(saved), [(2, FRAME)])

    run(scenario())


CALLS = {
    "keep": lambda moves: moves.keep([keeping()]),
    "touch": lambda moves: moves.touch(["s"], 1),
    "release": lambda moves: moves.release({"s": 0}),
    "find": lambda moves: moves.find("s"),
    "move": lambda moves: moves.move("s", 0, "node", 1),
    "log": lambda moves: moves.log("s"),
    "told": lambda moves: moves.told("s", 0),
    "events": lambda moves: moves.events("s", -1, -1),
    "tell_moved": lambda moves: moves.tell_moved("node", "s", 1),
    "beat": lambda moves: moves.beat("node", 1),
    "living": lambda moves: moves.living(["node"]),
    "bury": lambda moves: moves.bury(["node"]),
    "resumable": lambda moves: moves.resumable(["s"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_without_redis_every_call_says_so(run, name: str, free_port: Callable[[], int]):
    assert set(CALLS) == {name for name in vars(Moves) if not name.startswith("_")}
    bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("nowhere"))
    with pytest.raises(BusUnavailable):
        run(CALLS[name](Moves(bus)))
    run(bus.close())

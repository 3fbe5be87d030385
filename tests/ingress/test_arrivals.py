"""A session is fetched by who may have it, with what its worker has said meanwhile, and by one node at a time."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from ingress.arrivals import Arrivals, Arrived
from ingress.carried import Place, Who, digest, pack
from ingress.credentials import Grant
from ingress.handshake import Resume
from ingress.session import Limits, Reply, Session, State
from wire.entries import Event, Lease, Offer, Publication, SessionEvent
from wire.errors import ClientError, Close
from wire.moves import Keeping, Moves
from wire.params import parse_query
from wire.streams import EVENT_LOG_ENTRIES, Bus

NAME = str(uuid.UUID(int=7))
PARAMS = parse_query([("resumable", "true")])
WHO = Who(
    {**PARAMS.for_worker(), "resumable": True}, None, 0, 9, 60.0, digest("token"), "key", "name", None, None
)
PLACE = Place("OPEN", "", 4, 6400, 3200, 3200, 4, 6400, 3200, 3200, 2, 1, 1, -1, 200)
WANTED = Resume(NAME, "token", 2, Grant(key="key"))
TURN = '{"turn_order":0,"type":"Turn"}'


def made(name: str, who: Who, token: str) -> Session:
    return Session(name, who.session_params(), Limits(), 0.0, who.expires_at, who.api_version, token)


def arrivals(bus: Bus, node: str = "new") -> Arrivals:
    return Arrivals(Moves(bus), node, 80.0, made, lambda: 1.0)


async def left_behind(bus: Bus, place: Place = PLACE, who: Who = WHO) -> Lease:
    """A session as its node left it, and its worker."""
    await bus.join("english")
    await bus.offer(Offer(NAME, "old", "english", {}))
    [lease] = await bus.take("english", "worker", 1, 100)
    told = ((1, '{"sequence":1,"type":"Begin"}'), (2, '{"sequence":2,"type":"Turn"}'))
    await Moves(bus).keep([Keeping(NAME, 0, "old", 80.0, pack(who), pack(place), (), told)])
    return lease


async def refused(bus: Bus, wanted: Resume) -> Close:
    with pytest.raises(ClientError) as error:
        await arrivals(bus).fetch(wanted)
    return error.value.code


def test_a_session_goes_on_with_what_the_node_before_did_not_hear(run, bus: Bus):
    async def scenario() -> None:
        lease = await left_behind(bus)
        events = [SessionEvent(NAME, 1, number, Event.MESSAGE, 0, number, True, TURN) for number in (1, 2)]
        await bus.publish([Publication(lease, events)])
        arrived = await arrivals(bus).fetch(WANTED)
        assert (arrived.moves, arrived.who, arrived.place, arrived.effects) == (1, WHO, PLACE, [])
        assert arrived.session.state is State.OPEN
        place, missed = arrived.session.resume(2, 1.0)
        assert isinstance(place, Reply)
        assert '"messages_received":4,"audio_bytes_received":6400' in place.text
        assert isinstance(missed, Reply)
        assert missed.text.startswith('{"sequence":3,')  # the event after the one that the place knows of
        await bus.settle("english", "worker", [lease])

    run(scenario())


@pytest.mark.parametrize(
    "changed",
    [
        {"token": "guessed"},
        {"grant": Grant(key="another")},
        {"session": str(uuid.UUID(int=8))},
        {"session": "*"},
    ],
)
def test_nobody_else_gets_it(run, bus: Bus, changed):
    async def scenario() -> None:
        lease = await left_behind(bus)
        assert await refused(bus, replace(WANTED, **changed)) is Close.UNAUTHORIZED
        kept = await Moves(bus).find(NAME)
        assert kept is not None
        assert kept.moves == 0
        await bus.settle("english", "worker", [lease])

    run(scenario())


@pytest.mark.parametrize(
    "place", [replace(PLACE, outcome="gone", state="CLOSED"), replace(PLACE, state="ELSEWHERE")]
)
def test_what_was_given_up_or_cannot_be_read_does_not_go_on(run, bus: Bus, place: Place):
    async def scenario() -> None:
        lease = await left_behind(bus, place)
        assert await refused(bus, WANTED) is Close.UNAUTHORIZED
        await bus.settle("english", "worker", [lease])

    run(scenario())


def test_two_who_come_at_once_get_it_once(run, bus: Bus):
    async def scenario() -> None:
        lease = await left_behind(bus)
        here, there = arrivals(bus), arrivals(bus, "newer")
        found = await asyncio.gather(
            *(each.fetch(WANTED) for each in (here, here, there)), return_exceptions=True
        )
        moves = [each.moves for each in found if isinstance(each, Arrived)]
        failed = [each.code for each in found if isinstance(each, ClientError)]
        assert sorted(moves) == list(range(1, len(moves) + 1))  # one after the other, if at all
        assert failed == [Close.SERVER_ERROR] * (3 - len(moves))
        assert moves
        assert not here.hears(SessionEvent(NAME, 1, 9, Event.HEARD))
        await bus.settle("english", "worker", [lease])

    run(scenario())


def test_of_what_comes_meanwhile_the_newest_are_kept(run, bus: Bus):
    async def scenario() -> None:
        lease = await left_behind(bus)
        here = arrivals(bus)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(here.fetch(WANTED))
            for _ in range(100_000):
                if here.hears(SessionEvent(NAME, 1, 0, Event.HEARD)):
                    break
                await asyncio.sleep(0)
            for number in range(2 * EVENT_LOG_ENTRIES):
                here.hears(SessionEvent(NAME, 1, number, Event.HEARD))
            kept = [event.sequence for event in here._waiting[NAME]]
        assert kept == list(range(EVENT_LOG_ENTRIES, 2 * EVENT_LOG_ENTRIES))
        await bus.settle("english", "worker", [lease])

    run(scenario())

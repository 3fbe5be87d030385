"""What a session needs elsewhere is written with its audio, at once, and by its own node only."""

import pytest

from ingress.carried import Who, digest, unpack_place, unpack_who
from ingress.keeper import Keeper, Kept
from ingress.outbox import Outbox
from ingress.session import Append, Limits, Session
from wire.entries import Event, SessionEvent
from wire.moves import Moves
from wire.params import SessionParams, parse_query
from wire.streams import Bus

FRAME = bytes(1600)


class Site:
    """One session on one node, and what the node was told."""

    def __init__(self, bus: Bus) -> None:
        self.moved: list[str] = []
        self.moves = Moves(bus)
        self.keeper = Keeper(self.moves, "node", 80.0, self.moved.append)
        self.outbox = Outbox(bus, 20, self.keeper)
        params = parse_query([("resumable", "true")])
        self.session = Session("s", params, Limits(), 0.0, 9, None, "the token")
        self.session.start(0.0)
        self.keeper.keep(Kept(self.session, self.who, lambda: (3, 7)))

    def who(self, params: SessionParams) -> Who:
        token = digest(self.session.resume_token)
        return Who({**params.for_worker(), "resumable": True}, None, 0, 9, 60.0, token, "", "", None, None)

    def hear(self, event: Event, number: int, **told) -> None:
        self.session.worker_event(SessionEvent("s", 1, number, event, **told), 0.0)
        self.outbox.mark("s")

    def say(self, message: bytes | str) -> None:
        session = self.session
        effects = (
            session.client_text(message, 0.0)
            if isinstance(message, str)
            else session.client_audio(message, 0.0)
        )
        for effect in effects:
            assert isinstance(effect, Append)
            self.outbox.append("s", effect.entry)
        self.outbox.mark("s")


def test_place_audio_and_what_was_told_are_written_together(run, bus: Bus):
    async def scenario() -> None:
        site = Site(bus)
        site.hear(Event.TAKEN, 0)
        site.say(FRAME)
        site.hear(Event.MESSAGE, 1, text='{"type":"Turn"}', turn_order=0)
        assert await site.moves.find("s") is None
        await site.outbox.flush()
        kept = await site.moves.find("s")
        assert kept is not None
        place = unpack_place(kept.place)
        assert (place.messages, place.position, place.sequence, place.event) == (1, 800, 2, 1)
        assert (place.lap, place.begun_ms, place.state) == (3, 7, "OPEN")
        assert [number for number, _ in await site.moves.told("s", 0)] == [1, 2]
        found = await bus.read({"s": b"0-0"})
        assert [entry.position for _, entry in found["s"].entries] == [0]

    run(scenario())


def test_a_place_never_runs_ahead_of_the_audio(run, bus: Bus):
    """What is still waiting is not counted, and what has no audio is told all the same."""

    async def scenario() -> None:
        site = Site(bus)
        site.say(FRAME)
        [first] = site.keeper.keepings([("s", 1, object())], {"s"})  # type: ignore[list-item]
        assert (first.place, first.who, first.told) == ("", "", ())
        [second] = site.keeper.keepings([("s", 1, object())], set())  # type: ignore[list-item]
        assert unpack_place(second.place).messages == 1
        assert site.keeper.rest(()) == []
        site.outbox.mark("s")
        assert site.keeper.rest({"s"}) == []
        assert [keeping.session for keeping in site.keeper.rest(())] == ["s"]
        assert not site.keeper.mark("another")

    run(scenario())


def test_parameters_are_written_when_they_change(run, bus: Bus):
    async def scenario() -> None:
        site = Site(bus)
        site.hear(Event.TAKEN, 0)
        await site.outbox.flush()
        site.say(FRAME)
        [keeping] = site.keeper.rest(())
        assert keeping.who == ""
        site.say('{"type":"UpdateConfiguration","min_turn_silence":321}')
        await site.outbox.flush()
        kept = await site.moves.find("s")
        assert kept is not None
        assert unpack_who(kept.who).session_params() == site.session.params
        assert site.session.params.min_turn_silence == 321

    run(scenario())


def test_a_session_that_has_moved_on_is_dropped_and_told_of(run, bus: Bus):
    async def scenario() -> None:
        site = Site(bus)
        site.hear(Event.TAKEN, 0)
        await site.outbox.flush()
        await site.moves.move("s", 0, "another", 80.0)
        site.say(FRAME)
        await site.outbox.flush()
        assert site.moved == ["s"]
        assert "s" not in site.keeper
        assert await bus.read({"s": b"0-0"}) == {}

    run(scenario())


@pytest.mark.parametrize("moved", [False, True])
def test_the_end_is_written_by_its_own_node_only(run, bus: Bus, moved: bool):
    async def scenario() -> None:
        site = Site(bus)
        site.hear(Event.TAKEN, 0)
        await site.outbox.flush()
        if moved:
            await site.moves.move("s", 0, "another", 80.0)
        site.outbox.forget("s")
        await site.outbox.flush()
        assert site.moved == (["s"] if moved else [])
        assert "s" not in site.keeper

    run(scenario())


def test_a_redis_that_lost_everything_is_told_everything(run, bus: Bus):
    async def scenario() -> None:
        site = Site(bus)
        site.hear(Event.TAKEN, 0)
        await site.outbox.flush()
        await bus._redis.delete(bus.keys.resume("s"), bus.keys.told("s"))
        site.say(FRAME)
        await site.outbox.flush()
        await site.outbox.flush()
        assert await site.moves.find("s") is not None
        assert [number for number, _ in await site.moves.told("s", 0)] == [1]
        await site.keeper.touch()

    run(scenario())

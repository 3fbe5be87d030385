"""The step loop over a real Redis, with a recognizer whose "speech" is written into the samples.

`ScriptedRecognizer` keeps the contract of `workers/recognizer.py` without a model: a stretch of samples of the value
`code * 256` is the word `w{code}`, zeros are silence. So what must be told about any audio is known exactly.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import redis

from tests.fakes import append
from wire import metrics
from wire.archive import Archive
from wire.entries import AudioFrame, Control, Event, Offer, Order, SessionEvent
from wire.errors import INTERNAL_ERROR, BusUnavailable
from wire.keys import STATE_TAKES, WORKERS_GROUP, Keys
from wire.moves import Keeping, Moves
from wire.params import SessionParams
from wire.recorded import OFFER_RECORDED, OFFER_REPLAY, PLAIN, Published, SessionFacts, Stepped
from wire.streams import Bus, Logged, entry_id, number_of
from workers import feeders
from workers.engine import Engine
from workers.pool import Pool
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, Observation, SlotOptions, Spec
from workers.settings import WorkerSettings
from workers.words import Word

HOP = 512
HOP_MS = 32
PARAMS = SessionParams().for_worker()
POOL = "english"
NODE = "node-1"


# --------------------------------------------------------------------------------------------------------------
# the recognizer


@dataclass
class Row:
    """One slot: the code of every hop since the last flush, and what of it was told."""

    origin_ms: int = 0
    samples: list[int] = field(default_factory=list)  # not yet a hop
    hops: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, code)
    heard_ms: int = 0
    settled_ms: int = 0  # words that start before are told
    told_ms: int = 0  # what the words have heard: one hop past the last of them
    flush_ms: int = NO_FLUSH
    failed: bool = False

    def words(self) -> list[Word]:
        """Runs of one code, silence left out."""
        runs: list[tuple[int, int, int]] = []
        for start, end, code in self.hops:
            if runs and runs[-1][2] == code and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end, code)
            else:
                runs.append((start, end, code))
        return [Word(f"w{code}.", start, end, 0.9) for start, end, code in runs if code]


class ScriptedRecognizer:
    """A word settles as soon as another hop follows it. `fails`: a slot that hears this code fails alone; `crashes`:
    the whole step raises; `gate`: steps wait until it is set.
    """

    def __init__(self, slots: int = 4, fails: int = -1, crashes: int = -1) -> None:
        self.spec = Spec(
            "scripted", "none", slots, chunk_samples=2 * HOP, hop_ms=HOP_MS, languages=("en", "fr")
        )
        self.fails, self.crashes = fails, crashes
        self.behind = False
        self.gate = threading.Event()
        self.gate.set()
        self.options: list[SlotOptions] = []
        self._rows = [Row() for _ in range(slots)]

    def warm_up(self) -> None:
        pass

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        assert self.gate.wait(20)
        self.options += batch.options.values()
        return [self._row(slot, batch) for slot in range(self.spec.slots)]

    def _row(self, slot: int, batch: Batch) -> Hypothesis | None:
        if batch.reset[slot]:
            origin_ms = int(batch.origin_ms[slot])
            self._rows[slot] = Row(origin_ms, heard_ms=origin_ms, settled_ms=origin_ms, told_ms=origin_ms)
        row, count = self._rows[slot], int(batch.samples[slot])
        row.samples += np.round(batch.audio[slot, :count] * 32768).astype(int).tolist()
        if batch.flush_ms[slot] != NO_FLUSH:
            row.flush_ms = int(batch.flush_ms[slot])
        if not count and row.flush_ms == NO_FLUSH:
            return None
        observations = []
        while len(row.samples) >= HOP:
            observations.append(self._hear(row))
        return Hypothesis(failed=True) if row.failed else self._tell(row, observations)

    def _hear(self, row: Row) -> Observation:
        hop, row.samples = row.samples[:HOP], row.samples[HOP:]
        value = max(set(hop), key=hop.count)
        code = value // 256
        if code == self.crashes:
            raise RuntimeError("the model is broken")
        row.failed |= code == self.fails
        start, row.heard_ms = row.heard_ms, row.heard_ms + HOP_MS
        if code or (row.hops and row.hops[-1][2]):
            row.told_ms = row.heard_ms
        row.hops.append((start + hop.index(value) // 16, row.heard_ms, code))
        return Observation(row.heard_ms, 0.9 if code else 0.01)

    def _tell(self, row: Row, observations: list[Observation]) -> Hypothesis:
        words = [word for word in row.words() if word.start_ms >= row.settled_ms]
        sure = [word for word in words if word.end_ms < row.heard_ms]
        flushed = None
        if row.flush_ms != NO_FLUSH:
            flushed, row.flush_ms = row.flush_ms, NO_FLUSH
            sure = [word for word in words if word.start_ms < flushed]
            row.hops = [(max(start, flushed), end, code) for start, end, code in row.hops if end > flushed]
        tail = tuple(word for word in words if word not in sure)
        if sure:
            row.settled_ms = sure[-1].end_ms if flushed is None else max(sure[-1].start_ms + 1, flushed)
        return Hypothesis(tuple(observations), tuple(sure), tail, 0.9, flushed, row.told_ms)


class Paced(ScriptedRecognizer):
    """Takes four chunks of a slot at once; after `pace` each step waits until it is told to go on (`one_step`)."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, catch_up=4)
        self._paced, self._entered = False, 0
        self._tickets = threading.Semaphore(0)

    def pace(self) -> None:
        self._paced = True

    def let_go(self) -> None:
        self._paced = False
        self._tickets.release()

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        self._entered += 1
        if self._paced:
            assert self._tickets.acquire(timeout=20)
        return super().step(batch)

    async def one_step(self, until: Callable[..., Any]) -> None:
        """One step ends, and the next one has been planned."""
        before = self._entered
        self._tickets.release()
        await until(lambda: self._entered > before)


# --------------------------------------------------------------------------------------------------------------
# ingress and workers


def speech(code: int, ms: int) -> bytes:
    return np.full(16 * ms, 256 * code, "<i2").tobytes()


def pause(ms: int) -> bytes:
    return speech(0, ms)


class Desk:
    """The ingress side: offers sessions, appends their audio, keeps what it is told in the order it came."""

    def __init__(self, bus: Bus, wait_until: Callable[..., Any]) -> None:
        self.bus = bus
        self.told: dict[str, list[SessionEvent]] = {}
        self._positions: dict[str, int] = {}
        self._wait_until = wait_until

    async def listen(self) -> None:
        async for events in self.bus.inbox(NODE, block_ms=100):
            for event in events:
                if isinstance(event, SessionEvent):
                    self.told.setdefault(event.session, []).append(event)

    async def open(self, *sessions: str, params: dict[str, Any] | None = None) -> None:
        for session in sessions:
            await self.bus.offer(Offer(session, NODE, POOL, PARAMS if params is None else params))

    async def say(self, session: str, *audio: bytes, frame_ms: int = 50) -> None:
        """Append audio in frames of `frame_ms`."""
        pcm, size = b"".join(audio), 32 * frame_ms
        frames = []
        for at in range(0, len(pcm), size):
            position = self._positions.get(session, 0)
            frames.append((session, AudioFrame(position, pcm[at : at + size])))
            self._positions[session] = frames[-1][1].end
        await append(self.bus, frames)

    async def order(self, session: str, order: Order, fields: dict[str, Any] | None = None) -> None:
        await append(self.bus, [(session, Control(order, self._positions.get(session, 0), fields))])

    def kinds(self, session: str) -> list[Event]:
        return [event.event for event in self.told.get(session, [])]

    def turns(self, session: str) -> list[dict[str, Any]]:
        events = self.told.get(session, [])
        return [json.loads(event.text) for event in events if event.event is Event.MESSAGE]

    def finals(self, session: str) -> list[tuple[int, str]]:
        return [
            (turn["turn_order"], turn["transcript"]) for turn in self.turns(session) if turn["end_of_turn"]
        ]

    async def until(self, condition: Callable[[], Any]) -> Any:
        return await self._wait_until(condition)

    async def ended(self, *sessions: str, with_: Event = Event.DONE) -> None:
        for session in sessions:
            await self.until(partial(self._is_last, session, with_))

    def _is_last(self, session: str, event: Event) -> bool:
        return self.kinds(session)[-1:] == [event]


@dataclass
class Worker:
    """One engine on a loop of ours."""

    name: str
    recognizer: ScriptedRecognizer
    engine: Engine
    drain: asyncio.Event
    task: "asyncio.Task[BaseException | None]"

    async def over(self) -> BaseException | None:
        """Wait for the end; the error that ended it."""
        await asyncio.wait([self.task], timeout=10)
        return self.task.result()


@dataclass
class House:
    """A desk and workers that share a Redis."""

    desk: Desk
    hire: Callable[..., Coroutine[Any, Any, Worker]]
    server: Any
    keys: Keys

    def owner(self) -> list[str]:
        """Who holds the pending offers."""
        pending = self.server.xpending_range(self.keys.offers(POOL), WORKERS_GROUP, "-", "+", 100)
        return [entry["consumer"].decode() for entry in pending]

    def offers(self) -> int:
        return int(self.server.xlen(self.keys.offers(POOL)))


Scenario = Callable[[House], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(redis_url: str, keys: Keys, run: Callable[..., Any], wait_until: Any) -> Play:
    """`play(scenario)`: runs it in a house of its own, and sends everyone home afterwards."""

    async def played(scenario: Scenario) -> None:
        async with housed(redis_url, keys, wait_until) as house:
            await scenario(house)

    return lambda scenario: run(played(scenario))


@asynccontextmanager
async def housed(redis_url: str, keys: Keys, wait_until: Any) -> AsyncIterator[House]:
    buses = [Bus(redis_url, keys)]
    workers: list[Worker] = []
    thread = ThreadPoolExecutor(4, thread_name_prefix="model")
    desk = Desk(buses[0], wait_until)

    async def hire(name: str = "a", recognizer: ScriptedRecognizer | None = None, **options: Any) -> Worker:
        settings = WorkerSettings(
            redis_url=redis_url,
            namespace=keys.namespace,
            probe_port=0,
            worker=name,
            **{
                "step_ms": 5,
                "lease_s": 10.0,
                "report_s": 0.1,
                "drain_grace_s": 0.0,
                "overload_s": 60.0,
                **options,
            },
        )
        recognizer = recognizer or ScriptedRecognizer()
        bus, drain, joined = Bus(redis_url, keys), asyncio.Event(), asyncio.Event()
        buses.append(bus)
        engine = Engine(settings, bus, Pool(bus, POOL, name, settings.lease_s), recognizer, thread)
        task = group.create_task(outcome(engine.run(drain, joined.set)))
        workers.append(Worker(name, recognizer, engine, drain, task))
        await joined.wait()
        return workers[-1]

    with redis.Redis.from_url(redis_url) as server:
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(desk.listen())
                try:
                    yield House(desk, hire, server, keys)
                finally:
                    for worker in workers:
                        worker.recognizer.gate.set()
                        worker.task.cancel()
                    listening.cancel()
        finally:
            for bus in buses:
                await bus.close()
            thread.shutdown()


async def outcome(running: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run a worker; its crash is its own."""
    try:
        await running
    except Exception as error:  # noqa: BLE001 returned, for the test to look at
        return error
    return None


# --------------------------------------------------------------------------------------------------------------
# one session


def test_a_session_is_taken_its_audio_becomes_turns_and_its_end_is_told(play: Play) -> None:
    async def scenario(house: House) -> None:
        worker = await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.until(lambda: desk.kinds("s") == [Event.TAKEN])
        await desk.say("s", speech(1, 320), speech(2, 320), pause(1600), speech(3, 640), pause(100))
        await desk.until(lambda: desk.finals("s") == [(0, "w1 w2")])
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1 w2"), (1, "w3")]
        assert desk.kinds("s") == [Event.TAKEN, *[Event.MESSAGE] * len(desk.turns("s")), Event.DONE]
        assert [event.sequence for event in desk.told["s"]] == list(range(len(desk.told["s"])))
        assert len({event.generation for event in desk.told["s"]}) == 1
        await desk.until(lambda: house.offers() == 0)  # the lease is settled
        assert not worker.engine._pool.leases

    play(scenario)


def test_a_recorded_session_tells_how_it_was_served(play: Play) -> None:
    async def scenario(house: House) -> None:
        archive, desk = Archive(house.desk.bus), house.desk
        await archive.begin(SessionFacts("s", 100.0), 60.0, 10**6)
        await house.hire()
        await desk.open("s", params=PARAMS | {OFFER_RECORDED: PLAIN})
        await desk.open("not recorded")
        for session in ("s", "not recorded"):
            await desk.say(session, speech(1, 320), pause(1600), speech(2, 320))
            await desk.until(partial(desk.finals, session))
            await desk.order(session, Order.TERMINATE)
            await desk.ended(session)

        async def written() -> list[Published]:
            return [one for one in (await archive.load("s")).of(Published) if one.event == "DONE"]

        await desk.until(written)
        recording = await archive.load("s")
        assert [taken.worker for taken in recording.takes] == ["a"]
        steps = recording.of(Stepped)
        assert [step.from_ms for step in steps] == [0, *[step.to_ms for step in steps[:-1]]]
        assert steps[-1].to_ms == 2240
        assert [at_ms for at_ms, _ in recording.speech] == [HOP_MS * n for n in range(1, 71)]
        assert [decided.turn_order for decided in recording.decisions] == [0, 1]
        assert [decided.rule for decided in recording.decisions] == ["confident", "terminated"]
        events = [(one.generation, one.sequence, one.event) for one in recording.of(Published)]
        assert events == [(event.generation, event.sequence, event.event.name) for event in desk.told["s"]]
        assert len(await archive.index()) == 1

    play(scenario)


def test_partials_come_before_the_final_and_words_have_their_times(play: Play) -> None:
    def first_partials() -> tuple[float, float]:
        family = next(iter(metrics.FIRST_PARTIAL_SECONDS.collect()))
        found = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples}
        return found["count"], found["sum"]

    async def scenario(house: House) -> None:
        before = first_partials()
        await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", pause(320), speech(1, 640), speech(2, 640))
        await desk.until(
            lambda: (
                [w["text"] for w in desk.turns("s")[-1]["words"]] == ["w1", "w2"]
                if desk.turns("s")
                else False
            )
        )
        await desk.say("s", pause(1600))
        await desk.until(lambda: desk.finals("s"))
        turns = desk.turns("s")
        assert not turns[0]["end_of_turn"]
        assert [(w["text"], w["start"], w["end"], w["word_is_final"]) for w in turns[-1]["words"]] == [
            ("w1", 320, 960, True),
            ("w2", 960, 1600, True),
        ]
        count, seconds = (now - then for now, then in zip(first_partials(), before, strict=True))
        assert count == 1
        assert 0 < seconds <= 1.28

    play(scenario)


def test_the_end_is_told_even_without_any_audio_and_with_less_than_a_hop(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("nothing", "little")
        await desk.say("little", speech(1, 10))
        await desk.order("nothing", Order.TERMINATE)
        await desk.order("little", Order.TERMINATE)
        await desk.ended("nothing", "little")
        assert desk.turns("nothing") == desk.turns("little") == []

    play(scenario)


@pytest.mark.parametrize("after_ms", [333, 640, 1000])
def test_a_forced_end_cuts_the_turn_exactly_there(play: Play, after_ms: int) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", speech(1, after_ms), frame_ms=37)
        await desk.order("s", Order.FORCE_ENDPOINT)
        await desk.say("s", speech(2, 800), pause(64))
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1"), (1, "w2")]
        first, second = (turn for turn in desk.turns("s") if turn["end_of_turn"])
        assert first["words"][-1]["start"] < after_ms <= second["words"][0]["start"]
        assert second["words"][0]["start"] == after_ms

    play(scenario)


def test_a_forced_end_in_silence_changes_nothing(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", pause(500))
        await desk.order("s", Order.FORCE_ENDPOINT)
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.turns("s") == []

    play(scenario)


def test_configure_counts_from_its_place_in_the_audio_and_reaches_the_model(play: Play) -> None:
    async def scenario(house: House) -> None:
        worker = await house.hire()
        desk = house.desk
        patient = PARAMS | {"min_turn_silence": 2000, "max_turn_silence": 4000}
        await desk.open("s", params=patient)
        await desk.say("s", speech(1, 320), pause(1000), speech(2, 320), pause(96))
        await desk.order("s", Order.CONFIGURE, PARAMS | {"min_turn_silence": 200, "vad_threshold": 0.7})
        await desk.say("s", pause(500), speech(3, 320), pause(1000))
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1 w2"), (1, "w3")]
        assert [options.vad_threshold for options in worker.recognizer.options] == [0.4, 0.7]

    play(scenario)


def test_an_abandoned_session_is_dropped_without_a_word(play: Play) -> None:
    async def scenario(house: House) -> None:
        worker = await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await desk.order("s", Order.ABANDON)
        await desk.until(lambda: not house.owner() and not house.offers())
        assert Event.DONE not in desk.kinds("s")
        assert worker.engine._slots.free == worker.recognizer.spec.slots

    play(scenario)


def test_audio_may_come_in_any_frames(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        for frame_ms in (3, 50, 1000):
            name = f"of {frame_ms} ms"
            await desk.open(name)
            await desk.say(name, speech(1, 320), pause(900), speech(2, 320), pause(900), frame_ms=frame_ms)
            await desk.order(name, Order.TERMINATE)
        await desk.ended("of 3 ms", "of 50 ms", "of 1000 ms")
        finals = [desk.finals(name) for name in desk.told]
        assert finals == [[(0, "w1"), (1, "w2")]] * 3

    play(scenario)


# --------------------------------------------------------------------------------------------------------------
# many sessions; what goes wrong in one


def test_every_session_gets_its_own_words_and_a_full_worker_takes_the_next_when_one_ends(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire(recognizer=ScriptedRecognizer(slots=2))
        desk, names = house.desk, [f"s{number}" for number in range(5)]
        for code, name in enumerate(names, start=1):
            await desk.open(name)
            await desk.say(name, speech(code, 320), pause(800), speech(code + 10, 320))
            await desk.order(name, Order.TERMINATE)
        await desk.ended(*names)
        for code, name in enumerate(names, start=1):
            assert desk.finals(name) == [(0, f"w{code}"), (1, f"w{code + 10}")]

    play(scenario)


def test_missing_audio_fails_its_session_alone(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("whole", "holey")
        await desk.say("holey", speech(1, 320))
        await append(desk.bus, [("holey", AudioFrame(16 * 400, speech(1, 320)))])
        await desk.ended("holey", with_=Event.FAILED)
        assert desk.told["holey"][-1].text == INTERNAL_ERROR
        await desk.say("whole", speech(2, 320))
        await desk.order("whole", Order.TERMINATE)
        await desk.ended("whole")
        assert desk.finals("whole") == [(0, "w2")]
        await desk.until(lambda: house.offers() == 0)

    play(scenario)


def test_repeated_audio_is_heard_once(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await append(
            desk.bus, [("s", AudioFrame(0, speech(1, 320))), ("s", AudioFrame(16 * 160, speech(1, 320)))]
        )
        await append(desk.bus, [("s", AudioFrame(16 * 480, speech(2, 320)))])
        await append(desk.bus, [("s", Control(Order.TERMINATE, 16 * 800))])
        await desk.ended("s")
        [(_, words)] = [
            (turn["turn_order"], turn["words"]) for turn in desk.turns("s") if turn["end_of_turn"]
        ]
        assert [(word["text"], word["start"], word["end"]) for word in words] == [
            ("w1", 0, 480),
            ("w2", 480, 800),
        ]

    play(scenario)


def test_audio_that_was_held_up_and_comes_in_parts_is_heard_in_steps_as_before(play: Play) -> None:
    """Redis is out of reach for 3 s."""

    class Counting(ScriptedRecognizer):
        def __init__(self) -> None:
            super().__init__()
            self.spec = replace(self.spec, catch_up=8)
            self.chunks: list[int] = []

        def step(self, batch: Batch) -> list[Hypothesis | None]:
            self.chunks.append(int(batch.samples.max()) // (2 * HOP))
            return super().step(batch)

    async def scenario(house: House) -> None:
        recognizer = Counting()
        worker, desk = await house.hire(recognizer=recognizer), house.desk
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await desk.until(
            lambda: "s" in worker.engine._seats and worker.engine._slots.stepped("s") == 5 * 1024
        )
        read, engine = worker.engine._bus.read, worker.engine

        async def stalled(cursors: Mapping[str, bytes]) -> dict[str, Logged]:
            engine._bus.read = read  # type: ignore[method-assign]  # once
            began_s = time.monotonic()
            await desk.until(lambda: time.monotonic() - began_s > 3.0)
            return await read(cursors)

        engine._bus.read = stalled  # type: ignore[method-assign]
        await desk.until(lambda: engine._bus.read == read)
        recognizer.chunks.clear()
        slots = worker.engine._slots
        await desk.say("s", speech(2, 640))
        await desk.until(lambda: slots.stepped("s") == 15 * 1024)
        await desk.say("s", speech(3, 640))
        await desk.until(lambda: slots.stepped("s") == 25 * 1024)
        assert max(recognizer.chunks) == 1
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1 w2 w3")]

    play(scenario)


def test_an_unreadable_entry_is_skipped(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire()
        desk = house.desk
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        audio = house.keys.audio("s")
        last = number_of(house.server.xinfo_stream(audio)["last-generated-id"])
        house.server.xadd(audio, {"e": b"\xc1 of another version"}, id=entry_id(last + 1))
        house.server.xadd(audio, {"other": b""}, id=entry_id(last + 2))
        await desk.say("s", speech(2, 320))
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1 w2")]

    play(scenario)


def test_a_row_that_fails_ends_its_session_and_its_neighbours_go_on(play: Play) -> None:
    async def scenario(house: House) -> None:
        worker = await house.hire(recognizer=ScriptedRecognizer(fails=13))
        desk = house.desk
        await desk.open("fine", "unlucky")
        await desk.until(lambda: desk.kinds("fine") == desk.kinds("unlucky") == [Event.TAKEN])
        await desk.say("fine", speech(1, 320))
        await desk.say("unlucky", speech(2, 320), speech(13, 320))
        await desk.ended("unlucky", with_=Event.FAILED)
        await desk.say("fine", speech(3, 320))
        await desk.order("fine", Order.TERMINATE)
        await desk.ended("fine")
        assert desk.finals("fine") == [(0, "w1 w3")]
        assert not worker.task.done()
        await desk.open("next")  # the slot is clean again
        await desk.say("next", speech(4, 320))
        await desk.order("next", Order.TERMINATE)
        await desk.ended("next")
        assert desk.finals("next") == [(0, "w4")]

    play(scenario)


@pytest.mark.parametrize("params", [{}, {**PARAMS, "vad_threshold": "loud"}])
def test_an_offer_that_makes_no_sense_fails_alone(play: Play, params: dict[str, Any]) -> None:
    async def scenario(house: House) -> None:
        worker = await house.hire()
        desk = house.desk
        await desk.open("odd", params=params)
        await desk.open("fine")
        await desk.ended("odd", with_=Event.FAILED)
        await desk.until(lambda: desk.kinds("fine") == [Event.TAKEN])
        assert not worker.task.done()

    play(scenario)


def test_a_session_taken_too_often_is_given_up(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        await desk.open("deadly")
        house.server.hset(house.keys.state("deadly"), STATE_TAKES, 3)
        worker = await house.hire(max_takes=3)
        await desk.ended("deadly", with_=Event.FAILED)
        assert desk.kinds("deadly") == [Event.FAILED]
        await desk.until(lambda: house.offers() == 0)
        assert worker.engine._slots.free == worker.recognizer.spec.slots

    play(scenario)


# --------------------------------------------------------------------------------------------------------------
# workers come and go


async def two_turns(desk: Desk, session: str) -> None:
    await desk.say(session, speech(1, 320), pause(800), speech(2, 320))


def test_a_broken_model_gives_every_session_back_and_the_next_worker_goes_on(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first", ScriptedRecognizer(crashes=13))
        await desk.open("s", "t")
        for session in ("s", "t"):
            await two_turns(desk, session)
        await desk.until(lambda: desk.finals("s") == desk.finals("t") == [(0, "w1")])
        await desk.say("s", speech(13, 320))
        error = await first.over()
        assert "the model is broken" in repr(error)
        assert house.server.xpending(house.keys.offers(POOL), WORKERS_GROUP)["pending"] == 2
        await house.hire("second")
        await desk.until(lambda: house.owner() == ["second", "second"])
        await desk.say("s", pause(64))
        for session in ("s", "t"):
            await desk.order(session, Order.TERMINATE)
        await desk.ended("s", "t")
        assert desk.finals("s") == [(0, "w1"), (1, "w2 w13")]
        assert desk.finals("t") == [(0, "w1"), (1, "w2")]
        finals = [event.generation for event in desk.told["s"] if event.final]
        assert finals[0] < finals[1]
        assert desk.kinds("s").count(Event.TAKEN) == 2

    play(scenario)


def test_a_silent_workers_session_is_taken_over(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first", lease_s=0.5)
        await desk.open("s")
        await two_turns(desk, "s")
        await desk.until(lambda: desk.finals("s"))
        first.engine._leaving = nothing  # type: ignore[method-assign]  # as if killed
        first.task.cancel()
        await house.hire("second", lease_s=0.5)
        await desk.until(lambda: house.owner() == ["second"])
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1"), (1, "w2")]
        assert desk.told["s"][-1].generation > desk.told["s"][0].generation

    play(scenario)


async def nothing() -> None:
    pass


def test_what_was_read_for_a_seat_is_not_given_to_the_next_one_of_its_session(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis takes its time to answer, and meanwhile the session is taken anew, from its begin on."""

    async def scenario(house: House) -> None:
        desk = house.desk
        worker = await house.hire()
        engine, answered, go_on = worker.engine, asyncio.Event(), asyncio.Event()
        read = engine._bus.read

        async def slowly(cursors: Mapping[str, bytes]) -> dict[str, Logged]:
            found = await read(cursors)
            if found and engine._seats["s"].position:
                answered.set()
                await go_on.wait()
            return found

        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await desk.until(lambda: "s" in engine._seats and engine._seats["s"].position)
        monkeypatch.setattr(engine._bus, "read", slowly)
        await desk.say("s", speech(2, 320))
        await answered.wait()
        before = engine._seats["s"]
        await desk.bus.give_back(POOL, "a", [before.lease])
        await desk.until(lambda: engine._seats["s"] is not before)
        go_on.set()
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1 w2")]

    play(scenario)


def test_a_worker_that_lost_a_lease_falls_silent(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first", lease_s=60)
        await desk.open("s")
        await two_turns(desk, "s")
        await desk.until(lambda: desk.finals("s"))
        first.recognizer.gate.clear()  # stuck in the midst of a step, with words it has not told
        await desk.say("s", pause(800))
        [pending] = house.server.xpending_range(house.keys.offers(POOL), WORKERS_GROUP, "-", "+", 1)
        house.server.xclaim(
            house.keys.offers(POOL),
            WORKERS_GROUP,
            "first",
            0,
            [pending["message_id"]],
            idle=60_000,
            justid=True,
        )
        await house.hire("second", lease_s=0.5)
        await desk.until(lambda: (1, "w2") in desk.finals("s"))
        first.recognizer.gate.set()
        await desk.until(lambda: not first.engine._seats)
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1"), (1, "w2")]
        generations = [event.generation for event in desk.told["s"]]
        assert generations == sorted(generations)
        assert not first.engine._pool.leases

    play(scenario)


def test_a_drained_worker_lets_its_sessions_end_and_takes_no_more(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        worker = await house.hire("first", drain_grace_s=30)
        await desk.open("s")
        await desk.until(lambda: desk.kinds("s") == [Event.TAKEN])
        worker.drain.set()
        await desk.say("s", speech(1, 320))
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert await worker.over() is None
        await desk.open("late")
        assert house.owner() == []
        assert house.server.hlen(house.keys.workers(POOL)) == 0

    play(scenario)


def test_a_drained_worker_hands_over_at_once_to_who_has_room(play: Play) -> None:
    """Long before its sessions end, and before its leases are over; who drains as well has none."""

    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first", lease_s=60, drain_grace_s=600)
        for name in ("s", "t"):
            await desk.open(name)
            await two_turns(desk, name)
        await desk.until(lambda: desk.finals("s") and desk.finals("t"))
        leaving = await house.hire("leaving", lease_s=60, drain_grace_s=600)
        leaving.drain.set()
        assert await leaving.over() is None
        await house.hire("second", lease_s=60)
        first.drain.set()
        assert await first.over() is None
        await desk.until(lambda: house.owner() == ["second", "second"])
        for name in ("s", "t"):
            await desk.order(name, Order.TERMINATE)
            await desk.ended(name)
            assert desk.finals(name) == [(0, "w1"), (1, "w2")]

    play(scenario)


def test_sessions_of_a_dead_ingress_are_let_go_unless_they_may_go_on(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeders, "MISSING_S", 0.1)

    async def scenario(house: House) -> None:
        desk, moves = house.desk, Moves(house.desk.bus)
        worker = await house.hire("first", lease_s=0.5)
        await moves.beat(NODE, 60)
        await moves.keep([Keeping("resumable", 0, NODE, 60, "{}", "{}")])
        for name in ("s", "resumable"):
            await desk.open(name)
        await desk.until(lambda: desk.kinds("s") == desk.kinds("resumable") == [Event.TAKEN])
        await desk.until(lambda: NODE in worker.engine._feeders._alive_at)
        house.server.delete(house.keys.alive(NODE))
        await desk.until(lambda: list(worker.engine._seats) == ["resumable"])
        await desk.until(lambda: house.offers() == 1)
        assert desk.kinds("s") == [Event.TAKEN]
        assert await moves.beat(NODE, 60) == 1  # one that lives after all hears of it

    play(scenario)


def test_a_drain_that_takes_too_long_hands_sessions_over(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first", lease_s=60, drain_grace_s=0.05)
        await desk.open("s")
        await two_turns(desk, "s")
        await desk.until(lambda: desk.finals("s"))
        await house.hire("second", lease_s=60)
        first.drain.set()
        # Long before the lease is over: it was given back. Nobody looked for it in between.
        await desk.until(lambda: house.owner() == ["first"] or house.owner() == ["second"])
        assert await first.over() is None
        third = await house.hire("third", lease_s=60)
        await desk.until(lambda: house.owner() in (["second"], ["third"]))
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1"), (1, "w2")]
        assert not third.task.done()

    play(scenario)


def test_a_session_abandoned_during_the_last_step_is_not_left_for_another_worker(play: Play) -> None:
    async def scenario(house: House) -> None:
        worker, desk = await house.hire(), house.desk
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await desk.until(lambda: worker.engine._slots.stepped("s"))
        worker.recognizer.gate.clear()
        await desk.say("s", speech(2, 320))
        await desk.until(lambda: worker.engine._slots.planned("s") > worker.engine._slots.stepped("s"))
        await desk.order("s", Order.ABANDON)
        worker.drain.set()
        await desk.until(lambda: worker.engine._stopping)
        worker.recognizer.gate.set()
        assert await worker.over() is None
        assert not house.owner()
        assert not house.offers()

    play(scenario)


def test_the_end_is_told_by_the_next_worker_if_this_one_dies_before_telling_it(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        first = await house.hire("first")
        await desk.open("s")
        await desk.say("s", speech(1, 320))
        await desk.until(lambda: desk.turns("s"))
        publish = first.engine._bus.publish

        async def but_done(publications: Any) -> Any:
            kept = [p for p in publications if p.events[0].event is not Event.DONE]
            lost = await publish(kept)
            if len(kept) < len(publications):
                raise RuntimeError("the process dies here")
            return lost

        first.engine._bus.publish = but_done  # type: ignore[method-assign]
        await desk.order("s", Order.TERMINATE)
        assert "dies here" in repr(await first.over())
        assert desk.finals("s") == [(0, "w1")]
        await house.hire("second", lease_s=0.5)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1")]

    play(scenario)


def test_redis_that_answers_again_finds_everything_told_once(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        worker = await house.hire(lease_s=10)
        await desk.open("s")
        await desk.say("s", speech(1, 320), pause(800))
        await desk.until(lambda: desk.finals("s"))
        house.server.client_kill_filter(_type="normal", skipme=True)  # every connection breaks
        await desk.say("s", speech(2, 320)) if await reachable(desk) else None
        await desk.order("s", Order.TERMINATE)
        await desk.ended("s")
        assert desk.finals("s") == [(0, "w1"), (1, "w2")]
        assert not worker.task.done()

    play(scenario)


async def reachable(desk: Desk) -> bool:
    async def answered() -> bool:
        try:
            await desk.bus.ping()
        except BusUnavailable:
            return False
        return True

    await desk.until(answered)
    return True


def test_load_is_reported(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        await house.hire("a")
        await desk.open("s")

        async def told() -> bool:
            load = (await desk.bus.loads(POOL)).get("a")
            return load is not None and (load.slots, load.free, load.model) == (4, 3, "scripted")

        await desk.until(told)
        load = (await desk.bus.loads(POOL))["a"]
        assert (load.licence, load.languages) == ("none", ("en", "fr"))

    play(scenario)


async def load_of(house: House, worker: str = "a") -> tuple[int, int, int]:
    """Slots, free ones and those held, as told last."""
    load = (await house.desk.bus.loads(POOL)).get(worker)
    return (load.slots, load.free, load.held) if load else (0, 0, 0)


def test_who_comes_and_goes_is_told_at_once(play: Play) -> None:
    async def scenario(house: House) -> None:
        await house.hire("a", report_s=30.0)
        for number in range(3):
            await house.desk.open(f"s{number}")
            await house.desk.until(partial(_is, house, (4, 3 - number, number + 1)))
        assert (await house.desk.bus.loads(POOL))["a"].replays == 0
        await house.desk.order("s0", Order.ABANDON)
        await house.desk.until(lambda: _is(house, (4, 2, 2)))
        await house.desk.open("again", params={**PARAMS, OFFER_REPLAY: b""})
        await house.desk.until(lambda: _is(house, (4, 1, 3)))
        assert (await house.desk.bus.loads(POOL))["a"].replays == 1

    play(scenario)


async def _is(house: House, wanted: tuple[int, int, int]) -> bool:
    return await load_of(house) == wanted


# --------------------------------------------------------------------------------------------------------------
# too much to do


def test_a_worker_that_is_behind_takes_nothing_new_until_it_has_caught_up(play: Play) -> None:
    async def scenario(house: House) -> None:
        desk = house.desk
        worker = await house.hire("a", overload_s=0.05)
        await desk.open("s")
        await desk.until(lambda: desk.kinds("s") == [Event.TAKEN])
        worker.recognizer.gate.clear()
        await desk.say("s", speech(1, 640))
        await desk.until(lambda: worker.engine._slots.planned("s") > 0)
        started = time.monotonic()
        await desk.until(lambda: time.monotonic() - started > 2.0)
        worker.recognizer.gate.set()  # a step of 2 s is more than 50 ms on average of sixteen
        await desk.until(lambda: _is(house, (4, 0, 1)))
        assert worker.engine._overload.there
        await desk.open("t")
        for number in range(100):  # quick steps
            await desk.say("s", speech(2 + number % 2, 64))
            if not worker.engine._overload.there:
                break
            await desk.until(lambda: max(worker.engine._slots.backlogs_ms()) < 64)
        await desk.until(lambda: desk.kinds("t") == [Event.TAKEN])

    play(scenario)


def test_replays_that_have_much_to_do_keep_nobody_out(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """They come as fast as they are taken, and always have audio waiting."""

    async def scenario(house: House) -> None:
        desk = house.desk
        worker = await house.hire("a", overload_s=1.0)
        replays = ["again", "and-again"]
        await desk.open(*replays, params={**PARAMS, OFFER_REPLAY: b""})
        await desk.open("live")
        await desk.until(lambda: all(desk.kinds(name) == [Event.TAKEN] for name in (*replays, "live")))
        for name in replays:
            await desk.say(name, *[speech(1 + number % 5, 200) for number in range(40)], frame_ms=200)
        slots = worker.engine._slots
        await desk.until(lambda: all(slots.stepped(name) == 8 * 16_000 for name in replays))

    play(scenario)
    assert "Too much to do" not in caplog.text


def test_clients_that_send_ahead_hold_up_nobody(play: Play) -> None:
    """A step takes at most a row of each slot: whose audio has just come is in the step after the next one, however
    much the others have waiting.
    """

    async def scenario(house: House) -> None:
        desk, recognizer = house.desk, Paced()
        worker = await house.hire("a", recognizer)
        greedy = ["ahead-1", "ahead-2", "ahead-3"]
        await desk.open("live", *greedy)
        await desk.until(lambda: all(desk.kinds(name) == [Event.TAKEN] for name in ("live", *greedy)))
        recognizer.pace()
        for name in greedy:
            await desk.say(name, *[speech(1 + number % 5, 200) for number in range(70)], frame_ms=200)
        slots = worker.engine._slots
        await desk.until(lambda: recognizer._entered > 0)
        await recognizer.one_step(desk.until)  # all that waits is read
        lags = []
        for number in range(10):
            await desk.say("live", speech(1 + number % 5, 64))
            lags.append(0)
            while slots.planned("live") < 1024 * (number + 1):
                await recognizer.one_step(desk.until)
                lags[-1] += 1
        assert max(lags) <= 2, lags
        assert min(slots.fed(name) - slots.planned(name) for name in greedy) > 48_000, "ahead all the while"
        recognizer.let_go()
        await desk.order("live", Order.TERMINATE)
        await desk.ended("live")

    play(scenario)

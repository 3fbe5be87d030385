"""What live sessions notice of replays: their finals' delays while nothing else runs, and beside a queue of replays.

A short session is recorded once; then windows of live speech take turns, one alone and one beside replays of it, until
so many replays have been run. Both kinds of windows meet whatever else the machine does.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cli import bench_clips, bench_load, client, redis_server, replay_run, up
from cli.bench_figures import answers, percentile
from cli.bench_latency import summary
from cli.bench_worker import SILENCE, endpoint
from wire.archive import Archive
from wire.errors import StackError
from wire.keys import Keys
from wire.recordings import Recording
from wire.streams import Bus

POOL = "english"
ALONE, BESIDE = "alone", "beside replays"
#: Audio of the session that is replayed, at least, in seconds.
RECORDED_S = 2.0
#: Clients that run replays: some wait for a place all the time.
WAITING = 4
METHOD = (
    "The whole stack, real speech in real time from a process of its own. Windows take turns: live sessions alone, and "
    "beside replays of a short recorded session as fast as they go, REPLAY_SESSIONS of them at once and more that wait "
    "for a place. final_ms: from the end of a phrase to its final, the silence that ends a turn included."
)


def run(
    replays: int, sessions: int, at_once: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Windows of `seconds` until `replays` have been run, at least one of each. Raises StackError."""
    spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
    final_ms: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    late: list[float] = []
    env = {"RECORD": "ask", "REPLAY_SESSIONS": str(at_once), "SLOTS": str(sessions + at_once)}
    with (
        redis_server.EmbeddedRedis() as redis,
        up.Stack(pools=(POOL,), redis_url=redis.url, env=env) as stack,
    ):
        again = Replays(
            recorded(stack.url, redis.url, bench_clips.talk(spoken, 0, RECORDED_S)), stack.url, at_once
        )
        number = 0
        while again.done < replays:
            for kind in (ALONE, BESIDE):
                tell(f"{kind}; {again.done} of {replays} replays are run")
                talks = tuple(
                    bench_clips.talk(spoken, 100 * number + one, seconds) for one in range(sessions)
                )
                load = bench_load.Load(endpoint(stack.url, **SILENCE), talks)
                with again.running() if kind is BESIDE else contextlib.nullcontext():
                    records = bench_load.generate(load, stack.check).records
                if failed := [record.error for record in records if record.error]:
                    raise up.StackFailed(failed[0])
                late += [late_ms for record in records for late_ms in record.late_ms]
                final_ms[kind] += [
                    answer.final_ms
                    for record in records
                    for answer in answers(record)
                    if answer.final_ms is not None
                ]
            number += 1
    return {
        "settings": {
            "pool": POOL,
            "replays": again.done,
            "refused": again.refused,
            "at_once": at_once,
            "sessions": sessions,
            "seconds": seconds,
            "windows": number,
        },
        "method": METHOD,
        "results": {kind: summary(values) for kind, values in final_ms.items()},
        "generator_late_p99_ms": percentile(late, 99),
        "measured": {kind: [round(value, 1) for value in values] for kind, values in final_ms.items()},
    }


def recorded(url: str, redis_url: str, talk: bench_clips.Talk) -> Recording:
    """A session that says this, as it was recorded."""
    begun: list[str] = []
    size = bench_load.CHUNK_MS * 32

    def hear(received: client.Received) -> None:
        if received.fields["type"] == "Begin":
            begun.append(received.fields["id"])

    async def load() -> Recording:
        chunks = [talk.audio[at : at + size] for at in range(0, len(talk.audio), size)]
        await client.converse(client.Request(f"{url}/?record=true"), client.paced(chunks, 16_000), hear)
        bus = Bus(redis_url, Keys())
        try:
            while True:
                found = await Archive(bus).load(begun[0])
                if found.end is not None:
                    return found
                await asyncio.sleep(0.1)
        finally:
            await bus.close()

    return asyncio.run(load())


@dataclass
class Replays:
    """Runs a recording again and again, while `running`, in a thread of its own."""

    recording: Recording
    url: str
    at_once: int
    done: int = 0
    refused: int = 0  # had to wait for a place, or gave way
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._stop.clear()
        thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="replays")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.at_once + WAITING):
                tasks.create_task(self._one_after_another())

    async def _one_after_another(self) -> None:
        wanted = replay_run.Wanted(self.url, "self-hosted", real=False, record=False, patience_s=0)
        while not self._stop.is_set():
            try:
                await replay_run.run(self.recording, wanted, lambda _: None, lambda _: None)
                self.done += 1
            except StackError:  # no place, or it gave way
                self.refused += 1
                await asyncio.sleep(replay_run.AGAIN_S / 4)

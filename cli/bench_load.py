"""The load generator: so many clients that speak in real time, in a process of its own.

Each client is `cli.client` over a real WebSocket, one chunk every 50 ms (or `chunk_ms`) at a phase of its own. What it
saw is returned as it was; figures are made of it elsewhere (`cli.bench_figures`). Every chunk's lateness is recorded,
so that a result can be refused where the generator itself was the limit.
"""

import asyncio
import multiprocessing
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

from cli import audio_file, client
from cli.bench_clips import Talk
from cli.bench_figures import Heard, Record
from wire.errors import StackError

CHUNK_MS = 50
#: Sessions of a level begin within this time, each at a random moment.
STAGGER_S = 2.0
#: Silence after a phrase before a client orders its end, in ms; the recogniser's last partial may be on its way.
FORCE_AFTER_MS = 200
FORCE = '{"type": "ForceEndpoint"}'
_BYTES_PER_MS = 2 * audio_file.SAMPLE_RATE // 1000


@dataclass(frozen=True)
class Load:
    """What the generator has to do. `url` may hold parameters; `force`: end each phrase by ForceEndpoint; `resume`:
    go on after a lost connection.
    """

    url: str
    talks: tuple[Talk, ...]
    stagger_s: float = STAGGER_S
    force: bool = False
    seed: int = 0
    resume: bool = False
    chunk_ms: int = CHUNK_MS


@dataclass(frozen=True)
class Outcome:
    """What the sessions saw, and how much of one core the generator took: of several processes, the busiest."""

    records: list[Record]
    cpu: float


def generate(
    load: Load, meanwhile: Callable[[], None], every_s: float = 0.5, to_the_end: bool = False
) -> Outcome:
    """Run the load in another process; call `meanwhile` until it is done. `to_the_end`: Ctrl-C does not reach it."""
    return generate_all([load], meanwhile, every_s, to_the_end)


def generate_all(
    loads: Sequence[Load], meanwhile: Callable[[], None], every_s: float = 0.5, to_the_end: bool = False
) -> Outcome:
    """As `generate`, each load in a process of its own, at the same time."""
    context = multiprocessing.get_context("spawn")
    deaf = _deaf if to_the_end else None
    with ProcessPoolExecutor(len(loads), mp_context=context, initializer=deaf) as pool:
        futures: list[Future[Outcome]] = [pool.submit(run, load) for load in loads]
        while True:
            meanwhile()
            if not wait(futures, every_s).not_done:
                break
    outcomes = [future.result() for future in futures]
    records = [record for outcome in outcomes for record in outcome.records]
    return Outcome(records, max(outcome.cpu for outcome in outcomes))


def _deaf() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(load: Load) -> Outcome:
    """The load, in this process."""
    started_s, cpu_s = time.monotonic(), time.process_time()
    records = asyncio.run(_all(load))
    return Outcome(records, (time.process_time() - cpu_s) / (time.monotonic() - started_s))


async def _all(load: Load) -> list[Record]:
    phases = random.Random(load.seed)
    async with asyncio.TaskGroup() as tasks:
        sessions = [
            tasks.create_task(_one(load, talk, phases.uniform(0, load.stagger_s))) for talk in load.talks
        ]
    return [session.result() for session in sessions]


async def _one(load: Load, talk: Talk, wait_s: float) -> Record:
    record = Record(talk.phrases, load.chunk_ms)
    await asyncio.sleep(wait_s)
    asked_s = time.monotonic()

    def listen(received: client.Received) -> None:
        fields = received.fields
        if fields["type"] == "Turn" and fields["words"]:
            record.turns.append(_heard(fields["words"], fields, time.monotonic()))

    try:
        request = client.Request(load.url, resume=load.resume)
        session = await client.converse(request, _speech(talk, record, load), listen)
        record.session = session.id
        record.begin_ms = session.latencies.begin_ms
        record.end_ms = (time.monotonic() - session.terminate_s) * 1000
    except StackError as error:
        record.error = str(error)
        record.failed_ms = (time.monotonic() - asked_s) * 1000
        record.code = error.code if isinstance(error, client.ServerError) else None
    return record


def _heard(words: Sequence[dict[str, int]], fields: dict[str, object], now_s: float) -> Heard:
    return Heard(
        now_s,
        bool(fields["end_of_turn"]),
        int(str(fields["turn_order"])),
        words[0]["start"],
        words[-1]["start"],
        words[-1]["end"],
        str(fields["transcript"]),
    )


async def _speech(talk: Talk, record: Record, load: Load) -> AsyncIterator[bytes | str]:
    """The talk as a microphone gives it: each chunk when its last sample has been spoken."""
    start_s, size = time.monotonic(), load.chunk_ms * _BYTES_PER_MS
    orders = [end + FORCE_AFTER_MS for _, end in talk.phrases] if load.force else []
    for number, at in enumerate(range(0, len(talk.audio), size), start=1):
        due_s = start_s + number * load.chunk_ms / 1000
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        now_s = time.monotonic()
        record.sent_s.append(now_s)
        record.late_ms.append((now_s - due_s) * 1000)
        yield talk.audio[at : at + size]
        if orders and number * load.chunk_ms >= orders[0]:
            orders.pop(0)
            record.forced_s.append(time.monotonic())
            yield FORCE

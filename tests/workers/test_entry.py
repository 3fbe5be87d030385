"""A worker from settings to the end: real weights, real Redis, a session served."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.fakes import append
from wire.entries import AudioFrame, Control, Event, Offer, Order, SessionEvent
from wire.errors import SettingsError, WeightsError
from wire.keys import Keys
from wire.params import SessionParams
from wire.service import Probe
from wire.streams import Bus
from workers import checkpoints
from workers.entry import POOLS, serve
from workers.settings import MODELS, WorkerSettings

DATA = Path(__file__).parents[1] / "data"
PARAMS = SessionParams().for_worker()


def page(redis_url: str, keys: Keys, **options: Any) -> WorkerSettings:
    given = {"slots": 2, "threads": 1, "report_s": 0.2, "drain_grace_s": 5.0, "probe_port": 0, **options}
    return WorkerSettings(redis_url=redis_url, namespace=keys.namespace, **given)


@pytest.fixture
def probe() -> Probe:
    return Probe("127.0.0.1", 0, "english")


@pytest.mark.weights
@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", POOLS)
def test_a_session_is_served_from_the_weights_to_the_drain(
    redis_url: str, keys: Keys, bus: Bus, run: Callable[..., Any], wait_until: Any, probe: Probe, pool: str
) -> None:
    checkpoints.fetch(MODELS[pool])
    checkpoints.fetch("silero-vad")
    told: list[SessionEvent] = []
    pcm = soundfile.read(DATA / "hello_world.wav", dtype="int16")[0].tobytes()

    async def listen() -> None:
        async for events in bus.inbox("node", block_ms=100):
            told.extend(event for event in events if isinstance(event, SessionEvent))

    async def scenario() -> None:
        drain = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            serving = tasks.create_task(serve(pool, page(redis_url, keys), drain, probe))
            await wait_until(lambda: probe.ready, within_s=40)
            await bus.offer(Offer("s", "node", pool, PARAMS))
            frames = [AudioFrame(at // 2, pcm[at : at + 3200]) for at in range(0, len(pcm), 3200)]
            await append(bus, [("s", frame) for frame in frames])
            await append(bus, [("s", Control(Order.TERMINATE, len(pcm) // 2))])
            await wait_until(lambda: told and told[-1].event is Event.DONE, within_s=20)
            drain.set()
            await serving
            listening.cancel()

    run(scenario())
    assert not probe.ready
    [final] = [json.loads(event.text) for event in told if event.final]
    assert final["transcript"] == "hello world"


def test_an_unknown_pool_is_the_operators_fault(
    redis_url: str, keys: Keys, run: Callable[..., Any], probe: Probe
) -> None:
    with pytest.raises(SettingsError, match="there are: english, multilang"):
        run(serve("klingon", page(redis_url, keys), asyncio.Event(), probe))
    assert "english" in POOLS


def test_missing_weights_are_named_with_what_to_run(
    redis_url: str,
    keys: Keys,
    run: Callable[..., Any],
    probe: Probe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="steno models fetch moonshine-tiny-en"):
        run(serve("english", page(redis_url, keys), asyncio.Event(), probe))
    assert not probe.ready


@pytest.mark.parametrize("pool", POOLS)
def test_weights_of_another_kind_are_refused(
    redis_url: str, keys: Keys, run: Callable[..., Any], probe: Probe, tmp_path: Path, pool: str
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "kaldi"}')
    (tmp_path / "model.safetensors").write_bytes(checkpoints.safetensors_file({}))
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0}}}'
    )
    with pytest.raises(WeightsError):
        run(serve(pool, page(redis_url, keys, model=str(tmp_path)), asyncio.Event(), probe))

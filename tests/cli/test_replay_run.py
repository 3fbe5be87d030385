"""A recording run again: what is asked for, what is sent, and what comes of it on a real node."""

import asyncio
import json
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import client, replay_run
from cli.replay_run import CannotRun, Wanted, query, recorded_as, script
from ingress.consent import Record
from ingress.server import Ingress
from ingress.settings import IngressSettings
from tests.fakes import ScriptedWorker
from tests.recorded import EVENTFUL, FACTS, START_S, recording
from wire.archive import Archive
from wire.entries import Order, WorkerLoad
from wire.params import SessionParams, parse_query
from wire.recorded import Audio, Item, Said
from wire.recordings import Recording
from wire.service import Probe

HERE = Wanted("ws://localhost:1", "key")


# ---------------------------------------------------------------------------------------------------------------------
# what is asked for


@pytest.mark.parametrize(
    "model", ["universal-streaming-english", "universal-3-5-pro", "universal-streaming-multilingual"]
)
def test_on_the_recorded_model_all_parameters_are_as_they_were(model):
    params = SessionParams(speech_model=model, max_turn_silence=900, keyterms_prompt=("Ada", "Moonshine"))
    facts = replace(FACTS, params=json.loads(json.dumps(params.for_worker())))
    again = parse_query(list(query(facts, HERE).items()))
    assert again.for_worker() == params.for_worker()


def test_another_model_keeps_its_own_defaults_and_what_the_client_had_asked_for():
    facts = replace(FACTS, params=SessionParams(max_turn_silence=900).for_worker())
    asked = query(facts, replace(HERE, pool="u3pro"))
    again = parse_query(list(asked.items()))
    assert again.pool == "u3pro"
    assert again.max_turn_silence == 900
    assert again.min_turn_silence == SessionParams(speech_model=again.speech_model).min_turn_silence


def test_changes_win():
    wanted = replace(HERE, model="whisper-rt", changes={"min_turn_silence": "77", "language_codes": '["fr"]'})
    again = parse_query(list(query(FACTS, wanted).items()))
    assert (again.speech_model, again.min_turn_silence, again.language_codes) == ("whisper-rt", 77, ("fr",))


@pytest.mark.parametrize(
    "wanted,why",
    [
        (replace(HERE, changes={"webhook_url": "http://x"}), "no parameter webhook_url"),
        (replace(HERE, changes={"vad_threshold": "7"}), "vad_threshold"),
        (replace(HERE, pool="opera"), "no pool 'opera'"),
        (replace(HERE, model="opera"), "not a valid SpeechModel"),
    ],
)
def test_what_no_session_can_have_is_told_before_anything_is_sent(wanted, why):
    with pytest.raises(CannotRun, match=why):
        query(FACTS, wanted)


# ---------------------------------------------------------------------------------------------------------------------
# what is sent


def sound(messages) -> bytes:
    return b"".join(message for _, message in messages if isinstance(message, bytes))


def test_frames_and_messages_come_as_they_came_up_to_terminate():
    messages = script(recording(more=EVENTFUL))
    assert messages[0] == (0.0, recording().frames[0].pcm)
    assert [round(at_s, 2) for at_s, _ in messages[:3]] == [0.0, 0.05, 0.1]
    texts = [json.loads(message)["type"] for _, message in messages if isinstance(message, str)]
    assert texts == ["ForceEndpoint", "UpdateConfiguration"]
    place = [isinstance(message, str) for _, message in messages].index(True)
    assert len(sound(messages[:place])) == 2 * 16_000
    assert sound(messages) == recording().pcm


def test_a_message_that_a_session_does_not_survive_is_left_out():
    more = (Said(START_S + 1, "{broken"), Said(START_S + 1, '{"type": "Opera"}'))
    assert all(isinstance(message, bytes) for _, message in script(recording(more=more)))


@given(st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 3)), min_size=1, max_size=20))
def test_any_frames_are_sent_whole_in_messages_that_are_allowed(shapes):
    items: list[Item] = []
    position = 0
    for number, (samples, said) in enumerate(shapes):
        items.append(Audio(START_S + number, position, bytes([number]) * 2 * min(samples, 16_000)))
        position = items[-1].end  # type: ignore[union-attr]
        if not said:
            items.append(Said(START_S + number, '{"type": "ForceEndpoint"}'))
    found = Recording(FACTS, items=tuple(items))
    messages = script(found)
    assert sound(messages) == found.pcm
    assert all(0 < len(message) <= 32_000 for _, message in messages)
    for (_, message), (_, following) in pairwise(messages):
        if isinstance(message, bytes) and isinstance(following, bytes) and len(following) >= 1_600:
            assert len(message) >= 1_600 or len(message) + len(following) > 32_000 - 1_600


def test_missing_audio_is_silence_and_none_at_all_is_told():
    found = recording()
    items = tuple(item for item in found.items if not isinstance(item, Audio) or item.position)
    assert sound(script(replace(found, items=items))) == bytes(1_600) + found.pcm[1_600:]
    with pytest.raises(CannotRun, match="no audio"):
        script(replace(found, items=()))


# ---------------------------------------------------------------------------------------------------------------------
# on a real node


def test_a_run_sends_what_was_recorded_and_is_recorded_itself(run, bus, redis_url, namespace, wait_until):
    settings = IngressSettings(
        redis_url=redis_url,
        namespace=namespace,
        host="127.0.0.1",
        port=0,
        drain_grace_s=0,
        license_required=False,
        record=Record.ASK,
    )
    notes, heard = list[str](), list[client.Received]()

    async def scenario() -> tuple[Recording, ScriptedWorker]:
        ingress, worker, drain = (
            Ingress(settings, bus, Probe("127.0.0.1", 0)),
            ScriptedWorker(bus),
            asyncio.Event(),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ingress.run(drain))
            await ingress.listening.wait()
            await bus.join("english")
            tasks.create_task(worker.serve())
            await wait_until(lambda: ingress._reach.ready)
            wanted = Wanted(f"ws://127.0.0.1:{ingress.port}/?acknowledge_silence=true", "key", real=False)

            def told(note: str) -> None:  # no place yet: now there is one
                notes.append(note)
                load = WorkerLoad(4, 4, 0, int(time.time()) + 60, "m")
                tasks.create_task(bus.report("english", "w", load))

            again = await replay_run.run(recording(more=EVENTFUL), wanted, heard.append, told)
            archive = Archive(bus)

            async def written() -> bool:
                return all(one.end for one in await archive.listing())

            await wait_until(written)
            assert (await archive.load(again.facts.id)).pcm == recording().pcm
            worker.stop()
            drain.set()
        return again, worker

    again, worker = run(scenario())
    [served] = worker.served.values()
    assert bytes(served.pcm) == recording().pcm
    assert served.orders == [Order.FORCE_ENDPOINT, Order.CONFIGURE, Order.TERMINATE]
    assert served.lease.offer.params["replay"] == b"", "two workers had held it"
    assert "replay" in notes[0]
    assert recorded_as(again) == served.session
    assert [final.fields["transcript"] for final in again.finals] == ["40000 samples"]


def test_a_server_that_is_not_there_is_told(run):
    with pytest.raises(client.SessionFailed, match="nothing answers"):
        run(replay_run.run(recording(), HERE, print, print))

"""A recording as a whole: put together from batches, taken apart for export, and put together again."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import EntryError
from wire.messages import Turn, Word, dump
from wire.recorded import (
    FORMAT,
    Audio,
    Batch,
    Decided,
    Item,
    Published,
    Said,
    SessionEnd,
    SessionFacts,
    Stepped,
    Taken,
    Told,
    TooNew,
)
from wire.recordings import Recording, assemble, from_exported, message_fields, session_fields

FACTS = SessionFacts("some-id", 100.0, "english", {"sample_rate": 16_000}, key="alice", why="key")
PCM = bytes(range(200))
TURN = Turn(0, True, True, "Hello.", 0.9, (Word(0, 40, "Hello.", 0.9, True),))


def recorded() -> Recording:
    audio = [Audio(100.1 + n / 10, 25 * n, PCM[50 * n : 50 * n + 50]) for n in range(4)]
    ingress: list[Item] = [*audio, Said(100.15, '{"type": "ForceEndpoint"}'), Told(100.6, dump(TURN), 1, 1)]
    worker: list[Item] = [
        Taken(100.05, 1, "ada", "moonshine", "12ab", "0.1.0"),
        Stepped(100.3, 1, 100.2, 100.25, 0, 64, 2, 32, 32, (10, 900)),
        Decided(100.5, 1, 0, "silent", 900, 1000, {"silence_ms": 400, "last_word": None}),
        Published(100.55, 1, 1, "FINAL", 100.5, 1000, 0, final=True),
    ]
    return assemble(
        FACTS,
        SessionEnd(101.0, "ended", 6),
        [Batch("ada", 0, tuple(worker)), Batch("ingress", 0, tuple(ingress))],
    )


def exported(recording: Recording) -> tuple[dict, list[dict]]:
    """Through JSON, as files would have it."""
    return json.loads(json.dumps([session_fields(recording), message_fields(recording)]))


def test_items_of_all_writers_come_in_order_of_their_times():
    recording = recorded()
    times = [item.at_s for item in recording.items]
    assert times == sorted(times)
    assert recording.pcm == PCM
    assert not recording.faults
    assert not recording.gaps


def test_what_was_told_is_there_to_look_at():
    recording = recorded()
    [message] = recording.messages
    assert message.is_final
    assert message.fields["transcript"] == recording.transcript == "Hello."
    assert recording.takes[0].digest == "12ab"
    assert recording.decisions[0].rule == "silent"
    assert recording.speech == [(32, 0.01), (64, 0.9)]


def test_text_that_is_no_json_is_a_message_without_fields():
    recording = Recording(FACTS, items=(Told(1.0, "{half"),))
    assert [message.type for message in recording.messages] == [""]


def test_missing_audio_is_silence_at_its_place_and_overlap_counts_once():
    frames = (Audio(1.0, 2, b"\1\1\2\2"), Audio(2.0, 3, b"\2\2\3\3"), Audio(3.0, 7, b"\4\4"))
    recording = Recording(FACTS, items=frames)
    assert recording.pcm == bytes(4) + b"\1\1\2\2\3\3" + bytes(4) + b"\4\4"
    assert recording.gaps == ((0, 2), (5, 7))


def test_missing_parts_are_told_by_writer():
    batches = [Batch("ada", 0, ()), Batch("ada", 3, (), unknown=1, broken=2), Batch("ingress", 0, ())]
    assert assemble(FACTS, None, batches, ["first"]).faults == (
        "first",
        "2 of 4 parts written by ada are missing",
        "1 items were written by a later release, and are passed over",
        "2 items cannot be read",
    )


def test_a_worker_that_has_not_written_of_all_that_was_told_is_named_once_the_session_is_over():
    whole = recorded()
    behind = tuple(item for item in whole.items if not isinstance(item, Published))
    batch = Batch("all", 0, behind)
    assert whole.unexplained == ()
    assert assemble(FACTS, None, [batch]).faults == (), "it is still at it"
    late = assemble(FACTS, whole.end, [batch])
    assert late.faults == ("what ada did last is not written: it has not come to it yet, or died first",)
    assert late.unexplained == tuple(whole.of(Told))
    unheard = Batch("all", 0, tuple(item for item in behind if not isinstance(item, Taken)))
    assert assemble(FACTS, whole.end, [unheard]).faults == (), "a worker without the key writes nothing"


def test_exported_and_loaded_it_is_the_same():
    recording = recorded()
    session, lines = exported(recording)
    assert from_exported(session, lines, recording.pcm) == recording
    assert all("pcm" not in line for line in lines)


@given(st.lists(st.builds(Audio, st.floats(0, 9), st.integers(0, 50), st.just(bytes(10))), max_size=5))
def test_any_audio_survives_export_at_its_place(frames):
    recording = assemble(FACTS, None, [Batch("ingress", 0, tuple(frames))])
    assert from_exported(*exported(recording), recording.pcm) == recording


def test_lines_that_cannot_be_read_are_left_out_and_told():
    session, lines = exported(recorded())
    lines[0]["at_s"] = "when?"
    lines.append({"kind": "unheard of"})
    lines.append({"kind": "audio", "at_s": 1.0, "position": 90, "samples": 50})
    lines.append({"kind": "audio", "at_s": 1.0, "position": -1, "samples": 1})
    loaded = from_exported(session, lines, PCM)
    assert loaded.faults == ("4 lines of messages.jsonl cannot be read",)
    assert loaded.items == recorded().items[1:]


def test_a_folder_of_something_else_is_refused():
    session, lines = exported(replace(recorded(), end=None))
    with pytest.raises(EntryError, match="was not written by"):
        from_exported({"what": "an opera"}, lines, PCM)
    with pytest.raises(EntryError, match="without started_s"):
        from_exported(session | {"facts": {"id": "x"}}, lines, PCM)
    with pytest.raises(TooNew, match="later release"):
        from_exported(session | {"format": FORMAT + 1}, lines, PCM)
    with pytest.raises(TooNew):
        from_exported(session | {"format": None}, lines, PCM)

"""A recording on a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from cli import replay_show
from cli.replay_diff import compare
from tests.recorded import EVENTFUL, FACTS, HELLO, THERE, recording
from wire.archive import Listed
from wire.messages import Word
from wire.recorded import Audio, SessionEnd


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_list_tells_what_is_known_and_why_the_rest_is_not(console):
    end = SessionEnd(1_003.0, "ended", 2_500)
    read = Listed(FACTS.id, 1_000.0, 3 * 2**20, 86_400 * 6, sealed=False, cut=True, facts=FACTS, end=end)
    closed = Listed(
        "77b0", 2_000.0, 2_000, 30, sealed=True, fault="it is encrypted, and RECORD_KEY is not set"
    )
    replay_show.listing([read, closed], console)
    lines = shown(console).splitlines()
    assert lines[1].split()[:4] == ["0f6d7a3e", "1970-01-01", "00:16:40", "00:02.5"]
    assert lines[1].split()[4:] == ["english", "alice", "asked", "3.0", "MB", "6", "d", "ended", "cut"]
    assert lines[2].split()[:3] == ["77b0", "1970-01-01", "00:33:20"]
    assert lines[2].split()[3:] == ["?", "?", "?", "2", "kB", "30", "s", "?", "encrypted"]
    assert lines[3] == "1 of them: it is encrypted, and RECORD_KEY is not set"


def test_an_empty_list_says_how_to_fill_it(console):
    replay_show.listing([], console)
    assert "RECORD" in shown(console)


def test_a_timeline_tells_everything_that_happened(console):
    replay_show.timeline(replace(recording(more=EVENTFUL), faults=("something is missing",)), console)
    text = shown(console)
    for told in (
        "ada: moonshine (12ab34cd56ef), steno 0.1.0",
        "key         alice",
        '    1.000  client     {"type": "ForceEndpoint"}',
        "    1.000  order      FORCE_ENDPOINT at 00:01.0",
        "connection lost",
        "dropped    event 1-9: generation",
        "bob takes it (generation 2, heard again from 00:00.5)",
        "missed     3 items: Redis was too slow",
        "decision   turn 0 ends at 00:00.8: confident (2 words, silence 450 ms (min 400, max 1280), confidence 0.9 ",
        "final      Hello, there.  +70 ms (queued 10, begun 10, stepped 20, published 10, told 20)",
        "partial    Hello,",
        "connection closed 1000 Session Ended",
        "over       ended",
        "not all is here: something is missing",
    ):
        assert told in text
    assert "step " not in text


def test_the_whole_timeline_has_frames_steps_and_events(console):
    replay_show.timeline(recording(), console, whole=True)
    text = shown(console)
    assert "audio      00:00.0 to 00:00.1" in text
    assert "step       00:00.0 to 00:00.1 in 20 ms, 2 sessions" in text
    assert "published  MESSAGE 1-2" in text
    assert "confident (words=2, silence_from_ms=800, silence_until_ms=1250" in text


def test_gaps_and_a_session_without_an_end_are_told(console):
    found = replace(recording(), end=None)
    found = replace(
        found, items=tuple(item for item in found.items if not isinstance(item, Audio) or item.position)
    )
    replay_show.timeline(found, console)
    assert "50 ms of audio are missing at 00:00.0" in shown(console)
    assert "over" not in shown(console)


def test_words_with_the_time_until_they_were_told(console):
    replay_show.word_table(recording(), console)
    lines = [line.split() for line in shown(console).splitlines()]
    assert lines[0] == ["Spoken", "Word", "ms", "queued", "begun", "stepped", "published", "told"]
    assert lines[2] == ["00:00.4", "there.", "70", "10", "10", "20", "10", "20"]


def test_two_transcripts_side_by_side(console):
    moved = Word(THERE.start + 200, THERE.end + 200, "there.", 0.9, True)
    replay_show.comparison(compare(recording(), recording((HELLO, moved))), ("before", "[now]"), console)
    text = shown(console)
    assert "moved    there.    there. (+200 ms)" in text
    assert "missing  Goodbye." in text
    assert "3 words: 1 same, 1 moved, 0 changed, 1 missing, 0 added; error rate 33.33%" in text
    assert "p50                        70      70" in text
    assert "[now]" in text
    assert "the finals differ" in text
    replay_show.comparison(compare(recording(), recording()), ("before", "now"), console)
    assert "the finals are identical" in shown(console)

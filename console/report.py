"""A recording as one page of HTML that needs nothing else: sound, words as they became known, decisions, times.

The page carries its own policy, which lets nothing in and nothing out: one script may run, the one whose hash it names.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from console import drawing, score
from console.markup import Html, h, raw
from console.retold import PHASES, Story
from wire.entries import SAMPLE_RATE
from wire.recordings import Recording

_STATIC = Path(__file__).with_name("static")
_SHEET = (_STATIC / "report.css").read_text()
_SCRIPT = (_STATIC / "report.js").read_text()
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:; base-uri 'none'; "
    f"form-action 'none'; script-src 'sha256-{_HASH}'"
)
#: Where the sound goes once all else is put together: it may be a hundred times as large. No text holds a bare quote.
_NO_SOUND = 'src="data:,"'
#: With more turns than these, a browser lays out only those that are seen.
LONG = 60
_HOW = (
    "Above: the sound, and how likely it is speech. Below, each message is a row. A bar stands where the audio ended "
    "when the client got it; words that are new in it are marked, those that may still change are pale, finals are "
    "bold. A click plays from there."
)


@dataclass(frozen=True)
class Sound:
    """Audio that a browser plays: media type and bytes."""

    kind: str
    data: bytes


def wav(pcm: bytes) -> Sound:
    """16 kHz mono as a WAV file."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt " + form
    return Sound("audio/wav", head + b"data" + struct.pack("<I", len(pcm)) + pcm)


def render(recording: Recording, sound: Sound | None = None) -> str:
    """The page. `sound` is the recording's audio in a smaller form; WAV without one."""
    story, samples = Story(recording), drawing.samples(recording.pcm)
    paper = score.Score(story, samples, drawing.loudest(samples), recording.speech)
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=POLICY),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"Recording {recording.facts.id}"),
        h("style", raw(_SHEET)),
    )
    main = h(
        "main",
        h("header", h("p", "steno recording", cls="what"), h("h1", recording.facts.id)),
        *_facts(recording, story),
        _player() if recording.pcm else h("p", "There is no audio.", cls="empty"),
        paper.whole(),
        _legend(),
        h("section", *_turns(story, paper), id="turns", aria_label="Turns"),
    )
    skip = h("a", "Skip to the turns", cls="skip", href="#turns")
    long = "long" if len(story.turns) > LONG else None
    page = h("html", head, h("body", skip, main, h("script", raw(_SCRIPT)), cls=long), lang="en")
    return f"<!doctype html>\n{page}".replace(_NO_SOUND, f'src="{_source(sound or wav(recording.pcm))}"', 1)


def _turns(story: Story, paper: score.Score) -> Iterator[Html]:
    """Turns, and between them what else happened, in order of time."""
    left = list(story.notes)
    slowest_ms = max((sum(row.phases_ms) for turn in story.turns for row in turn.rows), default=0.0)
    for turn in story.turns:
        before = [note for note in left if note.at_s <= turn.rows[0].at_s]
        left = left[len(before) :]
        yield score.notes(before)
        yield paper.turn(turn, slowest_ms)
    if not story.turns:
        yield h("p", "No words were told.", cls="empty")
    yield score.notes(left)


def _facts(recording: Recording, story: Story) -> Iterator[Html]:
    facts, end, takes = recording.facts, recording.end, recording.takes
    if faults := [
        *recording.faults,
        *(["It had reached its size: what came later is missing."] if end and end.cut else []),
    ]:
        yield h("ul", *(h("li", fault) for fault in faults), cls="faults", aria_label="What is missing")
    told = {
        "Began": datetime.fromtimestamp(facts.started_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "Ended": f"{end.outcome}, after {end.ended_s - facts.started_s:.1f} s" if end else "not recorded",
        "Audio": f"{len(recording.pcm) / 2 / SAMPLE_RATE:.2f} s",
        "Turns": str(len(story.turns)),
        "Pool": facts.pool,
        "Asked for": str(facts.params.get("speech_model", "")),
        "Model": ", ".join(dict.fromkeys(take.model for take in takes)),
        "Weights": ", ".join(dict.fromkeys(take.digest[:16] for take in takes)),
        "Workers": ", ".join(dict.fromkeys(take.worker for take in takes)),
        "Software": facts.software,
        "Key": facts.key,
        "Recorded because": facts.why,
    }
    yield h("dl", *(_pair(name, value) for name, value in told.items() if value), cls="facts")
    params = [
        _pair(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(facts.params.items())
    ]
    if params:
        yield h("details", h("summary", f"{len(params)} parameters"), h("dl", *params, cls="facts small"))


def _pair(name: str, value: str) -> Html:
    return h("div", h("dt", name), h("dd", value))


def _source(sound: Sound) -> str:
    return f"data:{sound.kind};base64,{base64.b64encode(sound.data).decode()}"


def _player() -> Html:
    player = h("audio", id="sound", controls=True, preload="auto", src="data:,")
    return h("div", player, h("output", "0:00.00", id="now", cls="num"), cls="player")


def _legend() -> Html:
    phases = [h("li", h("i", cls=f"p{number}"), phase) for number, phase in enumerate(PHASES.values())]
    way = h("p", "Where the time went, from the arrival of a message's last word to the client:")
    return h("div", h("p", _HOW), way, h("ul", *phases), cls="legend")

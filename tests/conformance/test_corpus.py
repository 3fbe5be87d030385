"""Whole sessions, message by message, as they were recorded in `corpus/`: what a change of ours does to clients.

A recording holds each message that the server sends, in order, with what differs from run to run masked: ids, times,
confidences. Two things depend on how fast the machine is, so each turn is put in a form of its own: how many partials
there are (one line says that there were some), and which of the turn's messages carries its utterance (the final's line
lists all). Finals are word for word. The clips are those that the models hear without an error in either precision
(`tests/golden/`), so that another processor gives the same words.

To record anew, after a change that is meant:

    RECORD_CORPUS=1 .venv/bin/python -m pytest tests/conformance/test_corpus.py
    git diff --word-diff tests/conformance/corpus
"""

import difflib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conversation import Conversation, Message, is_final, is_turn
from tests.speech import FOX, clip_pcm, silence

pytestmark = pytest.mark.weights

CORPUS = Path(__file__).with_name("corpus")
RECORD = os.environ.get("RECORD_CORPUS", "") not in ("", "0")
HELLO = "hello_world.wav"

# ---------------------------------------------------------------------------------------------------------------------
# sessions


def plain(url: str) -> Conversation:
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5))
        return conversation.end()


def formatted(url: str) -> Conversation:
    with Conversation(url, format_turns=True) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5) + clip_pcm(HELLO))
        return conversation.end()


def forced(url: str) -> Conversation:
    """Twice behind speech, and twice where there is nothing to end."""
    with Conversation(url) as conversation:
        for clip in (FOX, HELLO):
            conversation.say(clip_pcm(clip))
            conversation.order("ForceEndpoint")
            conversation.hear_until(is_final)
            conversation.order("ForceEndpoint")
        return conversation.end()


def nobody_speaks(url: str) -> Conversation:
    with Conversation(url) as conversation:
        conversation.say(silence(4))
        conversation.order("ForceEndpoint")
        return conversation.end()


def updated(url: str) -> Conversation:
    """Formatting is switched on between two turns."""
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        conversation.order("UpdateConfiguration", format_turns=True)
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        return conversation.end()


def telephone(url: str) -> Conversation:
    with Conversation(url, sample_rate=8_000) as conversation:
        conversation.say(clip_pcm(FOX, 8_000) + silence(1.5, 8_000))
        return conversation.end()


def refused(url: str) -> Conversation:
    with Conversation(url, sample_rate=4_000) as conversation:
        return conversation.hear_rest()


def whole(url: str) -> Conversation:
    """The U3 family: turns are announced, and each message has all of its turn."""
    with Conversation(url, speech_model="universal-3-6-pro", language_detection=True) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5) + clip_pcm(FOX) + silence(1.5))
        return conversation.end()


SESSIONS: list[Callable[[str], Conversation]] = [
    plain,
    formatted,
    forced,
    nobody_speaks,
    updated,
    telephone,
    refused,
    whole,
]
#: Those of the U3 family, which a stack of its own serves.
PRO = {"whole"}

# ---------------------------------------------------------------------------------------------------------------------
# recordings

#: Key -> what stands for its value.
MASKS = {
    "id": "UUID",
    "expires_at": "UNIX S",
    "start": "MS",
    "end": "MS",
    "confidence": "0..1",
    "language_confidence": "0..1",
    "timestamp": "MS",
    "end_of_turn_confidence": "0..1",
    "session_duration_seconds": "S",
}


def masked(value: Any) -> Any:
    """The message with its masks, keys in the order in which they came."""
    if isinstance(value, dict):
        return {key: MASKS.get(key) or masked(inner) for key, inner in value.items()}
    return [masked(inner) for inner in value] if isinstance(value, list) else value


def recording(messages: list[Message]) -> Iterator[Message]:
    """The messages as they are kept: masked, partials of a turn as one, a turn's utterances with its final."""
    utterances: list[str] = []
    partials = False
    for message in messages:
        if not is_turn(message):
            yield masked(message)
            continue
        utterances += [message["utterance"]] if message["utterance"] else []
        if not is_final(message):
            if not partials:
                told = ("turn_order", "turn_is_formatted", "end_of_turn", "type")
                yield {"partials": "SOME"} | {name: message[name] for name in told}
            partials = True
            continue
        yield masked(message | {"utterance": utterances})
        utterances, partials = [], False


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.__name__)
def test_the_session_is_as_it_was_recorded(request: pytest.FixtureRequest, session):
    conversation = session(request.getfixturevalue("pro_url" if session.__name__ in PRO else "url"))
    lines = [json.dumps(message, ensure_ascii=False) for message in recording(conversation.messages)]
    lines.append(json.dumps({"closed": conversation.close}))
    file = CORPUS / f"{session.__name__}.jsonl"
    if RECORD:
        file.write_text("\n".join(lines) + "\n")
        pytest.skip(f"recorded; read git diff --word-diff {file}")
    recorded = file.read_text().splitlines()
    assert lines == recorded, "\n" + "\n".join(difflib.unified_diff(recorded, lines, "recorded", "now", n=1))


def test_the_corpus_holds_these_sessions_and_no_other():
    assert sorted(file.stem for file in CORPUS.iterdir()) == sorted(each.__name__ for each in SESSIONS)

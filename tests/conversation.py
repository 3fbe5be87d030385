"""A client made of a bare WebSocket, and the rules that every conversation with a server keeps (protocol 3 and 4).

`Conversation` is synchronous and takes nothing for granted: it keeps each frame as it came. `assert_legal` is asked
after every session that ended well, whatever the test was about.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.speech import SAMPLE_RATE, chunks
from wire.speech_models import MODELS, Family
from workers.words import join

Message = dict[str, Any]

#: How long a server may take to say what it must say, in seconds; a slow machine stretches it.
PATIENCE_S = 20.0 * float(os.environ.get("TEST_PATIENCE", "1"))
#: What self-hosted clients send.
AUTHORIZED = {"Authorization": "self-hosted"}


class Conversation:
    """One session's connection. `query` are its parameters, written as Python writes them; `sample_rate` is sent too.

    A context manager; leaving it closes the connection if the server has not.
    """

    def __init__(
        self,
        url: str,
        path: str = "/v3/ws",
        headers: Mapping[str, str] | None = None,
        sample_rate: int | str = SAMPLE_RATE,
        **query: object,
    ) -> None:
        self.asked_s = time.monotonic()
        self.messages: list[Message] = []
        self.frames: list[str | bytes] = []
        self.close: tuple[int, str] | None = None
        self._rate = int(sample_rate) if str(sample_rate).isdecimal() else SAMPLE_RATE
        target = f"{url}{path}?{urlencode({'sample_rate': sample_rate, **query})}"
        self.socket: ClientConnection = connect(
            target, additional_headers=AUTHORIZED if headers is None else headers, proxy=None, max_size=2**20
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # ------------------------------------------------------------------------------------------------- speaking

    def say(self, audio: bytes, chunk_ms: int = 100) -> None:
        """Send audio, as fast as the server takes it."""
        self.send_all(chunks(audio, chunk_ms, self._rate))

    def send_all(self, messages: Iterable[bytes | str]) -> None:
        for message in messages:
            self.socket.send(message)

    def order(self, type: str, **fields: object) -> None:  # noqa: A002 the wire's word for it
        """Send a control message."""
        self.socket.send(json.dumps({"type": type, **fields}))

    # ------------------------------------------------------------------------------------------------- listening

    def hear(self, within_s: float = PATIENCE_S) -> Message | None:
        """The next message; None once the server has closed. Fails when it says nothing for so long."""
        try:
            frame = self.socket.recv(timeout=within_s)
        except TimeoutError:
            pytest.fail(f"nothing for {within_s:g} s after {self.messages[-1:] or 'connecting'}")
        except ConnectionClosed as closed:
            if self.close is None:
                assert closed.rcvd is not None, "the connection was lost without a close frame"
                self.close = (closed.rcvd.code, closed.rcvd.reason)
            return None
        self.frames.append(frame)
        message: Message = json.loads(frame)
        self.messages.append(message)
        return message

    def hear_until(self, wanted: Callable[[Message], object], within_s: float = PATIENCE_S) -> Message:
        """Messages up to the first that is `wanted`; that one. `within_s` holds for all together."""
        deadline = time.monotonic() + within_s
        while (message := self.hear(max(0.0, deadline - time.monotonic()))) is not None:
            if wanted(message):
                return message
        pytest.fail(f"closed with {self.close} before the message came; last was {self.messages[-1:]}")

    def hear_rest(self) -> Self:
        """All messages until the server closes."""
        while self.hear() is not None:
            pass
        return self

    def end(self) -> Self:
        """Terminate, hear the rest, and hold the whole conversation against the rules."""
        self.order("Terminate")
        self.hear_rest()
        assert self.close == (1000, "Session Ended"), f"{self.close} {self.messages[-1:]}"
        assert_legal(self.frames)
        return self

    # ------------------------------------------------------------------------------------------------- what was heard

    @property
    def turns(self) -> list[Message]:
        return [message for message in self.messages if message["type"] == "Turn"]

    @property
    def finals(self) -> list[Message]:
        return [turn for turn in self.turns if turn["end_of_turn"]]

    @property
    def transcript(self) -> str:
        """What was said, from the finals."""
        return " ".join(turn["transcript"] for turn in self.finals)


def is_turn(message: Message) -> bool:
    return message["type"] == "Turn"


def is_final(message: Message) -> bool:
    return is_turn(message) and bool(message["end_of_turn"])


# ---------------------------------------------------------------------------------------------------------------------
# the rules

BEGIN = {"id": str, "expires_at": int, "configuration": dict, "type": str}
TURN = {
    "turn_order": int,
    "turn_is_formatted": bool,
    "end_of_turn": bool,
    "transcript": str,
    "end_of_turn_confidence": float,
    "words": list,
    "utterance": str,
    "type": str,
}
WORD = {"start": int, "end": int, "text": str, "confidence": float, "word_is_final": bool}
LANGUAGE = {"language_code": str, "language_confidence": float}
STARTED = {"timestamp": int, "confidence": float, "type": str}
TERMINATION = {"audio_duration_seconds": int, "session_duration_seconds": int, "type": str}


def assert_legal(frames: Iterable[str | bytes]) -> None:
    """The frames are those of one whole session that ended well. Every rule of protocol 4 on them."""
    kept = list(frames)
    assert all(isinstance(frame, str) for frame in kept), "a binary frame"
    messages: list[Message] = [json.loads(frame) for frame in kept]
    assert all("error" not in message for message in messages)
    assert [message["type"] for message in (messages[0], messages[-1])] == ["Begin", "Termination"]
    told = messages[1:-1]
    turns = [message for message in told if message["type"] == "Turn"]
    _assert_shape(messages[0], BEGIN)
    _assert_shape(messages[-1], TERMINATION)
    _assert_orders(turns)
    _assert_times(turns)
    if MODELS[messages[0]["configuration"]["model"]].family is Family.U3:
        _assert_whole(told)
        return
    assert turns == told
    for turn in turns:
        _assert_turn(turn)
    _assert_words_stand(turns)


def _assert_shape(fields: Message, shape: Mapping[str, type]) -> None:
    """Exactly these keys, with exactly these types: an int is no float and no bool. `type` comes last."""
    assert {name: type(value) for name, value in fields.items()} == shape, fields
    assert list(fields)[-1] == list(shape)[-1], f"order of keys: {list(fields)}"


def _assert_shapes(turn: Message) -> None:
    """A language may be told beside the rest, where an utterance or the turn ends (protocol 4.3)."""
    language = {name: turn[name] for name in LANGUAGE if name in turn}
    assert not language or turn["end_of_turn"] or turn["utterance"], turn
    _assert_shape({name: value for name, value in turn.items() if name not in language}, TURN)
    assert {name: type(value) for name, value in language.items()} in ({}, LANGUAGE)
    assert 0 <= turn["end_of_turn_confidence"] <= 1
    for word in turn["words"]:
        _assert_shape(word, WORD)
        assert 0 <= word["confidence"] <= 1
        assert word["start"] < word["end"], f"zero length: {word}"
        assert word["text"], word
        assert word["text"] == word["text"].strip(), word


def _assert_whole(told: list[Message]) -> None:
    """The U3 family: each turn is announced once, right before its first message, and every message has it whole."""
    announced = None
    open_order = None
    for message in told:
        if message["type"] == "SpeechStarted":
            _assert_shape(message, STARTED)
            assert announced is None, f"announced twice: {message}"
            assert 0 <= message["confidence"] <= 1
            announced = message
            continue
        _assert_shapes(message)
        assert (message["turn_order"] != open_order) == (announced is not None), f"not announced: {message}"
        open_order, announced = message["turn_order"], None
        ended = message["end_of_turn"]
        assert {word["word_is_final"] for word in message["words"]} <= {ended}
        assert message["transcript"] == join([word["text"] for word in message["words"]])
        assert message["utterance"] == (message["transcript"] if ended else "")
        assert message["end_of_turn_confidence"] == (1 if ended else 0)
        assert message["turn_is_formatted"] or not ended
        assert message["words"] or not ended, f"an empty final: {message}"
    assert announced is None, f"announced and never told: {announced}"


def _assert_turn(turn: Message) -> None:
    _assert_shapes(turn)
    final = [word["text"] for word in turn["words"] if word["word_is_final"]]
    pending = turn["words"][len(final) :]
    assert turn["transcript"] == join(final), turn
    assert len(pending) <= 1, f"more than one pending word: {turn}"
    assert not any(word["word_is_final"] for word in pending), f"the pending word is not the last: {turn}"
    if turn["end_of_turn"]:
        assert final, f"an empty final: {turn}"
        assert not pending, turn


def _assert_orders(turns: list[Message]) -> None:
    """0, 1, 2, ...; one end of turn for each, and nothing of a turn after it; no turn is left open."""
    open_order = 0
    for turn in turns:
        assert turn["turn_order"] == open_order, turn
        open_order += turn["end_of_turn"]
    left = turns[-1] if turns else {}
    assert not left or left["end_of_turn"] or not left["words"], f"never ended: {left}"


def _by_turn(turns: list[Message]) -> list[list[Message]]:
    return [list(group) for _, group in itertools.groupby(turns, key=lambda turn: turn["turn_order"])]


def _assert_words_stand(turns: list[Message]) -> None:
    """A final word never changes, in no field; each message has news; formatting is one thing through a turn."""
    for group in _by_turn(turns):
        assert group[0]["words"], (
            f"a turn that begins with nothing: {group[0]}"
        )  # later a word may be taken back
        assert len({turn["turn_is_formatted"] for turn in group}) == 1
        for before, after in itertools.pairwise(group):
            stood = [word for word in before["words"] if word["word_is_final"]]
            assert after["words"][: len(stood)] == stood, f"a final word changed:\n{before}\n{after}"
            assert _news(before) != _news(after) or after["utterance"], f"nothing new:\n{before}\n{after}"


def _news(turn: Message) -> tuple[object, ...]:
    return (turn["transcript"], [word["text"] for word in turn["words"]], turn["end_of_turn"])


def _assert_times(turns: list[Message]) -> None:
    """Within a turn and from turn to turn no word begins before the one before it has ended."""
    spoken = [word for turn in turns if turn["end_of_turn"] for word in turn["words"]]
    for turn in [*turns, {"words": spoken}]:
        for before, after in itertools.pairwise(turn["words"]):
            assert before["end"] <= after["start"], f"words overlap: {before} {after}"

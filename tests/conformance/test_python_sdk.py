"""The official Python SDK, unmodified, against the real stack: its threaded client and its asyncio client."""

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import assemblyai
import pytest
from assemblyai.streaming.v3 import (
    AsyncStreamingClient,
    BeginEvent,
    SpeechModel,
    StreamingClient,
    StreamingClientOptions,
    StreamingError,
    StreamingEvents,
    StreamingParameters,
    StreamingSessionParameters,
    TerminationEvent,
    TurnEvent,
)

from tests.conversation import PATIENCE_S
from tests.speech import BECKETT, FOX, LIGHT, SAMPLE_RATE, assert_heard, chunks, clip_pcm, silence

pytestmark = [
    pytest.mark.weights,
    # The SDK asks websockets for things by their former names.
    pytest.mark.filterwarnings("ignore:ConnectionClosed:DeprecationWarning"),
]

ENGLISH = SpeechModel.universal_streaming_english


@dataclass
class Heard:
    """All that the handlers were called with; `changed` is told of each."""

    begins: list[BeginEvent] = field(default_factory=list)
    turns: list[TurnEvent] = field(default_factory=list)
    terminations: list[TerminationEvent] = field(default_factory=list)
    errors: list[StreamingError] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def listen_to(self, client: Any) -> None:
        for event, into in (
            (StreamingEvents.Begin, self.begins),
            (StreamingEvents.Turn, self.turns),
            (StreamingEvents.Termination, self.terminations),
            (StreamingEvents.Error, self.errors),
        ):
            client.on(event, self._keeper(into))

    def _keeper(self, into: list[Any]) -> Any:
        def keep(_client: object, event: object) -> None:
            with self.changed:
                into.append(event)
                self.changed.notify_all()

        return keep

    def wait_for(self, what: Any) -> None:
        """Until `what()` is true."""
        with self.changed:
            assert self.changed.wait_for(what, PATIENCE_S), f"in vain: {self}"

    @property
    def finals(self) -> list[TurnEvent]:
        return [turn for turn in self.turns if turn.end_of_turn]

    @property
    def transcript(self) -> str:
        return " ".join(turn.transcript for turn in self.finals)


def options(url: str) -> StreamingClientOptions:
    """Recordings come all at once here, so the wait for Termination holds the whole of their recognition."""
    return StreamingClientOptions(api_host=url, api_key="any", terminate_timeout=PATIENCE_S)


def parameters(**more: Any) -> StreamingParameters:
    fields: dict[str, Any] = {"sample_rate": SAMPLE_RATE, "speech_model": ENGLISH}
    return StreamingParameters(**fields | more)


def connected(url: str, **more: Any) -> tuple[StreamingClient, Heard]:
    client, heard = StreamingClient(options(url)), Heard()
    heard.listen_to(client)
    client.connect(parameters(**more))
    return client, heard


def transcribed(url: str, audio: bytes, **more: Any) -> Heard:
    """A whole session of the threaded client."""
    client, heard = connected(url, **more)
    client.stream(chunks(audio))
    client.disconnect(terminate=True)
    return heard


def assert_whole(heard: Heard, clips: str | Iterable[str]) -> None:
    """Begin, partials that grow into finals, Termination, the right words, and no error."""
    assert not heard.errors
    assert len(heard.begins) == 1
    assert len(heard.terminations) == 1
    assert [turn.turn_order for turn in heard.finals] == list(range(len(heard.finals)))
    assert len(heard.turns) > len(heard.finals) > 0
    assert all(word.word_is_final for turn in heard.finals for word in turn.words)
    assert_heard(clips, heard.transcript)


def test_the_sdk_is_the_one_we_promise():
    assert assemblyai.__version__ == "1.8.2"


# ---------------------------------------------------------------------------------------------------------------------
# the threaded client


def test_a_session_from_begin_to_termination(url):
    heard = transcribed(url, clip_pcm(LIGHT))
    assert_whole(heard, LIGHT)
    (begin,), (termination,) = heard.begins, heard.terminations
    assert begin.expires_at > datetime.now(UTC)
    assert begin.configuration is not None
    assert begin.configuration.model == "universal-streaming-english"
    assert begin.configuration.api_version == "2025-05-12"
    assert termination.audio_duration_seconds == round(len(clip_pcm(LIGHT)) / 2 / SAMPLE_RATE)
    assert termination.session_duration_seconds is not None


@pytest.mark.parametrize("format_turns", [True, False])
def test_turns_are_formatted_as_asked(url, format_turns):
    heard = transcribed(url, clip_pcm(FOX), format_turns=format_turns)
    assert_whole(heard, FOX)
    assert {turn.turn_is_formatted for turn in heard.finals} == {format_turns}
    assert heard.transcript[0].isupper() == format_turns
    assert heard.transcript.endswith(".") == format_turns


def test_finals_come_while_the_client_is_still_connected(url):
    client, heard = connected(url)
    client.stream(chunks(clip_pcm(FOX) + silence(1.5)))
    heard.wait_for(lambda: heard.finals)
    client.keep_alive()
    client.disconnect(terminate=True)
    assert_whole(heard, FOX)


def test_a_model_of_the_u3_family(pro_url):
    model = SpeechModel("universal-3-6-pro")
    client, heard = connected(pro_url, speech_model=model, mode="min_latency", language_detection=True)
    started = []
    client.on(StreamingEvents.SpeechStarted, lambda _client, event: started.append(event))
    client.stream(chunks(clip_pcm(LIGHT)))
    client.set_params(StreamingSessionParameters(agent_context="Which season is it?", interruption_delay=0))
    client.disconnect(terminate=True)
    assert_whole(heard, LIGHT)
    assert len(started) == len(heard.finals)
    assert started[0].timestamp < heard.finals[0].words[0].end
    assert all(turn.transcript for turn in heard.turns)
    assert heard.begins[0].configuration is not None
    assert heard.begins[0].configuration.mode == "min_latency"
    assert {turn.language_code for turn in heard.finals} == {"en"}


def test_set_params_changes_where_turns_end(url):
    client, heard = connected(url, end_of_turn_confidence_threshold=0.0, min_turn_silence=160)
    client.set_params(
        StreamingSessionParameters(end_of_turn_confidence_threshold=1.0, max_turn_silence=10_000)
    )
    client.stream(chunks(clip_pcm(BECKETT)))
    client.disconnect(terminate=True)
    assert not heard.errors
    assert len(heard.finals) == 1


def test_set_params_with_what_the_model_does_not_use_is_harmless(url):
    client, heard = connected(url)
    client.set_params(
        StreamingSessionParameters(keyterms_prompt=["fox"], prompt="animals", interruption_delay=5)
    )
    client.stream(chunks(clip_pcm(FOX)))
    client.disconnect(terminate=True)
    assert_whole(heard, FOX)


def test_force_endpoint_ends_the_turn_in_the_middle_of_speech(url):
    client, heard = connected(url)
    two_seconds = 2 * 2 * SAMPLE_RATE
    client.stream(chunks(clip_pcm(LIGHT)[:two_seconds]))
    heard.wait_for(lambda: heard.turns)
    client.force_endpoint()
    heard.wait_for(lambda: heard.finals)
    client.stream(chunks(clip_pcm(LIGHT)[two_seconds:]))
    client.disconnect(terminate=True)
    assert not heard.errors
    assert all(word.start < 2_000 for word in heard.finals[0].words)
    assert_heard(LIGHT, heard.transcript, 0.25)


@pytest.mark.parametrize(
    "wrong, text",
    [
        (
            {"sample_rate": 4_000},
            "User Input Validation Error: Invalid 'sample_rate': Value error, sample_rate must be at least 8,000 Hz",
        ),
        (
            {"vad_threshold": 1.5},
            "User Input Validation Error: Invalid 'vad_threshold': Input should be less than or equal to 1",
        ),
    ],
)
def test_a_bad_parameter_reaches_the_error_handler(url, wrong, text):
    client, heard = connected(url, **wrong)
    heard.wait_for(lambda: heard.errors)
    client.disconnect(terminate=True)
    assert [(error.code, str(error)) for error in heard.errors] == [(3006, text)]
    assert not heard.begins


def test_a_bad_update_reaches_the_error_handler(url):
    client, heard = connected(url)
    client.set_params(StreamingSessionParameters(vad_threshold=7.0))
    heard.wait_for(lambda: heard.errors)
    client.disconnect()
    (error,) = heard.errors
    assert error.code == 3006
    assert "Invalid 'vad_threshold'" in str(error)


def test_leaving_without_terminate_is_no_error(url):
    client, heard = connected(url)
    client.stream(chunks(clip_pcm(FOX)))
    heard.wait_for(lambda: heard.turns)
    client.disconnect()
    assert not heard.errors


def test_a_token_is_as_good_as_a_key(url):
    client, heard = StreamingClient(StreamingClientOptions(api_host=url, token="temporary")), Heard()
    heard.listen_to(client)
    client.connect(parameters())
    client.stream(clip_pcm(FOX)[:32_000])
    client.disconnect(terminate=True)
    assert heard.terminations
    assert not heard.errors


def test_several_clients_at_once(url):
    clips = [FOX, LIGHT, "counting.wav", "before_us.wav"]
    with ThreadPoolExecutor(len(clips)) as threads:
        heards = threads.map(lambda clip: transcribed(url, clip_pcm(clip)), clips)
        for clip, heard in zip(clips, heards, strict=True):
            assert_whole(heard, clip)


# ---------------------------------------------------------------------------------------------------------------------
# the asyncio client


async def transcribed_async(url: str, audio: bytes, **more: Any) -> Heard:
    heard = Heard()
    async with AsyncStreamingClient(options(url)) as client:
        heard.listen_to(client)
        await client.connect(parameters(**more))
        await client.stream(chunks(audio))
    return heard


def test_async_session_from_begin_to_termination(url):
    assert_whole(asyncio.run(transcribed_async(url, clip_pcm(LIGHT), format_turns=True)), LIGHT)


def test_async_orders(url):
    async def session() -> Heard:
        client, heard, final = AsyncStreamingClient(options(url)), Heard(), asyncio.Event()

        async def on_turn(_client: object, turn: TurnEvent) -> None:  # coroutine handlers are awaited
            if turn.end_of_turn:
                final.set()

        heard.listen_to(client)
        client.on(StreamingEvents.Turn, on_turn)
        await client.connect(parameters(end_of_turn_confidence_threshold=0.0, min_turn_silence=160))
        wanted = StreamingSessionParameters(end_of_turn_confidence_threshold=1.0, max_turn_silence=10_000)
        await client.set_params(wanted)
        await client.stream(chunks(clip_pcm(BECKETT)))
        await client.keep_alive()
        await client.force_endpoint()
        async with asyncio.timeout(PATIENCE_S):
            await final.wait()
        await client.disconnect(terminate=True)
        return heard

    heard = asyncio.run(session())
    assert not heard.errors
    assert len(heard.finals) == 1
    assert heard.terminations


def test_async_bad_parameter_reaches_the_error_handler(url):
    async def session() -> Heard:
        client, heard, failed = AsyncStreamingClient(options(url)), Heard(), asyncio.Event()
        heard.listen_to(client)
        client.on(StreamingEvents.Error, lambda _client, _error: failed.set())
        await client.connect(parameters(sample_rate=4_000))
        async with asyncio.timeout(PATIENCE_S):
            await failed.wait()
        await client.disconnect(terminate=True)
        return heard

    heard = asyncio.run(session())
    assert [error.code for error in heard.errors] == [3006]
    assert "sample_rate must be at least 8,000 Hz" in str(heard.errors[0])


def test_async_several_clients_at_once(url):
    clips = [FOX, LIGHT, "counting.wav", "before_us.wav"]

    async def all_at_once() -> list[Heard]:
        return await asyncio.gather(*(transcribed_async(url, clip_pcm(clip)) for clip in clips))

    for clip, heard in zip(clips, asyncio.run(all_at_once()), strict=True):
        assert_whole(heard, clip)

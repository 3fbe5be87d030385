"""`steno replay run`: recorded audio through the live pipeline once more, by a client's connection like any other.

The audio, its pieces, what the client said between them, and when, are those of the recording; model, pool and
parameters are too, unless others are asked for. The session is a replay: it has a place only where there is time for
it, and gives way to others (`ingress/pools.py`).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from cli import client
from wire import strides
from wire.entries import SAMPLE_RATE
from wire.errors import ClientError, Close, StackError
from wire.params import SessionParams, parse_query
from wire.recorded import Audio, Item, Said, SessionFacts, Told
from wire.recordings import Recording
from wire.speech_models import DEFAULT_MODEL, MODELS, POOLS

#: A message holds this much audio, in bytes: less is joined, as far as what the client said between lets it be, and
#: more is refused (protocol 3.1).
LEAST_BYTES, MOST_BYTES = 1_600, 32_000
#: Pause before a replay asks again for a place, in seconds.
AGAIN_S = 2.0

#: What is sent, and when: seconds from the first message on.
Message = tuple[float, bytes | str]


class CannotRun(StackError):
    """The recording cannot be run so; the message says why."""


@dataclass(frozen=True)
class Wanted:
    """What is to differ from the recording. `changes` are parameters as a query has them."""

    endpoint: str
    api_key: str
    pool: str | None = None
    model: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    real: bool = True
    record: bool = True
    patience_s: float = 60.0


def query(facts: SessionFacts, wanted: Wanted) -> dict[str, str]:
    """The parameters of the new session. Raises CannotRun for those that no session may have.

    On the model of the recording, all are as they were. Another model has defaults of its own: only what the client
    had asked for goes with it.
    """
    recorded = str(facts.params.get("speech_model", DEFAULT_MODEL))
    model = _model(recorded, wanted)
    kept = {name: value for name, value in facts.params.items() if name not in ("sample_rate", "encoding")}
    if model != recorded and recorded in MODELS:
        usual = SessionParams(speech_model=recorded).for_worker()
        kept = {name: value for name, value in kept.items() if usual.get(name) != value}
    known = SessionParams().for_worker()
    if unknown := [name for name in wanted.changes if name not in known]:
        raise CannotRun(f"there is no parameter {', '.join(unknown)}; there are: {', '.join(known)}")
    asked = {
        name: _text(value) for name, value in kept.items() if name in known and value not in (None, "", [])
    }
    asked |= {"speech_model": model, "sample_rate": str(SAMPLE_RATE)} | dict(wanted.changes)
    try:
        parse_query(list(asked.items()))
    except ClientError as error:
        raise CannotRun(f"no session can have these parameters: {error.text}") from None
    return asked


def _model(recorded: str, wanted: Wanted) -> str:
    if wanted.model:
        return wanted.model
    if wanted.pool is None or (recorded in MODELS and MODELS[recorded].pool == wanted.pool):
        return recorded
    found = [name for name, model in MODELS.items() if model.pool == wanted.pool]
    if not found:
        raise CannotRun(f"there is no pool {wanted.pool!r}; there are: {', '.join(POOLS)}")
    return found[0]


def _text(value: Any) -> str:
    return (
        str(value)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
        else json.dumps(value)
    )


# ---------------------------------------------------------------------------------------------------------------------
# what is sent


def script(recording: Recording) -> list[Message]:
    """What the client said, up to its Terminate. Raises CannotRun where there is no audio."""
    if not recording.frames:
        raise CannotRun(f"the recording {recording.facts.id} holds no audio to run")
    start_s = next(item.at_s for item in recording.items if isinstance(item, (Audio, Said)))
    messages, waiting, reached = list[Message](), b"", 0

    def send(least: int) -> None:
        nonlocal waiting
        while len(waiting) >= max(least, 1):
            messages.append((at_s, waiting[:MOST_BYTES]))
            waiting = waiting[MOST_BYTES:]

    for item in recording.items:
        at_s = item.at_s - start_s
        if isinstance(item, Audio):
            if waiting and len(waiting) + len(item.pcm) > MOST_BYTES:
                send(1)
            gap = max(0, item.position - reached)
            waiting += bytes(2 * gap) + item.pcm[max(0, 2 * (reached - item.position)) :]
            reached = max(reached, item.end)
            send(LEAST_BYTES)
        elif isinstance(item, Said):
            kind = _type(item.text)
            if kind == "Terminate":
                break
            if kind is not None:
                send(1)
                messages.append((at_s, item.text))
    send(1)
    return messages


def _type(text: str) -> str | None:
    """What kind of message; None for one that a session does not survive."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    known = ("Terminate", "ForceEndpoint", "KeepAlive", "UpdateConfiguration")
    return fields["type"] if isinstance(fields, dict) and fields.get("type") in known else None


class _Again:
    """One run as it goes: what was sent and when, what came, as a recording of the client's side."""

    def __init__(self, real: bool, listener: client.Listener) -> None:
        self.items: list[Item] = []
        self.begin: dict[str, Any] = {}
        self._real = real
        self._listener = listener

    async def audio(self, messages: Iterable[Message]) -> AsyncIterator[bytes | str]:
        start_s, position = time.monotonic(), 0
        for at_s, message in messages:
            await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()) if self._real else 0)
            if isinstance(message, bytes):
                self.items.append(Audio(time.time(), position, message))
                position += len(message) // 2
            yield message

    def hear(self, received: client.Received) -> None:
        if received.fields["type"] == "Begin":
            self.begin = received.fields
        self.items.append(Told(time.time(), received.text))
        self._listener(received)


async def run(
    recording: Recording, wanted: Wanted, listener: client.Listener, tell: Callable[[str], None]
) -> Recording:
    """Run it, and return what the client saw. Raises CannotRun, client.SessionFailed."""
    asked, messages = query(recording.facts, wanted), script(recording)
    told = strides.pack(strides.of(recording))
    deadline_s = time.monotonic() + wanted.patience_s
    while True:
        try:
            return await _once(asked, messages, told, wanted, listener)
        except client.ServerError as error:
            if error.code != Close.TOO_MANY_SESSIONS or time.monotonic() > deadline_s:
                raise
            tell("no place for a replay now: others come first; asking again")
            await asyncio.sleep(AGAIN_S)


async def _once(
    asked: Mapping[str, str],
    messages: Sequence[Message],
    told: str,
    wanted: Wanted,
    listener: client.Listener,
) -> Recording:
    classed = dict(asked) | {"replay": "true", "record": str(wanted.record).lower()}
    if told:
        classed["replay_strides"] = told
    # A Request writes these two itself.
    format_turns, model = classed.pop("format_turns", "false") == "true", classed.pop("speech_model")
    del classed["sample_rate"]
    mark = "&" if "?" in wanted.endpoint else "?"
    request = client.Request(
        f"{wanted.endpoint}{mark}{urlencode(classed)}", wanted.api_key, SAMPLE_RATE, model, format_turns
    )
    again, started_s = _Again(wanted.real, listener), time.time()
    await client.converse(request, again.audio(messages), again.hear)
    facts = SessionFacts(str(again.begin.get("id", "")), started_s, MODELS[model].pool, asked)
    items = sorted(again.items, key=lambda item: item.at_s)
    return Recording(facts, items=tuple(items))


def recorded_as(again: Recording) -> str:
    """The id under which the server recorded the run; "" if it did not."""
    for message in again.messages:
        configuration = message.fields.get("configuration")
        if isinstance(configuration, dict) and configuration.get("recorded"):
            return again.facts.id
    return ""

"""One session of LiveKit's AssemblyAI plugin, as `tests/clients.py` has drivers: job in, speech events out.

Runs in the plugin's own environment. Audio goes in as frames of 50 ms, as from a room. Steps: say, wait, update(options
of `update_options`), force, flush; the end of the steps ends the input. Options are those of `assemblyai.STT`, and
`max_retry`.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import aiohttp
from livekit import rtc
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions, APIError, stt
from livekit.plugins import assemblyai

FRAME_MS = 50

Event = dict[str, Any]


class Session:
    """The plugin's stream, and what it has told so far."""

    def __init__(self, job: dict[str, Any], http: aiohttp.ClientSession) -> None:
        self.job = job
        retries = job["options"].pop("max_retry", DEFAULT_API_CONNECT_OPTIONS.max_retry)
        self.told: list[str] = []
        self.changed = asyncio.Event()
        self.stt = assemblyai.STT(api_key="any", base_url=job["url"], http_session=http, **job["options"])
        self.stt.on("error", lambda error: self.tell("error", text=repr(error.error)))
        self.stream = self.stt.stream(conn_options=APIConnectOptions(max_retry=retries))

    def tell(self, event: str, **fields: Any) -> None:
        self.told.append(event)
        print(json.dumps({"event": event, **fields}), flush=True)
        self.changed.set()

    async def listen(self) -> None:
        try:
            async for event in self.stream:
                self.tell(event.type.removesuffix("_transcript"), **told(event))
        except APIError as error:
            self.tell("failed", text=str(error))

    async def act(self) -> None:
        for what, *arguments in self.job["steps"]:
            match what:
                case "say":
                    self.say(Path(arguments[0]))
                case "wait":
                    await self.wait(*arguments)
                case "update":
                    self.stream.update_options(**arguments[0])
                case "force":
                    self.stream.force_endpoint()
                case "flush":
                    self.stream.flush()
                case other:
                    raise ValueError(other)
        if "failed" not in self.told:
            self.stream.end_input()

    def say(self, file: Path) -> None:
        audio = file.read_bytes()
        rate = self.job["options"].get("sample_rate", 16_000)
        size = 2 * rate * FRAME_MS // 1000
        for start in range(0, len(audio), size):
            frame = audio[start : start + size]
            self.stream.push_frame(rtc.AudioFrame(frame, rate, 1, len(frame) // 2))

    async def wait(self, event: str, count: int) -> None:
        async with asyncio.timeout(self.job["patience_s"]):
            while self.told.count(event) < count:
                self.changed.clear()
                await self.changed.wait()


def told(event: stt.SpeechEvent) -> Event:
    if not event.alternatives:
        return {}
    said = event.alternatives[0]
    return {
        "text": said.text,
        "language": said.language,
        "start_s": said.start_time,
        "end_s": said.end_time,
        "confidence": said.confidence,
        "words": [str(word) for word in said.words or []],
    }


async def main(job: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as http:
        session = Session(job, http)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.listen())
            tasks.create_task(session.act())
        session.tell("session", id=session.stream.session_id, expires_at=session.stream.expires_at)
        await session.stream.aclose()


class Complaints(logging.Handler):
    """What the plugin tells only its log: a message it could not use, a server it waits for."""

    def emit(self, record: logging.LogRecord) -> None:
        print(json.dumps({"event": "complaint", "text": self.format(record)}), flush=True)


logging.basicConfig(level=logging.INFO, stream=sys.stderr)
logging.getLogger("livekit").addHandler(Complaints(logging.WARNING))
asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))

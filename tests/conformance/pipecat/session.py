"""One session of pipecat's AssemblyAI service, as `tests/clients.py` has drivers: job in, frames out.

Runs in pipecat's own environment. The pipeline is pipecat's own voice activity detection before the service, as in a
voice agent without the agent. Audio goes in as frames of 20 ms, as from a transport. Steps: say, wait, settle(fields of
the service's settings). Options are those of the service; `settings` among them is made into its settings.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames import frames
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.services.assemblyai.stt import AssemblyAISTTService
from pipecat.workers.runner import WorkerRunner

FRAME_MS = 20
SAMPLE_RATE = 16_000

#: Frames that are told, by the name they are told under.
TOLD = {
    frames.InterimTranscriptionFrame: "interim",
    frames.TranscriptionFrame: "final",
    frames.VADUserStartedSpeakingFrame: "vad_started",
    frames.VADUserStoppedSpeakingFrame: "vad_stopped",
    frames.ProposedUserStartedSpeakingFrame: "turn_started",
    frames.ProposedUserStoppedSpeakingFrame: "turn_stopped",
}


class Session:
    """A running pipeline, and what it has told so far."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.told: list[str] = []
        self.changed = asyncio.Event()
        options = dict(job["options"])
        settings = AssemblyAISTTService.Settings(**options.pop("settings", {}))
        service = AssemblyAISTTService(
            api_key="any", api_endpoint_base_url=f"{job['url']}/v3/ws", settings=settings, **options
        )
        # A step may wait for the server with speech half said, which to pipecat's clock would be its end after 1 s.
        vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(sample_rate=SAMPLE_RATE), audio_idle_timeout=0)
        self.worker = PipelineWorker(
            Pipeline([vad, service]),
            params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE),
            enable_rtvi=False,
        )
        self.worker.set_reached_downstream_filter(tuple(TOLD))
        self.worker.add_event_handler("on_frame_reached_downstream", self.take)
        self.worker.add_event_handler("on_pipeline_error", self.take_error)
        service.add_event_handler("on_end_of_turn", self.take_end_of_turn)
        service.add_event_handler("on_connected", self.take_connected)

    def tell(self, event: str, **fields: Any) -> None:
        self.told.append(event)
        print(json.dumps({"event": event, **fields}), flush=True)
        self.changed.set()

    async def take(self, _worker: object, frame: frames.Frame) -> None:
        fields = {}
        if isinstance(frame, (frames.TranscriptionFrame, frames.InterimTranscriptionFrame)):
            fields = {"text": frame.text, "language": str(frame.language)}
        if isinstance(frame, frames.TranscriptionFrame):
            fields["finalized"] = frame.finalized
        self.tell(TOLD[type(frame)], **fields)

    async def take_error(self, _worker: object, frame: frames.ErrorFrame) -> None:
        self.tell("error", text=frame.error)

    async def take_end_of_turn(self, _service: object, transcript: str) -> None:
        self.tell("end_of_turn", text=transcript)

    async def take_connected(self, _service: object) -> None:
        self.tell("connected")

    async def act(self) -> None:
        try:
            for what, *arguments in self.job["steps"]:
                match what:
                    case "say":
                        await self.worker.queue_frames(audio_frames(Path(arguments[0])))
                    case "wait":
                        await self.wait(*arguments)
                    case "settle":
                        delta = AssemblyAISTTService.Settings(**arguments[0])
                        await self.worker.queue_frame(frames.STTUpdateSettingsFrame(delta=delta))
                    case other:
                        raise ValueError(other)
        finally:
            await self.worker.queue_frame(frames.EndFrame())

    async def wait(self, event: str, count: int) -> None:
        async with asyncio.timeout(self.job["patience_s"]):
            while self.told.count(event) < count:
                self.changed.clear()
                await self.changed.wait()


def audio_frames(file: Path) -> list[frames.Frame]:
    audio, size = file.read_bytes(), 2 * SAMPLE_RATE * FRAME_MS // 1000
    return [
        frames.InputAudioRawFrame(audio[start : start + size], SAMPLE_RATE, 1)
        for start in range(0, len(audio), size)
    ]


async def main(job: dict[str, Any]) -> None:
    session = Session(job)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(session.worker)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(runner.run())
        tasks.create_task(session.act())
    session.tell("ended")


def complain(message: str) -> None:
    """What pipecat tells only its log, such as a Termination waited for in vain."""
    print(json.dumps({"event": "complaint", "text": message}), flush=True)


logger.remove()
logger.add(sys.stderr, level="DEBUG")
logger.add(complain, level="WARNING", format="{level} {message}")
asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))

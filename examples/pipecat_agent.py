"""pipecat's AssemblyAI service against a server of your own. python pipecat_agent.py talk.wav

The pipeline's own voice activity detection decides where turns end, as pipecat has it for this model.
"""

import asyncio
import os
import sys
import wave

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, InputAudioRawFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.services.assemblyai.stt import AssemblyAISTTService
from pipecat.workers.runner import WorkerRunner


async def main() -> None:
    url = os.environ.get("STENO_URL", "ws://localhost:8080")
    settings = AssemblyAISTTService.Settings(model="universal-streaming-english")
    stt = AssemblyAISTTService(api_key="any", api_endpoint_base_url=f"{url}/v3/ws", settings=settings)
    pipeline = Pipeline([VADProcessor(vad_analyzer=SileroVADAnalyzer(sample_rate=16_000)), stt])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=16_000), enable_rtvi=False)
    worker.set_reached_downstream_filter((TranscriptionFrame,))

    @worker.event_handler("on_frame_reached_downstream")
    async def heard(_worker: object, frame: TranscriptionFrame) -> None:
        print(frame.text)

    async def speak() -> None:
        """As a transport would: in real time, and silent at the end, so that the last turn ends."""
        with wave.open(sys.argv[1]) as wav:
            audio = wav.readframes(wav.getnframes()) + bytes(2 * 16_000 * 2)
        for start in range(0, len(audio), 640):
            await worker.queue_frame(InputAudioRawFrame(audio[start : start + 640], 16_000, 1))
            await asyncio.sleep(0.02)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())


asyncio.run(main())

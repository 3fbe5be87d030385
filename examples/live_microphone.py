"""The microphone into a server until Ctrl-C, and what it says: the protocol by itself.

python live_microphone.py [--endpoint ws://localhost:8080] [--speech-model NAME]
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from urllib.parse import urlencode

from prerecorded_audio_file import show
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SAMPLE_RATE, CHUNK_MS = 16_000, 100


async def listen(endpoint: str, speech_model: str) -> None:
    import sounddevice

    loop, chunks = asyncio.get_running_loop(), asyncio.Queue()

    def put(chunk: bytes | None) -> None:
        loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    async def send() -> None:
        with contextlib.suppress(ConnectionClosed):  # told to whoever receives
            while chunk := await chunks.get():
                await socket.send(chunk)
            await socket.send(json.dumps({"type": "Terminate"}))  # what was said last shall still be heard

    query = {"sample_rate": SAMPLE_RATE, "format_turns": "true"}
    if speech_model:
        query["speech_model"] = speech_model
    url = f"{endpoint}/v3/ws?{urlencode(query)}"
    device = sounddevice.RawInputStream(
        samplerate=SAMPLE_RATE,
        blocksize=SAMPLE_RATE * CHUNK_MS // 1000,
        channels=1,
        dtype="int16",
        callback=lambda data, *_: put(bytes(data)),
    )
    async with (
        connect(url, additional_headers={"Authorization": "self-hosted"}) as socket,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(send())
        loop.add_signal_handler(signal.SIGINT, put, None)
        with device:
            print("speak; Ctrl-C ends")
            async for message in socket:  # until the server closes
                show(json.loads(message))
        put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe the microphone, live.")
    parser.add_argument("--endpoint", default="ws://localhost:8080", help="the server")
    parser.add_argument("--speech-model", default="", help="such as universal-streaming-english")
    try:
        asyncio.run(listen(**vars(parser.parse_args())))
    except* (ImportError, OSError, ConnectionClosed) as failed:
        sys.exit("\n".join(str(error) for error in failed.exceptions))


if __name__ == "__main__":
    main()

"""Plays a file into a server in real time and prints what it says: the protocol by itself.

python prerecorded_audio_file.py --audio-file talk.wav [--endpoint ws://localhost:8080] [--speech-model NAME]
"""

import argparse
import asyncio
import contextlib
import json
import sys
import wave
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

CHUNK_MS = 100


async def send(socket: ClientConnection, recording: wave.Wave_read) -> None:
    """The audio at the pace at which it was spoken, then that it is over."""
    with contextlib.suppress(ConnectionClosed):  # told to whoever receives
        while chunk := recording.readframes(recording.getframerate() * CHUNK_MS // 1000):
            await socket.send(chunk)
            await asyncio.sleep(CHUNK_MS / 1000)
        await socket.send(json.dumps({"type": "Terminate"}))


def show(message: dict) -> None:
    """Turns grow on one line; one that has ended stays."""
    match message["type"]:
        case "Begin":
            print(f"session {message['id']}")
        case "Turn" if message["end_of_turn"]:
            print(f"\r\033[K{message['transcript']}")
        case "Turn":
            print(f"\r\033[K{' '.join(word['text'] for word in message['words'])}", end="", flush=True)
        case "Termination":
            print(
                f"{message['audio_duration_seconds']} s of audio in {message['session_duration_seconds']} s"
            )
        case "Error":
            print(f"refused: {message['error']} ({message['error_code']})", file=sys.stderr)


async def transcribe(audio_file: str, endpoint: str, speech_model: str) -> None:
    with wave.open(audio_file) as recording:
        query = {"sample_rate": recording.getframerate(), "format_turns": "true"}
        if speech_model:
            query["speech_model"] = speech_model
        headers = {"Authorization": "self-hosted"}
        async with (
            connect(f"{endpoint}?{urlencode(query)}", additional_headers=headers) as socket,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(send(socket, recording))
            async for message in socket:  # until the server closes
                show(json.loads(message))


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe a 16-bit mono WAV file, live.")
    parser.add_argument("--audio-file", default="example_audio_file.wav", help="16-bit PCM, mono")
    parser.add_argument("--endpoint", default="ws://localhost:8080", help="the server")
    parser.add_argument("--speech-model", default="", help="such as universal-streaming-english")
    try:
        asyncio.run(transcribe(**vars(parser.parse_args())))
    except* (OSError, wave.Error, ConnectionClosed) as failed:
        sys.exit("\n".join(str(error) for error in failed.exceptions))


if __name__ == "__main__":
    main()
